"""The replay window against the plainest model: a set of all counters seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.replay import WINDOW, ReplayWindow

steps = st.lists(
    st.integers(0, 40)
    | st.integers(-WINDOW - 3, 3)
    | st.integers(1, 3 * WINDOW)
    | st.sampled_from([-WINDOW, -WINDOW + 1, WINDOW, 2 * WINDOW, 2 * WINDOW - 1, 2 * WINDOW + 8, 10**9]),
    max_size=200,
)


@given(steps, st.integers(0, 20_000))
def test_the_window_agrees_with_a_set_of_all_counters(moves: list[int], start: int) -> None:
    window, seen, highest = ReplayWindow(), set[int](), -1
    for move in moves:
        counter = max(0, (start if highest < 0 else highest) + move)
        expected = counter not in seen and counter > highest - WINDOW
        assert window.check(counter) is expected
        if expected:
            window.mark(counter)
            seen.add(counter)
            highest = max(highest, counter)
    assert window.highest == highest


@given(st.permutations(range(300)), st.integers(0, 2**63))
def test_every_order_lets_each_counter_through_once(order: list[int], base: int) -> None:
    window = ReplayWindow()
    for counter in order:
        assert window.check(base + counter)
        window.mark(base + counter)
    assert not any(window.check(base + counter) for counter in order)


def test_check_alone_changes_nothing() -> None:
    window = ReplayWindow()
    assert window.check(2**64 - 1)
    assert window.check(2**64 - 1)
    assert window.highest == -1
    assert window.check(0)


@pytest.mark.parametrize("gap", [0, 1, 7, 8, 9])
def test_the_oldest_place_is_exactly_one_window_behind(gap: int) -> None:
    window = ReplayWindow()
    highest = 5 * WINDOW + gap
    window.mark(highest)
    assert window.check(highest - WINDOW + 1)
    assert not window.check(highest - WINDOW)


def test_old_marks_do_not_come_back_when_the_ring_goes_round() -> None:
    window = ReplayWindow()
    for counter in range(0, 20 * WINDOW, 3):
        assert window.check(counter)
        window.mark(counter)
        assert not window.check(counter)
