"""A small overlay that does at random whatever can be done to a lane: three ends, and a network that loses and lies."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from itertools import permutations
from random import Random

from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Port
from fabric.wire.address import Address, Target, Transport, target_of
from fabric.wire.record import encode_frames
from fabric.wire.vnet import NO_VNET, VNET_BYTES
from tests.dataplane.babble import any_frame, payload, super_frame
from tests.dataplane.pair import End, LaneMaker, key_pair

LIMITS = (576, 700, 1200, 1452, 1472, 1472, 4000, 9000)
STEPS_S = (0.0, 0.0, 0.001, 0.004, 0.005, 0.3, 1.0, 11.0, 40.0, 400.0)
MOST_WAITING = 400
"""Datagrams on the way: the oldest are lost then."""

GROUPS = (b"\xff" * 6, b"\x01\x00\x5e\x00\x00\xfb", b"\x02\x99\x99\x99\x99\x99")
Sent = list[tuple[bytes, Target]]


class Trace:
    """`step` does one thing. The lanes that `make_lane` makes have to bear it."""

    def __init__(self, chance: Random, make_lane: LaneMaker) -> None:
        self.chance = chance
        self.now = 1.0
        self.ends = [End(number, IPv4Address("100.64.0.0"), make_lane) for number in (1, 2, 3)]
        self.on_the_way: dict[End, Sent] = {end: [] for end in self.ends}
        self.delivered: dict[End, list[bytes]] = {end: [] for end in self.ends}
        self._indices: dict[End, list[int]] = {end: [] for end in self.ends}
        for one, other in permutations(self.ends, 2):
            self._admit(one, other)
            self._steer(one, other)
        for one, other in permutations(self.ends, 2):
            self._make_session(one, other, is_awaiting=False)

    def step(self) -> None:
        one, other = self.chance.sample(self.ends, 2)
        self._choose()(one, other)
        self._collect()

    def settle(self) -> None:
        """Everything that is under way comes, and everything that waits is given up."""
        for end in self.ends:
            end.lane.handle_datagrams(self.on_the_way[end], self.now)
            self.on_the_way[end] = []
        self._pass_time(2.0)
        self._collect()

    def _choose(self) -> Callable[[End, End], None]:
        actions = (
            (self._send, 8),
            (self._send_widely, 2),
            (self._deliver, 10),
            (self._forge, 3),
            (self._babble, 1),
            (self._control, 2),
            (self._steer, 1),
            (self._wait, 3),
            (self._rekey, 1),
            (self._promote, 1),
            (self._retire, 0.3),
            (self._admit, 0.5),
            (self._dismiss, 0.2),
            (self._report, 1),
        )
        return self.chance.choices([each for each, _ in actions], [weight for _, weight in actions])[0]

    # what a host does

    def _send(self, one: End, other: End) -> None:
        """A batch for those whom it knows; super-frames among it."""
        frames = [self._frame(one, other, other.mac) for _ in range(self.chance.choice((1, 1, 2, 5, 12)))]
        known = [each for each in frames if len(each) >= VNET_BYTES + 6]
        one.lane.handle_frames([each for each in known if each[VNET_BYTES : VNET_BYTES + 6] == other.mac], self.now)

    def _send_widely(self, one: End, other: End) -> None:
        """Alone in its batch: what else is in it may go out before it, or share a record with it."""
        group = self.chance.choice((*GROUPS, b"\x02\x77\0\0\0" + bytes((self.chance.randrange(4),))))
        one.lane.handle_frames([self._frame(one, other, group)], self.now)

    def _frame(self, one: End, other: End, destination: bytes) -> bytes:
        return any_frame(self.chance, one, other, destination)

    # what a network does

    def _deliver(self, _: End, end: End) -> None:
        chance, waiting = self.chance, self.on_the_way[end]
        count = chance.choice((1, 3, 10, 40, 200))
        batch, rest = waiting[:count], waiting[count:]
        match chance.choice(("fine", "fine", "fine", "lost", "lost", "doubled", "shuffled", "spoilt", "stranger")):
            case "lost":
                batch = [each for each in batch if chance.random() > 0.15]
            case "doubled":
                batch = [each for each in batch for _ in range(chance.choice((1, 2)))]
            case "shuffled":
                chance.shuffle(batch)
            case "spoilt":
                batch = [(self._spoilt(datagram), source) for datagram, source in batch]
            case "stranger":
                batch = [(datagram, self._source(end)) for datagram, _ in batch]
            case _:
                pass
        self.on_the_way[end] = rest
        leftovers = end.lane.handle_datagrams(batch, self.now)
        assert all(each in batch for each in leftovers)

    def _spoilt(self, datagram: bytes) -> bytes:
        at = self.chance.randrange(len(datagram))
        spoilt = datagram[:at] + bytes((datagram[at] ^ 1 << self.chance.randrange(8),)) + datagram[at + 1 :]
        return spoilt[: self.chance.choice((len(spoilt), len(spoilt), at))]

    def _source(self, end: End) -> Target:
        return target_of(self._address(end))

    def _address(self, end: End) -> Address:
        return self.chance.choice(
            (
                end.underlay,
                Address("198.51.100.7", end.underlay.port),
                Address("2001:db8::7", end.underlay.port),
                Address("192.0.2.9", end.underlay.port, via=16),
                Address("203.0.113.1", end.underlay.port, Transport.RELAY_UDP, 70),
                Address("203.0.113.2", end.underlay.port, Transport.RELAY_TLS, 71),
            )
        )

    def _babble(self, _: End, end: End) -> None:
        heads = (b"", b"\xf1", b"\xf1\0\0\0", b"\xf1\0\0\1", b"\x01", b"\0", b"\xf2", b"\xf3")
        noise = [self.chance.choice(heads) + payload(self.chance, self.chance.choice((0, 3, 12, 60))) for _ in range(5)]
        end.lane.handle_datagrams([(each, self._source(end)) for each in noise], self.now)

    def _wait(self, *_: End) -> None:
        self._pass_time(self.chance.choice(STEPS_S))

    def _pass_time(self, seconds: float) -> None:
        """Who ages does so at each step: a lane sees its clock only when it is called."""
        for end in self.ends:
            end.lane.handle_timeout(self.now)
        self.now += seconds
        for end in self.ends:
            due = end.lane.next_timeout()
            if self.chance.random() < 0.8 or (due is not None and due <= self.now):
                end.lane.handle_timeout(self.now)

    # what a peer does that means harm

    def _forge(self, one: End, other: End) -> None:
        """Records of its own making, under sessions that are alive or were."""
        indices = [index for index in self._indices[one] if one.keys[index].peer == other.name]
        if not indices:
            return
        index = self.chance.choice(indices)
        records = self._record(one, other)
        batch = [(one.forge(index, each), one.source) for each in records if self.chance.random() > 0.1]
        other.lane.handle_datagrams(batch, self.now)

    def _record(self, one: End, other: End) -> list[bytes]:
        chance = self.chance
        frames = [self._frame(one, other, other.mac)[VNET_BYTES:][:2000] for _ in range(chance.choice((1, 2, 4)))]
        match chance.choice(("frames", "frames cut", "kind", "slices", "super", "super", "super")):
            case "frames":
                return [encode_frames(frames)]
            case "frames cut":
                record = encode_frames(frames)
                return [record[: chance.randrange(len(record))], record + bytes(chance.choice((1, 2)))]
            case "kind":
                return [bytes((chance.choice((0, 3, 4, 255)),)) + payload(chance, 30)]
            case "slices":
                flags = chance.choice((0, 0, 2, 4))
                return self._slices(NO_VNET, frames[0] or b"x", chance.choice((1, 2, 40)), flags)
            case _:
                item = super_frame(chance, one, other, other.mac)
                each = chance.choice((1000, 1000, 600, 4000))
                return self._slices(item[:VNET_BYTES], item[VNET_BYTES:], -(-(len(item) - VNET_BYTES) // each), 1)

    def _slices(self, vnet: bytes, whole: bytes, count: int, flags: int) -> list[bytes]:
        """Here and there one of them lies."""
        chance = self.chance
        count = min(count, 255)
        length, id_ = -(-len(whole) // count), chance.choice((1, 2, 3, 0xFFFF_FFFF, 0x8000_0000))
        slices = [
            bytes((2, index, count, flags)) + struct.pack("!I", id_) + vnet + whole[index * length :][:length]
            for index in range(count)
        ]
        for _ in range(chance.choice((0, 0, 1, 2))):
            lying = chance.randrange(len(slices))
            record = bytearray(slices[lying])
            record[chance.randrange(1, min(len(record), 80))] ^= 1 << chance.randrange(8)
            slices[lying] = bytes(record[: chance.choice((len(record), len(record), len(record) - 1, 18))])
        if chance.random() < 0.3:
            chance.shuffle(slices)
        return slices

    # what core does

    def _control(self, one: End, other: End) -> None:
        if self._indices[one]:
            length = self.chance.choice((0, 0, 5, 500, 1500, 6000, 8192, 8193))
            index = self.chance.choice(self._indices[one])
            to, whole = self._address(other), self.chance.random() < 0.2
            one.lane.send_control(index, payload(self.chance, length), to, whole=whole)

    def _steer(self, one: End, other: End) -> None:
        chance = self.chance
        to = chance.choice((*[other.underlay] * 6, self._address(other), self._address(other), None))
        copy_to = chance.choice((None, None, self._address(other)))
        one.lane.steer(other.name, to, chance.choice(LIMITS), copy_to)

    def _rekey(self, one: End, other: End) -> None:
        self._make_session(one, other, is_awaiting=self.chance.random() < 0.5)

    def _make_session(self, one: End, other: End, *, is_awaiting: bool) -> None:
        keys = key_pair(one, other, self.chance.choice(list(Suite)))
        for end, its in zip((one, other), keys, strict=True):
            end.lane.install(its, awaiting=is_awaiting and end is one)
            self._indices[end] = [*self._indices[end][-5:], its.local_index]
            if end is other or not is_awaiting:
                end.lane.promote(its.local_index)
            end.lane.install(its, awaiting=False)

    def _promote(self, one: End, _: End) -> None:
        if self._indices[one]:
            one.lane.promote(self.chance.choice((*self._indices[one], *self._indices[one][-1:] * 5)))

    def _retire(self, one: End, _: End) -> None:
        if len(self._indices[one]) > 2:
            one.lane.retire(self._indices[one].pop(self.chance.randrange(2)))

    def _admit(self, one: End, other: End) -> None:
        """As it is, or renewed: a bridge now, or with other addresses."""
        addresses = self.chance.choice((*[other.addresses] * 6, other.addresses[:1], one.addresses))
        one.lane.admit(other.name, Port(other.mac, addresses, self.chance.random() < 0.3))

    def _dismiss(self, one: End, other: End) -> None:
        one.lane.dismiss(other.name)
        self._admit(one, other)
        self._steer(one, other)
        self._make_session(one, other, is_awaiting=False)

    def _report(self, one: End, _: End) -> None:
        assert one.lane.is_urgent in (True, False)
        assert set(self._indices[one]) & set(one.lane.indices)
        one.lane.destinations()
        one.lane.take_traffic()

    # what comes of it

    def _collect(self) -> None:
        for one in self.ends:
            for datagram, to in one.lane.take_datagrams():
                for other in self.ends:
                    if to[1] == other.underlay.port:
                        self.on_the_way[other] = [*self.on_the_way[other], (datagram, one.source)][-MOST_WAITING:]
            self.delivered[one] += one.lane.take_frames()
            one.lane.take_controls()
            one.lane.drops()
            assert one.lane.unopened >= 0
            one.lane.next_timeout()
            for other in self.ends:
                one.lane.counters(other.name)
