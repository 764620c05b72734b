"""A walk that finds nothing is worth as much as what it would have found: every fault that is planted shows."""

from __future__ import annotations

import pytest

from tests.explore.end import End
from tests.explore.faults import FAULTS, Fault, two_against_one
from tests.explore.modes import Mode
from tests.explore.promises import ViolationError
from tests.explore.walk import Walk

MOST_STATES = 20_000
"""As far as any of them has to be looked for."""


def cases() -> list[object]:
    """Where many states come before the fault, it is left out of `make check`."""
    return [
        pytest.param(fault, id=f"{number} {fault.name}", marks=[pytest.mark.slow] if fault.is_deep else [])
        for number, fault in enumerate(FAULTS)
    ]


@pytest.mark.parametrize("fault", cases())
def test_a_planted_fault_is_found(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(End, "checks_order", fault.is_ordered)
    fault.plant(monkeypatch)
    with pytest.raises(ViolationError, match=fault.shows) as found:
        Walk(fault.mode).run(max_states=MOST_STATES)
    assert 0 < len(found.value.trace) <= 40
    assert str(found.value).splitlines()[0] == found.value.what


@pytest.mark.slow
def test_a_fault_that_takes_two_copies_is_not_found_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a walk with two copies would look for nothing that one with a single copy does not find."""
    monkeypatch.setattr(End, "checks_order", False)
    two_against_one(monkeypatch)
    for whose in (0, 1):
        account = Walk(Mode("one copy, from the start", copies=(whose,), begins_copied=True)).run(
            max_states=MOST_STATES
        )
        assert account.used
