"""Two lanes, or more, joined by their datagrams: frames in at one end, frames out at the other."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv6Address

from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Port, SessionKeys
from fabric.dataplane.reference import ReferenceLane
from fabric.wire.address import Address

Datagram = tuple[bytes, tuple[str, int]]
Ip = IPv4Address | IPv6Address
PAYLOAD_LIMIT = 1472
_indices = itertools.count(1000)


class End:
    """An endpoint `number`, with the MAC and addresses that the authority would give it."""

    def __init__(self, number: int) -> None:
        self.name = f"end-{number}.test"
        self.addresses: tuple[Ip, Ip] = (
            IPv4Address("100.64.0.0") + number,
            IPv6Address("fd00::") + number,
        )
        self.mac = b"\x02\xfa" + self.addresses[0].packed
        self.underlay = Address(f"192.0.2.{number}", 40_000 + number)
        self.source = (self.underlay.ip, self.underlay.port)
        self.lane = ReferenceLane(self.mac, self.addresses)

    @property
    def ipv4(self) -> bytes:
        return self.addresses[0].packed

    @property
    def ipv6(self) -> bytes:
        return self.addresses[1].packed

    def port(self, *, bridge: bool = False) -> Port:
        return Port(self.mac, self.addresses, bridge)

    def take(self) -> list[Datagram]:
        """What it sends, each datagram with this end's address as its source."""
        return [(payload, self.source) for payload, _ in self.lane.take_datagrams()]


def key_pair(one: End, other: End, suite: Suite = Suite.CHACHA20_POLY1305) -> tuple[SessionKeys, SessionKeys]:
    """Returns fresh keys: those of `one`, then those of `other`."""
    mine, theirs = next(_indices), next(_indices)
    first, second = mine.to_bytes(32), theirs.to_bytes(32)
    return (
        SessionKeys(other.name, mine, theirs, suite, first, second),
        SessionKeys(one.name, theirs, mine, suite, second, first),
    )


def meet(
    one: End, other: End, *, limit: int = PAYLOAD_LIMIT, suite: Suite = Suite.CHACHA20_POLY1305, bridge: bool = False
) -> tuple[int, int]:
    """Makes each a port of the other with a live session; returns their session's index at each."""
    keys = key_pair(one, other, suite)
    for here, there, its in ((one, other, keys[0]), (other, one, keys[1])):
        here.lane.admit(there.name, there.port(bridge=bridge))
        here.lane.install(its, awaiting=False)
        here.lane.promote(its.local_index)
        here.lane.steer(there.name, there.underlay, limit)
    return keys[0].local_index, keys[1].local_index


def pair(**options: object) -> tuple[End, End]:
    one, other = End(1), End(2)
    meet(one, other, **options)  # type: ignore[arg-type]
    return one, other


def frame(one: End, other: End, payload: bytes = b"", *, ethertype: int = 0x88B5) -> bytes:
    """A unicast frame of a kind that only the MAC check looks at."""
    return other.mac + one.mac + ethertype.to_bytes(2) + payload


def ipv4(one: End, other: End, length: int = 1400, *, protocol: int = 6) -> bytes:
    """A frame with an IPv4 packet of `length` bytes in all."""
    head = b"\x45\x00" + length.to_bytes(2) + bytes(5) + bytes((protocol, 0, 0)) + one.ipv4 + other.ipv4
    return other.mac + one.mac + b"\x08\x00" + head.ljust(length, b"\x5a")


def carry(one: End, other: End, frames: list[bytes], now: float = 0.0) -> list[bytes]:
    """Returns what comes out at `other`."""
    one.lane.handle_frames(frames, now)
    assert other.lane.handle_datagrams(one.take(), now) == []
    return other.lane.take_frames()
