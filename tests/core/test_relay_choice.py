"""Which of the granted relays two ends use, each by its own view, when some can't be reached."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.events import RelaysNamed
from fabric.core.relay_binding import LASTING_S
from fabric.core.relay_choice import MAX_GRANTED, RELAYS_A_PEER, PeerRelays, usable_places
from fabric.core.relays import LET_GO_S, MAX_RELAYS, OUT_OF_REACH_S
from fabric.wire.address import Address
from fabric.wire.rendezvous import RelayPlace
from tests.core.relay_scene import Scene

NUMBERS = (1, 2, 3, 4)
DETECTION_S = 25.0
"""A refresh each 20 s, and its retries."""


def ip(number: int) -> str:
    return f"203.0.113.{number}"


def place(number: int) -> RelayPlace:
    return RelayPlace(ip(number), 3478, 0)


class Grounds(Scene):
    """One end, with four relays granted for `b.home`; it reaches those in `reached`."""

    def __init__(self, *reached: int) -> None:
        super().__init__()
        self.reached = set(reached)
        for number in NUMBERS:
            self.start(ip(number))
        self.carries = lambda relay: int(relay.ip.rpartition(".")[2]) in self.reached
        self.granted("b.home", places=tuple(place(number) for number in NUMBERS))

    def settle(self) -> None:
        """Names are resolved as they are asked for."""
        super().settle()
        asked = [event for event in self.events if isinstance(event, RelaysNamed)]
        self.events.clear()
        for event in asked:
            for each in event.places:
                self.resolve(each.host, place=each)

    @property
    def channels(self) -> dict[int, Address]:
        return {int(a.ip.rpartition(".")[2]): a for a in self.relays.channels("b.home")}

    @property
    def used(self) -> list[int]:
        return [int(state.place.host.rpartition(".")[2]) for state in self.relays.states()]

    def carry(self, *numbers: int) -> None:
        channels = self.channels
        self.relays.handle_carried("b.home", [channels[n] for n in numbers if n in channels], self.now)
        self.settle()


def test_of_four_granted_relays_two_are_used() -> None:
    scene = Grounds(1, 2, 3, 4)
    scene.run(600.0)
    assert sorted(scene.channels) == sorted(scene.used) == [1, 2]


def test_a_relay_that_is_lost_is_stood_in_for_by_the_next() -> None:
    scene = Grounds(1, 2, 3, 4)
    scene.run(10.0)
    scene.reached.discard(1)
    scene.until(lambda: sorted(scene.channels) == [2, 3], DETECTION_S + OUT_OF_REACH_S)
    scene.reached.discard(2)
    scene.until(lambda: sorted(scene.channels) == [3, 4], DETECTION_S + OUT_OF_REACH_S)
    scene.run(600.0)
    assert sorted(scene.used) == [1, 2, 3, 4], "those that are lost are looked for"


def test_nobody_stands_in_for_a_relay_that_is_back_in_a_moment() -> None:
    scene = Grounds(1, 2, 3, 4)
    scene.run(10.0)
    scene.reached.discard(1)
    scene.until(lambda: sorted(scene.channels) == [2], DETECTION_S)
    scene.run(1.0)
    scene.reached.add(1)
    scene.run(60.0)
    assert sorted(scene.used) == [1, 2]
    assert not scene.machines[ip(3)].bindings


def test_who_stood_in_is_let_go_when_the_first_is_back_for_a_while() -> None:
    scene = Grounds(2, 3, 4)
    scene.run(20.0)
    assert sorted(scene.channels) == [2, 3]
    scene.reached.add(1)
    scene.until(lambda: 1 in scene.channels, 80.0)
    took = scene.until(lambda: 3 not in scene.channels, LET_GO_S + 1.0)
    assert took == pytest.approx(LET_GO_S, abs=0.5)
    assert sorted(scene.used) == [1, 2]


def test_who_stands_in_stays_where_the_first_goes_again() -> None:
    scene = Grounds(1, 2, 3, 4)
    scene.run(10.0)
    for _ in range(10):
        scene.reached.discard(1)
        scene.relays.handle_moved(scene.now)
        scene.settle()
        scene.run(9.0)
        scene.reached.add(1)
        scene.run(LET_GO_S - 12.0)
        assert 3 in scene.channels
    scene.run(60.0)
    assert sorted(scene.channels) == [1, 2]


def test_a_relay_that_refuses_is_stood_in_for_at_once() -> None:
    scene = Grounds(1, 2, 3, 4)
    scene.relays.forget("b.home")
    scene.settle()
    scene.machines[ip(1)]._settings = scene.machines[ip(1)]._settings.__class__(max_bindings=0)
    scene.granted("b.home", places=tuple(place(number) for number in NUMBERS))
    scene.until(lambda: sorted(scene.channels) == [2, 3], 1.0)


def test_a_relay_that_is_reached_and_gives_no_channel_is_stood_in_for() -> None:
    scene = Grounds(2, 3, 4)
    scene.machines[ip(1)] = Deaf(scene.machines[ip(1)])  # type: ignore[assignment]
    scene.reached.add(1)
    scene.until(lambda: sorted(scene.channels) == [2, 3], 10.0)
    scene.run(3600.0)
    assert sorted(scene.channels) == [2, 3]
    assert sum(to.ip == ip(1) for _, to, _ in scene.sent) < 3600 / 10


@dataclass
class Deaf:
    """A relay that hands out cookies and nothing else."""

    relay: object

    def handle_datagram(self, source: Address, payload: bytes, now: float) -> None:
        if payload[1:2] == b"\1" and not any(payload[4:20]):
            self.relay.handle_datagram(source, payload, now)  # type: ignore[attr-defined]

    def poll_transmit(self) -> object:
        return self.relay.poll_transmit()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pair
        for pair in itertools.product(
            [set(c) for size in (1, 2, 3, 4) for c in itertools.combinations(NUMBERS, size)], repeat=2
        )
        if pair[0] & pair[1]
    ],
    ids=str,
)
def test_two_ends_with_a_relay_in_common_meet_there(one: set[int], other: set[int]) -> None:
    """Each calls `want_more` when it has found no way for ten seconds, and tells what carries."""
    ends = Grounds(*one), Grounds(*other)
    for round_ in range(60):
        for end in ends:
            end.run(2.0)
        met = sorted(ends[0].channels.keys() & ends[1].channels.keys())
        for end in ends:
            end.carry(*met)
            if not met and round_ == 5:
                end.relays.want_more("b.home", end.now)
                end.settle()
        if round_ > 10:
            assert met, f"{ends[0].channels} {ends[1].channels}"


def test_a_wider_choice_is_let_go_when_the_first_relays_carry_again() -> None:
    scene = Grounds(1, 2, 3, 4)
    scene.run(10.0)
    scene.relays.want_more("b.home", scene.now)
    scene.settle()
    scene.run(2.0)
    assert sorted(scene.channels) == [1, 2, 3, 4]
    scene.carry(3, 4)
    scene.run(100.0)
    assert sorted(scene.channels) == [1, 2, 3, 4]
    scene.carry(1, 3, 4)
    scene.run(LET_GO_S + 1.0)
    assert sorted(scene.channels) == [1, 2]
    scene.carry()
    scene.run(100.0)
    assert sorted(scene.channels) == [1, 2], "a peer that is away needs no more than another"


def test_a_wish_for_more_is_granted_once_and_for_nobody_unknown() -> None:
    scene = Grounds(1, 2, 3, 4)
    scene.run(10.0)
    scene.relays.want_more("nobody.home", scene.now)
    scene.relays.handle_carried("nobody.home", (), scene.now)
    since = len(scene.sent)
    for _ in range(100):
        scene.relays.want_more("b.home", scene.now)
        scene.settle()
        scene.run(0.01)
    assert len(scene.sent) - since == 2 * 2, "a look and a BIND with the cookie at each of two relays"


def test_a_new_grant_keeps_who_stands_in() -> None:
    scene = Grounds(3, 4)
    scene.run(20.0)
    assert sorted(scene.channels) == [3, 4]
    before = scene.channels
    grant = scene.grant("b.home", serial=1)
    scene.relays.handle_granted("b.home", grant, tuple(place(n) for n in NUMBERS), scene.now)
    scene.settle()
    scene.run(20.0)
    assert scene.channels == before


def test_stand_ins_stay_within_the_number_of_relays() -> None:
    scene = Grounds()
    for number in range(40):
        places = tuple(RelayPlace(f"203.0.113.{100 + (number + n) % 40}", 3478, 0) for n in range(4))
        scene.granted(f"p{number}.home", places=places)
    scene.run(60.0)
    assert len(scene.used) <= MAX_RELAYS
    for number in range(40):
        scene.relays.forget(f"p{number}.home")
    scene.relays.forget("b.home")
    scene.settle()
    assert scene.used == []
    assert scene.relays.next_timeout() is None


def test_a_relay_that_ends_its_channels_all_the_time_is_asked_rarely() -> None:
    scene = Grounds(1, 2)
    scene.run(10.0)
    since = scene.now
    while scene.now < since + 1200.0:
        scene.machines[ip(1)]._bindings.clear()
        scene.run(1.0)
    binds = [at for at, to, message in scene.sent if at > since and to.ip == ip(1) and type(message).__name__ == "Bind"]
    assert len(binds) <= 2 * (1200 / LASTING_S + 8)


@given(
    st.permutations(NUMBERS),
    st.sets(st.sampled_from(NUMBERS)),
    st.sets(st.sampled_from(NUMBERS)),
    st.booleans(),
)
def test_a_choice_is_a_beginning_of_the_list_up_to_two_that_serve(
    order: list[int], serving: set[int], carried: set[int], is_wide: bool
) -> None:
    places = usable_places(place(number) for number in order)
    relays = PeerRelays(places, (), frozenset(place(n) for n in carried), is_wide)
    serves = {place(n) for n in serving}
    wanted = relays.wanted(lambda each: each in serves, lambda each: True)
    assert tuple(wanted) == places[: len(wanted)]
    assert len(wanted) == len(places) or sum(each in serves for each in wanted) >= RELAYS_A_PEER


def test_places_without_a_port_and_those_beyond_the_fourth_do_not_count() -> None:
    granted = [RelayPlace("nowhere", 0, 0), *(place(n) for n in (1, 1, 2, 3, 4, 5, 6, 7))]
    assert usable_places(granted) == tuple(place(n) for n in NUMBERS)
    assert len(usable_places(granted)) == MAX_GRANTED
