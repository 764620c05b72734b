"""What every namespace test shares: whether such tests can run here at all, and the laboratory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.lab import Lab, Overlay, why_not

REQUIRE = "FABRIC_REQUIRE_NETNS"
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips them, with the reason, where namespaces are not allowed; $FABRIC_REQUIRE_NETNS=1 fails instead.

    The hook sees every test of a session: those of other folders are left alone.
    """
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.netns)
    reason = why_not() if ours else None
    if reason is None:
        return
    if os.environ.get(REQUIRE) == "1":
        raise pytest.UsageError(f"{REQUIRE}=1, but {reason}")
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """An empty internet, for the tests of one file; what is left of it at the end is an error."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def overlay(lab: Lab) -> Overlay:
    """A discovery service on that internet, with nobody enrolled yet."""
    return Overlay(lab)
