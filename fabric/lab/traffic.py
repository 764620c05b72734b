"""Traffic to send across: a file over TCP, steady pings, multicast, and raw Ethernet frames.

All of it by ordinary sockets made inside the hosts' namespaces; what is measured is what programs there would see.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fabric.lab.namespace import LabError
from fabric.lab.program import Program
from fabric.lab.site import Host

CHUNK_BYTES = 1 << 18
_SO_MAX_PACING_RATE = 47
"""As in Linux' asm-generic/socket.h; Python has no name for it."""
ETHERTYPE_EXPERIMENT = 0x88B5
"""IEEE 802 local experimental ethertype 1: nothing in any kernel answers to it."""
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_ALL = 0x0003
SOL_PACKET, PACKET_AUXDATA = 263, 8
AUXDATA = struct.Struct("=IIIHHHH")
"""status, length, captured length, offset of the frame, offset of the packet, VLAN tag, its ethertype"""


# -- a file over TCP --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transferred:
    """What became of a file: its length, how long it took, and its SHA-256 at both ends."""

    length_bytes: int
    seconds: float
    digest_sent: str
    digest_received: str

    @property
    def intact(self) -> bool:
        return self.digest_sent == self.digest_received

    @property
    def mbit_per_s(self) -> float:
        return self.length_bytes * 8 / self.seconds / 1e6


class Transfer:
    """A file of `length_bytes` random bytes on its way from one host to another, over one TCP connection.

    With `bytes_per_s` the sender's kernel paces it; without, it takes what there is, and so fills some queue until
    frames are dropped, of others too.
    """

    def __init__(
        self,
        sender: Host,
        receiver: Host,
        address: str,
        length_bytes: int,
        directory: Path,
        bytes_per_s: int | None = None,
    ) -> None:
        self.length_bytes, self._address = length_bytes, address
        self._source, self._target = (directory / f"file-{sender.name}-{receiver.name}.{end}" for end in ("out", "in"))
        _write_random(self._source, length_bytes)
        self.received_bytes = 0
        self._failure: Exception | None = None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = receiver.namespace.inside(lambda: socket.create_server((address, 0), family=family))
        self._listener.settimeout(10)
        self._socket = sender.namespace.inside(lambda: socket.socket(family, socket.SOCK_STREAM))
        self._socket.settimeout(30)
        if bytes_per_s is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, bytes_per_s)
        self.started = time.monotonic()
        self.seconds = 0.0
        self._threads = [threading.Thread(target=self._guard, args=(act,)) for act in (self._receive, self._send)]
        for thread in self._threads:
            thread.start()

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as error:
            self._failure = error

    def _send(self) -> None:
        with self._socket, self._source.open("rb") as file:
            self._socket.connect(self._listener.getsockname()[:2])
            self._socket.sendfile(file)

    def _receive(self) -> None:
        with self._listener:
            connection, _ = self._listener.accept()
        connection.settimeout(30)
        with connection, self._target.open("wb") as file:
            while chunk := connection.recv(CHUNK_BYTES):
                file.write(chunk)
                self.received_bytes += len(chunk)
        self.seconds = time.monotonic() - self.started

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def finish(self, timeout_s: float = 60.0) -> Transferred:
        """Waits for the end. LabError if it failed or takes too long."""
        for thread in self._threads:
            thread.join(timeout_s)
        if self._failure is not None or self.running:
            reason = self._failure or f"{self.received_bytes} of {self.length_bytes} bytes after {timeout_s:g} s"
            raise LabError(f"the file to {self._address} did not arrive: {reason}")
        return Transferred(self.length_bytes, self.seconds, _digest(self._source), _digest(self._target))


