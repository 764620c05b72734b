"""Somebody on the internet who records what passes, as it would be on a wire.

Between namespaces kernels hand packets over in runs, each of which a real card would cut: so does the wiretap.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from fabric.lab import card
from fabric.lab.namespace import Namespace
from fabric.lab.site import Site
from fabric.lab.traffic import ETHERTYPE_ALL

if TYPE_CHECKING:
    from fabric.lab.world import Lab

ETHERNET_BYTES = 14
ETHERTYPE_IPV4 = 0x0800
STUN_COOKIE = bytes.fromhex("2112a442")
BUFFER_BYTES = 64 << 20
LONGEST_RUN_BYTES = 70_000
SO_RCVBUFFORCE = 33
SOL_PACKET, PACKET_VNET_HDR = 263, 15


@dataclass(frozen=True, slots=True)
class Overheard:
    """An IPv4 UDP datagram on its way."""

    source: str
    target: str
    target_port: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Passed:
    """An IPv4 packet that passed: whose, for whom, and how long it was with its headers."""

    source: str
    target: str
    length: int
    is_udp: bool
    is_stun: bool


class Ear:
    """Records every frame at a device while the block lasts."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        self._frames: list[bytes] = []
        self._uncut: deque[bytes] = deque()
        self.runs = 0
        """How many of what was recorded came as one and had to be cut."""
        self._socket = namespace.inside(lambda: _listen(device))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _record(self) -> None:
        """Takes what there is, until told to stop and nothing is left."""
        while True:
            try:
                self._uncut.append(self._socket.recv(LONGEST_RUN_BYTES))
            except TimeoutError:
                if self._stop.is_set():
                    return

    @property
    def frames(self) -> list[bytes]:
        """What was recorded so far, frame by frame: cut only now, for while it comes there is no time to lose."""
        while self._uncut:
            cut = card.finish(self._uncut.popleft())
            self.runs += len(cut) > 1
            self._frames += cut
        return self._frames

    def heard(self, words: bytes) -> bool:
        return any(words in frame for frame in self.frames)

    def passed(self) -> list[Passed]:
        """All IPv4 packets that were recorded."""
        return [_passed(frame) for frame in self.frames if struct.unpack_from("!H", frame, 12)[0] == ETHERTYPE_IPV4]

    def fragments(self) -> int:
        """How many of the recorded frames are pieces of a longer IP packet."""
        return sum(map(_is_fragment, self.frames))

    def datagrams(self) -> list[Overheard]:
        """What was recorded of UDP over IPv4."""
        return [found for frame in self.frames if (found := _udp(frame)) is not None]


class Wiretap(Ear):
    """Records every frame on the internet's line to a site while the block lasts."""

    def __init__(self, lab: Lab, site: Site) -> None:
        super().__init__(lab.internet, site.upstream_device)


def _listen(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ALL))
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.bind((device, ETHERTYPE_ALL))
    with suppress(OSError):  # inside a user namespace the default has to do
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    made.settimeout(0.05)
    return made


def _is_fragment(frame: bytes) -> bool:
    """IPv4: more to come, or not the first (RFC 791). IPv6: a fragment header first (RFC 8200 section 4.5)."""
    match struct.unpack_from("!H", frame, 12)[0]:
        case 0x0800:
            return int.from_bytes(frame[ETHERNET_BYTES + 6 : ETHERNET_BYTES + 8]) & 0x3FFF != 0
        case 0x86DD:
            return frame[ETHERNET_BYTES + 6] == socket.IPPROTO_FRAGMENT
        case _:
            return False


def _passed(frame: bytes) -> Passed:
    packet = frame[ETHERNET_BYTES:]
    source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
    is_udp = packet[9] == socket.IPPROTO_UDP
    payload = packet[(packet[0] & 15) * 4 + 8 :]
    is_stun = is_udp and payload[0] < 4 and payload[4:8] == STUN_COOKIE
    return Passed(source, target, int.from_bytes(packet[2:4]), is_udp, is_stun)


def _udp(frame: bytes) -> Overheard | None:
    packet = frame[ETHERNET_BYTES:]
    if struct.unpack_from("!H", frame, 12)[0] != ETHERTYPE_IPV4 or packet[9] != socket.IPPROTO_UDP:
        return None
    header = (packet[0] & 15) * 4
    port, length = struct.unpack_from("!HH", packet, header + 2)
    source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
    return Overheard(source, target, port, packet[header + 8 : header + length])
