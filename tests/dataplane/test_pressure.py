"""When strangers are kept out, and for how long."""

from __future__ import annotations

import itertools

import pytest

from fabric.dataplane.pressure import HOLD_S, LOUD, LOUDER, MAX_HOLD_S, MAX_SHARE, MEAN_S, Pressure

STEP_S = 0.1
MOST = 100_000
"""Datagrams a second that can be read: what is more finds no room."""


class Flood:
    """How many datagrams a second come: of nobody, for a known index, and from where the filter stops nothing."""

    def __init__(self, strangers: float = 0.0, known: float = 0.0, friends: float = 0.0) -> None:
        self.pressure = Pressure()
        self.strangers, self.known, self.friends = strangers, known, friends
        self.now = 1000.0
        self.unopened = self.refused = 0.0
        self.pressure.handle_counts(0, 0, self.now)
        self.shares: list[int] = []

    def go_on(self, seconds: float) -> int:
        for _ in range(round(seconds / STEP_S)):
            self.now += STEP_S
            share = self.pressure.share
            let_in = self.known / share if share else self.strangers + self.known
            read = min(let_in + self.friends, MOST)
            self.unopened += read * STEP_S
            self.refused += (self.strangers + self.known + self.friends - read) * STEP_S
            self.pressure.handle_counts(int(self.unopened), int(self.refused), self.now)
            self.shares.append(self.pressure.share)
        return self.pressure.share

    @property
    def seen(self) -> list[int]:
        """The shares, one after the other."""
        return [share for before, share in zip([-1, *self.shares], self.shares, strict=False) if share != before]

    def part(self, share: int) -> float:
        return self.shares.count(share) / len(self.shares)


def test_what_honest_strangers_send_closes_nothing() -> None:
    assert Flood(LOUD * 0.9).go_on(60) == 0


def test_a_flood_is_kept_out_at_the_first_look_and_for_as_long_as_it_lasts() -> None:
    flood = Flood(strangers=200_000)
    assert flood.go_on(STEP_S) == 1
    flood.go_on(10 * HOLD_S)
    assert flood.seen == [1]


@pytest.mark.parametrize("known", [130_000, 200_000, 250_000, 600_000])
def test_a_flood_at_a_known_index_is_let_in_a_little(known: float) -> None:
    flood = Flood(known=known)
    assert flood.go_on(5 * MEAN_S) >= MAX_SHARE / 2
    flood.go_on(10 * HOLD_S)
    assert flood.shares[-1] >= MAX_SHARE / 2
    assert flood.part(1) < 0.02, "what gets in of it tells that it goes on"


def test_a_flood_at_a_known_index_is_let_in_a_little_within_three_looks() -> None:
    """Of which the second empties the socket. Every processor is at work on it meanwhile."""
    assert Flood(known=200_000).go_on(3 * STEP_S) >= MAX_SHARE / 2


def test_it_is_let_in_as_much_as_can_be_read() -> None:
    flood = Flood(known=3 * LOUDER)
    assert flood.go_on(4 * MEAN_S) == 4


@pytest.mark.parametrize("friends", [LOUDER * 1.1, LOUDER * 5, LOUDER * 50])
def test_who_is_loud_and_can_not_be_kept_out_keeps_nobody_else_out(friends: float) -> None:
    """An old session of a peer's, say, or the forged address of one."""
    flood = Flood(friends=friends)
    flood.go_on(20 * HOLD_S)
    assert flood.part(0) + flood.part(1) > 0.85


def test_a_few_datagrams_now_and_then_hold_no_share() -> None:
    flood = Flood(known=200_000)
    flood.go_on(5)
    flood.known = 0.0
    flood.friends = LOUDER / MAX_SHARE * 0.9
    assert flood.go_on(HOLD_S - 2 * MEAN_S) == MAX_SHARE
    assert flood.go_on(5 * MEAN_S) == 0


def test_a_burst_is_no_flood_at_a_known_index() -> None:
    """A hundred peers who come back at once send a thousand datagrams within a tenth of a second."""
    flood = Flood(known=10_000)
    flood.go_on(STEP_S)
    flood.known = 0.0
    flood.go_on(3 * HOLD_S)
    assert flood.seen == [1, 0]


def test_what_had_waited_in_the_socket_is_no_flood_at_a_known_index() -> None:
    flood = Flood(strangers=200_000)
    flood.go_on(STEP_S)
    flood.unopened += LOUDER * 0.9
    flood.go_on(5 * MEAN_S)
    assert flood.seen == [1]


@pytest.mark.parametrize(("strangers", "known"), [(200_000, 0), (0, 200_000), (200_000, 200_000)])
def test_who_floods_no_more_is_forgotten_step_by_step(strangers: float, known: float) -> None:
    flood = Flood(strangers, known)
    flood.go_on(5)
    flood.strangers = flood.known = 0.0
    assert flood.go_on(HOLD_S * 0.8) > 0
    assert flood.go_on(2 * HOLD_S) == 0


def test_a_flood_that_is_not_seen_while_it_is_kept_out_is_let_in_ever_more_seldom() -> None:
    """The kernel counts a run of datagrams that it has joined as one."""
    flood = Flood(strangers=200_000)
    begun: list[float] = []
    for _ in range(round(5 * MAX_HOLD_S / STEP_S)):
        was_open = not flood.pressure.share
        flood.go_on(STEP_S)
        flood.refused = 0.0
        if was_open and flood.pressure.share:
            begun.append(flood.now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(MAX_HOLD_S, abs=3 * MEAN_S)


def test_a_quiet_flood_at_a_known_index_is_let_in_whole() -> None:
    """The meters of the lane bound what Python sees of it, and a peer who comes from elsewhere gets in."""
    flood = Flood(strangers=200_000, known=LOUDER * 0.9)
    flood.go_on(5 * HOLD_S)
    assert flood.seen == [1]


def test_what_found_no_room_in_peace_is_no_flood() -> None:
    pressure = Pressure()
    pressure.handle_counts(0, 0, 1000.0)
    pressure.handle_counts(0, 100_000, 1001.0)
    assert pressure.share == 0


def test_a_pause_without_a_look_is_no_flood_and_ends_one() -> None:
    pressure = Pressure()
    pressure.handle_counts(0, 0, 1000.0)
    pressure.handle_counts(50_000, 0, 1000.0 + 3600.0)
    assert pressure.share == 0
    pressure.handle_counts(100_000, 0, 1000.0 + 3601.0)
    assert pressure.share == 1
    pressure.handle_counts(100_000, 0, 1000.0 + 7200.0)
    assert pressure.share == 0


def test_looks_that_are_too_near_tell_no_rate() -> None:
    pressure = Pressure()
    pressure.handle_counts(0, 0, 1000.0)
    pressure.handle_counts(64, 0, 1000.001)
    assert pressure.share == 0
    pressure.handle_counts(64, 0, 1001.0)
    assert pressure.share == 0
