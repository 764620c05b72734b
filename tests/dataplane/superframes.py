"""Super-frames as a kernel makes them, and the plain frames that they stand for: both built by scapy."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import IPv4Address

from scapy.layers.inet import IP, TCP, UDP, IPOption_Router_Alert, in4_pseudoheader
from scapy.layers.inet6 import IPv6, in6_pseudoheader
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import checksum

from fabric.wire.vnet import (
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    NEEDS_CSUM,
    VnetHeader,
    encode_vnet,
)

TIMESTAMP = [("NOP", None), ("NOP", None), ("Timestamp", (3_141_592, 653_589))]
NETWORK = IPv4Address("10.0.0.0")
"""Streams go from end 1 to end 2 of it, see `pair`."""

HDR_LEN_OF_A_KERNEL = 222
"""Not the length of the headers: a kernel tells that of its linear buffer."""


@dataclass(frozen=True)
class Stream:
    """`length` bytes of payload under one set of headers; `flags` are those of TCP, as scapy writes them."""

    is_udp: bool = False
    is_ipv6: bool = False
    tags: int = 0
    flags: str = "PA"
    length: int = 10_000
    gso_size: int = 1000
    sequence: int = 0xFFFF_F000
    identification: int = 0xFFFC
    has_options: bool = False
    seed: int = 1
    source_mac: str = "02:fa:0a:00:00:01"
    destination_mac: str = "02:fa:0a:00:00:02"
    ipv4: tuple[str, str] = ("10.0.0.1", "10.0.0.2")
    ipv6: tuple[str, str] = ("fd00::1", "fd00::2")

    @cached_property
    def payload(self) -> bytes:
        return random.Random(self.seed).randbytes(self.length)

    @property
    def is_ecn(self) -> bool:
        return not self.is_udp and "C" in self.flags

    @cached_property
    def headers(self) -> int:
        return len(bytes(self._layers(0, 0)))

    @cached_property
    def transport_at(self) -> int:
        return self.headers - len(bytes(self._layers(0, 0)[UDP if self.is_udp else TCP]))

    @property
    def gso_type(self) -> int:
        if self.is_udp:
            return GSO_UDP
        return (GSO_TCPV6 if self.is_ipv6 else GSO_TCPV4) | (GSO_ECN if self.is_ecn else 0)

    @property
    def csum_offset(self) -> int:
        return 6 if self.is_udp else 16

    def vnet(self, *, hdr_len: int = HDR_LEN_OF_A_KERNEL) -> bytes:
        """The vnet header before the whole."""
        header = VnetHeader(NEEDS_CSUM, self.gso_type, hdr_len, self.gso_size, self.transport_at, self.csum_offset)
        return encode_vnet(header)

    def whole(self) -> bytes:
        """The super-frame, its checksum that of the pseudo-header only."""
        return self.partial(0, self.length)

    def partial(self, start: int, end: int) -> bytes:
        """One frame with the payload from `start` to `end`, its checksum as yet that of the pseudo-header only."""
        frame = bytearray(self.plain(start, end))
        at = self.transport_at + self.csum_offset
        frame[at : at + 2] = self._pseudo_sum(len(frame) - self.transport_at).to_bytes(2)
        return bytes(frame)

    def plain(self, start: int, end: int, segments_before: int | None = None) -> bytes:
        """One frame with the payload from `start` to `end`, after that many segments, all its checksums true."""
        before = start // self.gso_size if segments_before is None else segments_before
        flags = self.flags
        if start > 0:
            flags = flags.replace("C", "")
        if end < self.length:
            flags = flags.replace("P", "").replace("F", "")
        return bytes(self._layers(start, before, flags) / Raw(self.payload[start:end]))

    def segments(self, start: int = 0, end: int | None = None) -> list[bytes]:
        """What a kernel cuts the payload from `start` to `end` into."""
        end = self.length if end is None else end
        starts = range(start, end, self.gso_size)
        before = start // self.gso_size
        return [self.plain(at, min(at + self.gso_size, end), before + i) for i, at in enumerate(starts)]

    def like(self, **changes: object) -> Stream:
        return replace(self, **changes)  # type: ignore[arg-type]

    def _layers(self, start: int, segments_before: int, flags: str = "A") -> Packet:
        layers = Ether(src=self.source_mac, dst=self.destination_mac)
        for index in range(self.tags):
            layers /= Dot1AD(vlan=7) if index < self.tags - 1 else Dot1Q(vlan=42)
        layers /= self._ipv6() if self.is_ipv6 else self._ipv4(segments_before)
        if self.is_udp:
            return layers / UDP(sport=4000, dport=5000)
        sequence = (self.sequence + start) % 2**32
        options = TIMESTAMP if self.has_options else []
        return layers / TCP(sport=4000, dport=5000, seq=sequence, ack=9, flags=flags, window=500, options=options)

    def _ipv6(self) -> IPv6:
        source, destination = self.ipv6
        return IPv6(src=source, dst=destination, hlim=63, fl=0x12345, tc=2)

    def _ipv4(self, segments_before: int) -> IP:
        options = [IPOption_Router_Alert()] if self.has_options else []
        number = (self.identification + segments_before) % 2**16
        source, destination = self.ipv4
        return IP(src=source, dst=destination, id=number, ttl=63, flags="DF", tos=2, options=options)

    def _pseudo_sum(self, length: int) -> int:
        protocol = 17 if self.is_udp else 6
        if self.is_ipv6:
            whole = in6_pseudoheader(protocol, self._ipv6(), length)  # type: ignore[arg-type]  # scapy says IP, takes IPv6
            return checksum(bytes(whole)) ^ 0xFFFF
        return checksum(in4_pseudoheader(protocol, self._ipv4(0), length)) ^ 0xFFFF
