"""Both lanes as one: each call goes to the two of them, and whatever they answer has to be the same.

Where two ways lead through the native lane (a glance in C, a careful look in Python), the order is compared within each
way, and not where a clock brings what waited in several sessions; between datagrams it is compared within each session
and target, as no network keeps any other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from fabric.dataplane.contract import Control, Drop, PeerCounters, Port, SessionKeys, Traffic
from fabric.dataplane.reference import ReferenceLane
from fabric.wire.address import Address, Target
from tests.dataplane.pair import Ip, native_lane

Sent = list[tuple[bytes, Target]]


def is_in_order(part: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    """Whether all of `part` is in `whole`, in this order."""
    rest = iter(whole)
    return all(each in rest for each in part)


def by_way(datagrams: Sent) -> Mapping[tuple[Target, bytes], list[bytes]]:
    ways: dict[tuple[Target, bytes], list[bytes]] = defaultdict(list)
    for payload, to in datagrams:
        ways[to, payload[4:8]].append(payload)
    return ways


class TwinLane:
    """The contract and the hot side of both. Every answer is the reference lane's, after it was compared."""

    def __init__(self, mac: bytes, addresses: Sequence[Ip] = ()) -> None:
        self.reference = ReferenceLane(mac, addresses)
        self.native = native_lane(mac, addresses)
        self._both = (self.reference, self.native)
        self._has_order = True

    def admit(self, peer: str, port: Port) -> None:
        for lane in self._both:
            lane.admit(peer, port)

    def dismiss(self, peer: str) -> None:
        for lane in self._both:
            lane.dismiss(peer)

    def install(self, keys: SessionKeys, *, awaiting: bool) -> None:
        for lane in self._both:
            lane.install(keys, awaiting=awaiting)

    def promote(self, local_index: int) -> None:
        for lane in self._both:
            lane.promote(local_index)

    def retire(self, local_index: int) -> None:
        for lane in self._both:
            lane.retire(local_index)

    def steer(self, peer: str, to: Address | None, payload_limit: int, copy_to: Address | None = None) -> None:
        for lane in self._both:
            lane.steer(peer, to, payload_limit, copy_to)

    def send_control(self, local_index: int, payload: bytes, to: Address, *, whole: bool = False) -> None:
        for lane in self._both:
            lane.send_control(local_index, payload, to, whole=whole)

    def count_drop(self, reason: Drop, count: int) -> None:
        for lane in self._both:
            lane.count_drop(reason, count)

    def counters(self, peer: str) -> PeerCounters:
        one, other = (lane.counters(peer) for lane in self._both)
        assert one == other, (one, other)
        return one

    def drops(self) -> Mapping[Drop, int]:
        one, other = (lane.drops() for lane in self._both)
        assert one == other, (one, other)
        return one

    def handle_frames(self, frames: Sequence[bytes], now: float) -> None:
        for lane in self._both:
            lane.handle_frames(frames, now)

    def handle_datagrams(self, batch: Sequence[tuple[bytes, Target]], now: float) -> Sent:
        due = self.next_timeout()
        self._has_order &= due is None or due > now
        one, other = (lane.handle_datagrams(batch, now) for lane in self._both)
        assert one == other
        return one

    def handle_asks(self, now: float) -> Sent:
        assert self.native.handle_asks(now) == []
        return []

    def handle_timeout(self, now: float) -> None:
        self._has_order = False
        for lane in self._both:
            lane.handle_timeout(now)

    def next_timeout(self) -> float | None:
        one, other = (lane.next_timeout() for lane in self._both)
        assert one == other, (one, other)
        return one

    def take_datagrams(self) -> Sent:
        one, other = (lane.take_datagrams() for lane in self._both)
        ways, others = by_way(one), by_way(other)
        for way in {**ways, **others}:
            assert ways[way] == others[way], (
                way,
                [len(each) for each in ways[way]],
                [len(each) for each in others[way]],
            )
        return one

    def take_too_long(self) -> list[tuple[Target, int]]:
        one, other = (lane.take_too_long() for lane in self._both)
        assert one == other, (one, other)
        return one

    def take_frames(self) -> list[bytes]:
        one = self.reference.take_frames()
        at_a_glance = self.native.lane.take_frames()
        with_care = self.native.take_frames()
        assert Counter(one) == Counter(at_a_glance + with_care)
        if self._has_order:
            assert is_in_order(at_a_glance, one)
            assert is_in_order(with_care, one)
        self._has_order = True
        return one

    def take_controls(self) -> list[Control]:
        one, other = (lane.take_controls() for lane in self._both)
        assert one == other
        return one

    @property
    def unopened(self) -> int:
        one, other = (lane.unopened for lane in self._both)
        assert one == other, (one, other)
        return one

    @property
    def indices(self) -> set[int]:
        one, other = (set(lane.indices) for lane in self._both)
        assert one == other, (one, other)
        return one

    def destinations(self) -> list[Target]:
        one, other = (lane.destinations() for lane in self._both)
        assert Counter(one) == Counter(other), (one, other)
        return one

    @property
    def is_urgent(self) -> bool:
        one, other = (lane.is_urgent for lane in self._both)
        assert one == other
        return one

    def take_traffic(self) -> list[Traffic]:
        one, other = (sorted(lane.take_traffic(), key=lambda each: each.local_index) for lane in self._both)
        assert one == other, (one, other)
        return one
