"""A survey small enough for every run of the suite; `python -m tests.sim.survey` makes the large one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim import survey
from tests.sim.conftest import watched
from tests.sim.survey import RELAYS, Survey, summary
from tests.sim.survey_plot import draw
from tests.sim.survey_table import tabulate
from tests.sim.world import World

pytestmark = pytest.mark.slow

ENDPOINTS = 300

FIRST_FRAME_P99_S = 5.0
DIRECT_P50_S, DIRECT_P99_S = 1.0, 30.0
GUESSING_DATAGRAMS_P50, GUESSING_DATAGRAMS_MOST = 1500, 12_000
DISAGREEMENT_S = 20.0
IDLE_BYTES_P50 = 2000.0
"""A minute for each peer, as the product promises; headers, STUN and relays included."""


def check(made: Survey) -> None:
    figures: dict[str, Any] = made.figures()
    print(tabulate(figures, 0))
    assert made.wrong() == []
    assert figures["connected"] == figures["pairs"]
    assert figures["direct"] == figures["feasible"]
    assert figures["beyond the oracle"] == 0
    assert figures["first frame"]["p99"] < FIRST_FRAME_P99_S
    assert figures["to direct"]["p50"] < DIRECT_P50_S
    assert figures["to direct"]["p99"] < DIRECT_P99_S
    assert figures["disagreement"]["max"] < DISAGREEMENT_S
    assert figures["classes"]["guessing"]["datagrams"]["p50"] < GUESSING_DATAGRAMS_P50
    assert figures["classes"]["guessing"]["datagrams"]["max"] < GUESSING_DATAGRAMS_MOST
    assert figures["idle bytes a minute a peer"]["p50"] < IDLE_BYTES_P50


def test_every_pair_is_on_the_path_that_the_oracle_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Survey(watched(World(seed, relays=RELAYS), monkeypatch), ENDPOINTS)
    made.run()
    check(made)


def test_the_same_seed_gives_the_same_figures_and_the_same_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "SETTLE_S", 20.0)
    found = []
    for _ in range(2):
        made = Survey(World(7, relays=2), 12)
        made.run()
        found.append((made.figures(), draw(made.figures())))
    assert found[0] == found[1]
    assert "<svg" in found[0][1]


def test_a_summary_counts_only_what_there_is() -> None:
    assert summary([None, 3.0, 1.0, 2.0]) == {"count": 3, "p50": 2.0, "p99": 3.0, "max": 3.0}
    assert summary([None]) == {"count": 0, "p50": None, "p99": None, "max": None}
