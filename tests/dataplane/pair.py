"""Two lanes, or more, joined by their datagrams: frames in at one end, frames out at the other."""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Protocol, TypedDict, Unpack

from fabric.crypto.aead import Suite, cipher
from fabric.dataplane.contract import Lane, Port, SessionKeys
from fabric.dataplane.native import NativeLane
from fabric.dataplane.reference import ReferenceLane
from fabric.dataplane.session import data_prefix
from fabric.shell.flood_guard import WatchedLane
from fabric.shell.lanes import choose_lane
from fabric.shell.pump import HotLane
from fabric.wire.address import Address
from fabric.wire.vnet import NO_VNET, VNET_BYTES

Datagram = tuple[bytes, tuple[str, int]]
Ip = IPv4Address | IPv6Address
PAYLOAD_LIMIT = 1472
NETWORK = IPv4Address("100.64.0.0")
FORGED_FROM = 4096
"""The counters of what a test seals itself: other than a lane's own, and within one replay window with them."""

_indices = itertools.count(1000)


class WholeLane(Lane, HotLane, WatchedLane, Protocol):
    """What core, the pump and the guard against floods may ask of a lane: an `End` takes each."""


LaneMaker = Callable[[bytes, Sequence[Ip]], WholeLane]


def native_lane(mac: bytes, addresses: Sequence[Ip]) -> NativeLane:
    """Raises `ConfigurationError` where it was not built."""
    lane = choose_lane("native", mac, addresses).lane
    assert isinstance(lane, NativeLane)
    return lane


class End:
    """An endpoint `number`, with the MAC and addresses that the authority would give it in a `network`.

    Its lane is what `make_lane` makes: the reference lane, unless a test runs over each of them (`each_lane`).
    """

    make_lane: ClassVar[LaneMaker] = ReferenceLane

    def __init__(self, number: int, network: IPv4Address = NETWORK, make_lane: LaneMaker | None = None) -> None:
        self.name = f"end-{number}.test"
        self.addresses: tuple[Ip, Ip] = (
            network + number,
            IPv6Address("fd00::") + number,
        )
        self.mac = b"\x02\xfa" + self.addresses[0].packed
        self.underlay = Address(f"192.0.2.{number}", 40_000 + number)
        self.source = (self.underlay.ip, self.underlay.port)
        self.keys: dict[int, SessionKeys] = {}
        self._counters: dict[int, itertools.count[int]] = defaultdict(lambda: itertools.count(FORGED_FROM))
        self.lane = (make_lane or type(self).make_lane)(self.mac, self.addresses)

    @property
    def ipv4(self) -> bytes:
        return self.addresses[0].packed

    @property
    def ipv6(self) -> bytes:
        return self.addresses[1].packed

    def port(self, *, bridge: bool = False) -> Port:
        return Port(self.mac, self.addresses, bridge)

    def forge(self, local_index: int, plain: bytes) -> bytes:
        """Returns what this end could send under that session, whatever `plain` is."""
        return sealed(self.keys[local_index], next(self._counters[local_index]), plain)

    def send(self, frames: Sequence[bytes], now: float = 0.0) -> None:
        """Gives its lane plain frames, as they come from a kernel that leaves nothing undone."""
        self.lane.handle_frames([NO_VNET + each for each in frames], now)

    def received(self) -> list[bytes]:
        """Returns the frames that its lane has for it, all of which are plain."""
        items = self.lane.take_frames()
        assert all(item[:VNET_BYTES] == NO_VNET for item in items)
        return [item[VNET_BYTES:] for item in items]

    def take(self) -> list[Datagram]:
        """What it sends, each datagram with this end's address as its source."""
        return [(payload, self.source) for payload, _ in self.lane.take_datagrams()]


def key_pair(one: End, other: End, suite: Suite = Suite.CHACHA20_POLY1305) -> tuple[SessionKeys, SessionKeys]:
    """Returns fresh keys: those of `one`, then those of `other`."""
    mine, theirs = next(_indices), next(_indices)
    first, second = mine.to_bytes(32), theirs.to_bytes(32)
    one.keys[mine] = SessionKeys(other.name, mine, theirs, suite, first, second)
    other.keys[theirs] = SessionKeys(one.name, theirs, mine, suite, second, first)
    return one.keys[mine], other.keys[theirs]


@functools.lru_cache(maxsize=64)
def _sealer(suite: Suite, key: bytes) -> Callable[[bytes, bytes, bytes], bytes]:
    return cipher(suite, key).encrypt


def sealed(keys: SessionKeys, counter: int, plain: bytes) -> bytes:
    """Returns what the owner of `keys` could send, whatever `plain` is: the DATA datagram of protocol.md section 5."""
    head = data_prefix(keys.remote_index) + counter.to_bytes(8)
    return head + _sealer(keys.suite, keys.seal_key)(bytes(4) + counter.to_bytes(8), plain, head)


class Terms(TypedDict, total=False):
    """On which two ends of a `pair` meet: the keywords of `meet`."""

    limit: int
    suite: Suite
    bridge: bool
    awaiting: bool


def meet(
    one: End,
    other: End,
    *,
    limit: int = PAYLOAD_LIMIT,
    suite: Suite = Suite.CHACHA20_POLY1305,
    bridge: bool = False,
    awaiting: bool = False,
) -> tuple[int, int]:
    """Makes each a port of the other with a live session; returns their session's index at each.

    With `awaiting`, that of `other` is not promoted yet.
    """
    keys = key_pair(one, other, suite)
    for here, there, its in ((one, other, keys[0]), (other, one, keys[1])):
        here.lane.admit(there.name, there.port(bridge=bridge))
        is_awaiting = awaiting and here is other
        here.lane.install(its, awaiting=is_awaiting)
        if not is_awaiting:
            here.lane.promote(its.local_index)
        here.lane.steer(there.name, there.underlay, limit)
    return keys[0].local_index, keys[1].local_index


def pair(network: IPv4Address = NETWORK, make_lane: LaneMaker | None = None, **terms: Unpack[Terms]) -> tuple[End, End]:
    one, other = End(1, network, make_lane), End(2, network, make_lane)
    meet(one, other, **terms)
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
    one.send(frames, now)
    assert other.lane.handle_datagrams(one.take(), now) == []
    return other.received()
