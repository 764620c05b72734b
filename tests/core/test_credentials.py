"""The own key bundle, where the service says that it has a newer one."""

from __future__ import annotations

import pytest

from fabric.core.credentials import BUNDLE_ANEW_S, BUNDLE_RETRY_S, Credentials
from fabric.core.events import BundleDue
from fabric.core.machine import Calendar, drain
from tests.core.town import UNIX, Town


@pytest.fixture
def credentials() -> Credentials:
    """Of an endpoint whose bundle is new."""
    return Credentials(Town().identity("a.home"), Calendar(UNIX), 0.0)


def bundles_due(credentials: Credentials, now: float) -> int:
    credentials.handle_timeout(now, is_service_up=True)
    return sum(isinstance(event, BundleDue) for event in drain(credentials.poll_event))


def test_a_bundle_that_the_service_knows_a_newer_one_of_is_replaced_at_once(credentials: Credentials) -> None:
    assert bundles_due(credentials, 10.0) == 0
    credentials.handle_bundle_refused(10.0)
    assert credentials.next_timeout() == 10.0
    assert bundles_due(credentials, 10.0) == 1


def test_a_service_that_refuses_every_bundle_gets_one_a_day(credentials: Credentials) -> None:
    made, now = 0, 0.0
    while now < 3 * BUNDLE_ANEW_S:
        credentials.handle_bundle_refused(now)
        if bundles_due(credentials, now):
            made += 1
            credentials.handle_clock_set(now)  # as after `replace_bundle`: the next is due at its own time
        now += BUNDLE_RETRY_S
    assert made == 3
