"""A thousand endpoints under virtual time, in the proportions that were measured, with relays, and with the witness."""

from __future__ import annotations

import pytest

from tests.sim.conftest import watched
from tests.sim.survey import RELAYS, Survey
from tests.sim.test_survey import check
from tests.sim.world import World

ENDPOINTS = 1000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_endpoints_are_direct_exactly_where_the_oracle_allows_it(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Survey(watched(World(seed, relays=RELAYS), monkeypatch), ENDPOINTS)
    made.run()
    check(made)