def _write_random(path: Path, length_bytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(0, length_bytes, CHUNK_BYTES):
            file.write(os.urandom(CHUNK_BYTES))
        file.truncate(length_bytes)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- steady pings -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    sent: int
    received: int

    @property
    def lost(self) -> int:
        return self.sent - self.received


class Pings:
    """The system's ping, at a steady pace until `finish`: a hole in the answers is a hole in the connection."""

    def __init__(self, host: Host, address: str, interval_s: float = 0.1) -> None:
        words = ("ping", "-n", "-D", "-i", f"{interval_s:g}", address)
        self._program: Program = host.start(*words, log=f"ping-{host.name}-{address}-{time.monotonic_ns()}.log")

    def finish(self) -> Answered:
        """Stops, a moment after the last answer may have come, and counts."""
        time.sleep(0.3)
        os.kill(self._program.pid, signal.SIGINT)
        self._program.wait()
        found = re.search(r"(\d+) packets transmitted, (\d+) received", self._program.output())
        if found is None:
            raise LabError(f"ping said nothing of what it counted: {self._program.output()[-200:]}")
        sent, received = int(found[1]), int(found[2])
        # The last one may still be on its way when the signal comes.
        return Answered(sent - 1 if sent == received + 1 else sent, received)

    def answers_unix(self) -> list[float]:
        """When each answer so far came, in seconds since 1970."""
        return [float(found) for found in re.findall(r"^\[(\d+\.\d+)\].*bytes from", self._program.output(), re.M)]

    def await_answer(self, since_unix: float, within_s: float) -> float:
        """Returns when a ping sent after `since_unix` is answered: how many seconds after. LabError if none is."""
        deadline = since_unix + within_s
        while True:
            answers = re.findall(r"^\[(\d+\.\d+)\].*bytes from.*time=([\d.]+) ms", self._program.output(), re.M)
            later = [float(when) for when, took_ms in answers if float(when) - float(took_ms) / 1e3 > since_unix]
            if later:
                return later[0] - since_unix
            if time.time() > deadline:
                raise LabError(f"no answer within {within_s:g} s")
            time.sleep(0.02)

    def longest_gap_s(self) -> float:
        """The longest time between two answers, so far."""
        pairs = itertools.pairwise(self.answers_unix())
        return max((later - earlier for earlier, later in pairs), default=float("inf"))


# -- multicast and broadcast ------------------------------------------------------------------------------------


def multicast_listener(host: Host, own: str, group: str, port: int) -> socket.socket:
    """A socket on the host that has joined `group` on the network where it has the address `own`."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((group, port))
        made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton(own))
        made.settimeout(2)
        return made

    return host.namespace.inside(make)


def multicast_sender(host: Host, own: str) -> socket.socket:
    """A socket on the host whose multicast and broadcast go out on the network where it has the address `own`."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.bind((own, 0))
        return made

    return host.namespace.inside(make)


# -- raw frames -------------------------------------------------------------------------------------------------


def raw_socket(host: Host, device: str, ethertype: int = ETHERTYPE_EXPERIMENT) -> socket.socket:
    """A packet socket on `device` that sends whole frames and receives those of one ethertype."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
        made.bind((device, ethertype))
        made.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        made.settimeout(2)
        return made

    return host.namespace.inside(make)


def frame(destination: str, source: str, payload: bytes, ethertype: int = ETHERTYPE_EXPERIMENT) -> bytes:
    """An Ethernet frame; addresses as `02:fa:...`."""
    return _mac(destination) + _mac(source) + struct.pack("!H", ethertype) + payload


def tagged_frame(destination: str, source: str, vlan: int, payload: bytes) -> bytes:
    """The same inside an 802.1Q tag."""
    inner = struct.pack("!HH", vlan, ETHERTYPE_EXPERIMENT) + payload
    return frame(destination, source, inner, ETHERTYPE_VLAN)


def received_in_vlan(listener: socket.socket, wanted: bytes, within_s: float = 2.0) -> int | None:
    """The 802.1Q tag (0: none) of the frame with `wanted` that comes in on a packet socket; None if none comes.

    Kernels take the tag out of the frame before anybody sees it, and tell it beside (packet(7), PACKET_AUXDATA), but
    only to sockets that hear every ethertype: those are told before the tag is used up.
    """
    deadline = time.monotonic() + within_s
    with contextlib.suppress(TimeoutError):
        while (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            data, beside, _, _ = listener.recvmsg(65_535, 256)
            if wanted in data:
                tags = [AUXDATA.unpack_from(value)[5] for level, kind, value in beside if kind == PACKET_AUXDATA]
                return int(tags[0]) & 0xFFF
    return None


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def received(listener: socket.socket, wanted: bytes, within_s: float = 2.0) -> bool:
    """Whether something that contains `wanted` comes in on a socket in time."""
    deadline = time.monotonic() + within_s
    with contextlib.suppress(TimeoutError):
        while (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            if wanted in listener.recv(65_535):
                return True
    return False
