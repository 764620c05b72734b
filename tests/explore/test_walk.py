"""Section 6 walked over the real machines: whatever is lost, repeated, reordered, crashes or is copied.

Every state that is come to is checked by `Walk` itself; what is asserted here is that the walk went where it should.
`python -m tests.explore` walks as far as one has patience for; docs/explored.md has what that brought.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from fabric.core.entanglement import Entangle
from tests.explore.fair import ALARMED, KEPT_OUT, LIVE
from tests.explore.modes import MIXED, ONE_COPY, SETTINGS, TWO_COPIES, Mode
from tests.explore.promises import Account, ViolationError
from tests.explore.stage import Rules
from tests.explore.steps import LocalSteps
from tests.explore.walk import Walk

HONEST = Mode("no adversary")
ALL_MOVES = {"deliver", "duplicate", "lose", "wait", "renew", "restart", "age", "before the store", "after the store"}


def walk(mode: Mode, states: int = 10**9) -> Account:
    return Walk(mode).run(max_states=states)


def test_nothing_that_the_network_or_a_crash_does_bricks_a_pair_or_alarms_it() -> None:
    account = walk(HONEST)
    assert account.is_complete
    assert set(account.moves) == ALL_MOVES
    assert account.verdicts == {LIVE: account.states}
    assert account.states > 3_000


def test_one_reset_on_each_side_always_brings_a_pair_back() -> None:
    account = walk(replace(HONEST, resets=True), 2_000)
    assert set(account.moves) == ALL_MOVES | {"reset"}
    assert len(account.verdicts) > 1


def test_a_ticket_bricks_nobody_and_alarms_nobody() -> None:
    account = walk(replace(HONEST, has_tickets=True), 2_000)
    assert account.verdicts == {LIVE: account.states}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [replace(HONEST, room=2), replace(HONEST, has_tickets=True)])
def test_nothing_bricks_or_alarms_a_pair_with_tickets_or_with_more_on_its_way(mode: Mode) -> None:
    account = walk(mode)
    assert account.is_complete
    assert account.states > 10_000
    assert account.verdicts == {LIVE: account.states}


def test_a_copied_server_that_takes_a_ticket_and_is_never_heard_is_not_found() -> None:
    """A limit, not a promise: the client seals by its ticket before the server is heard (docs/explored.md)."""
    mode = Mode("the server is copied", copies=(1,), has_tickets=True, counts_mute=True)
    with pytest.raises(ViolationError, match="the next contact shows nothing"):
        walk(mode)


@pytest.mark.slow
def test_resets_are_walked_to_the_end() -> None:
    account = walk(replace(HONEST, resets=True))
    assert account.is_complete
    assert account.verdicts[LIVE]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in ONE_COPY if not mode.is_honest], ids=lambda mode: mode.name)
def test_whoever_was_copied_or_lied_to_finds_it_and_nobody_is_bricked(mode: Mode) -> None:
    account = walk(replace(mode, has_tickets=True), 15_000)
    assert account.verdicts[LIVE]
    if mode.is_contested:
        assert account.used
        assert account.verdicts[ALARMED]


@pytest.mark.slow
@pytest.mark.parametrize("mode", TWO_COPIES, ids=lambda mode: mode.name)
def test_two_copies_are_found_and_come_to_an_end_among_themselves(mode: Mode) -> None:
    account = walk(replace(mode, has_tickets=True), 10_000)
    assert account.used
    assert account.met
    assert account.verdicts[LIVE]
    assert account.verdicts[ALARMED]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [mode for mode in MIXED if mode.is_honest], ids=lambda mode: mode.name)
def test_where_one_end_alone_enforces_nobody_is_kept_out_for_nothing(mode: Mode) -> None:
    """And nothing is other than where both enforce."""
    account, both = walk(mode), walk(HONEST)
    assert account.is_complete
    assert account.verdicts == {LIVE: account.states}
    assert (account.states, account.moves) == (both.states, both.moves)


@pytest.mark.slow
@pytest.mark.parametrize("entangle", SETTINGS, ids=str)
def test_who_enforces_alone_is_not_talked_out_of_it(entangle: tuple[Entangle, Entangle]) -> None:
    """Whoever is copied, put back, lied to or reset: one end each time, and one that enforces or the other."""
    used, verdicts = 0, Counter[str]()
    steps = LocalSteps(Rules(entangle, has_tickets=True))
    for mode in MIXED:
        if mode.entangle == entangle and not mode.is_honest:
            account = Walk(replace(mode, has_tickets=True), steps).run(max_states=2_500)
            used += account.used
            verdicts += account.verdicts
    assert used
    assert verdicts[LIVE]
    assert verdicts[KEPT_OUT if Entangle.OFF in entangle else ALARMED]


@pytest.mark.slow
@pytest.mark.parametrize("entangle", [Entangle.ALERT, Entangle.OFF])
@pytest.mark.parametrize("whose", [0, 1])
def test_who_does_not_enforce_is_live_again_after_a_collision(entangle: Entangle, whose: int) -> None:
    both = (entangle, entangle)
    account = walk(Mode("rolled back", copies=(whose,), restores=True, has_tickets=True, entangle=both), 8_000)
    assert account.moves["wake"]
    assert account.verdicts == {LIVE: account.states}
