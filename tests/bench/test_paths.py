"""What is said of paths is what was measured."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

import pytest

from fabric.lab import Endpoint
from tests.bench import meetings, paths, paths_plot
from tests.bench.carriage import WAYS, Carried
from tests.bench.idle import Idle
from tests.bench.meetings import Group, Meeting, Meetings, paced
from tests.bench.upgrades import Changed, Changes

MET = Meeting(Group.CONES.value, 0, "full cone x full cone", 0.1, 0.2, "direct-udp")
NEVER = replace(MET, first_frame_s=None, direct_s=None, path="none")
RELAYED = replace(MET, group=Group.RELAYED.value, direct_s=None, path="relay-udp")
CARRIED = [Carried(way.label, 400.0 - 100 * number, 1.0, 2.0, 0.5, 1.0, 1472) for number, way in enumerate(WAYS[:3])]
IDLE = [Idle("direct-udp", 500, 400, 30, 20, 0)]
CHANGES = Changes([Changed(100, 0, 0, 1, 0.02)], [Changed(100, 7, 0, 0, 2.5), Changed(100, 5, 0, 0, 1.5)], 3.0)


def written(tmp_path: Path, found: list[Meeting]) -> list[str]:
    text = paths.write(tmp_path, paths.Paths(Meetings(found, 40.0), CHANGES, CARRIED, IDLE), load=0.1)
    return text.splitlines()


def row(lines: list[str], label: str) -> str:
    (found,) = [line for line in lines if line.startswith(f"| {label}")]
    return found


def test_pairs_that_never_met_are_counted_and_not_averaged(tmp_path: Path) -> None:
    found = row(written(tmp_path, [MET, MET, NEVER]), Group.CONES.value)
    assert found == "| cone NATs and firewalls | 0 ms | 3 | 0.10 s | 0.10 s | 0.20 s | 0.20 s | 2 of 3, 1 never met |"


def test_no_direct_path_is_missed_where_there_can_be_none(tmp_path: Path) -> None:
    assert row(written(tmp_path, [RELAYED]), Group.RELAYED.value).endswith("|  |  | can't |")


def test_ratios_are_to_the_direct_path_of_the_same_run_and_counts_are_sums(tmp_path: Path) -> None:
    lines = written(tmp_path, [MET])
    assert "| 300 | 75% |" in row(lines, WAYS[1].label)
    assert "| 2 | 200 | 12 | 0 | 0 | 2.00 s | 2.50 s |" in row(lines, "direct path dies")


def test_every_single_meeting_is_kept(tmp_path: Path) -> None:
    written(tmp_path, [MET, NEVER])
    kept = json.loads((tmp_path / "paths.json").read_text())["meetings"]["found"]
    assert [each["first_frame_s"] for each in kept] == [0.1, None]


def test_what_could_not_be_measured_leaves_the_rest(tmp_path: Path) -> None:
    found = paths.Paths(None, None, CARRIED, None)
    assert not found.is_whole
    assert row(paths.write(tmp_path, found, load=0.1).splitlines(), WAYS[2].label)


def test_a_curve_ends_at_the_share_that_met_and_there_is_none_for_a_group_that_was_not_measured() -> None:
    drawn = ElementTree.fromstring(paths_plot.draw([MET, NEVER], CARRIED, IDLE))
    curves = [node.get("d", "") for node in drawn.iter() if node.tag.endswith("path")]
    assert len(curves) == 2  # the first frame and the direct path of one group
    heights = [float(curve.split(",")[1].partition("H")[0]) - float(curve.rpartition("V")[2]) for curve in curves]
    assert heights == [paths_plot.PLOT_HEIGHT / 2] * 2


def test_pairs_meet_side_by_side_but_no_endpoint_has_two_meetings_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meetings, "PAIR_PACE_S", 0.001)
    ends = [cast(Endpoint, End(name)) for name in "abcd"]
    pairs = [(one, other) for one in ends for other in ends if one.name < other.name]
    busy: set[str] = set()
    two_at_once = threading.Barrier(2, timeout=10)

    def meet(pair: tuple[Endpoint, Endpoint]) -> Meeting:
        names = {end.name for end in pair}
        assert not names & busy
        busy.update(names)
        two_at_once.wait()
        busy.difference_update(names)
        return MET

    acts: list[tuple[tuple[Endpoint, Endpoint], Callable[[], Meeting]]] = [
        (pair, partial(meet, pair)) for pair in pairs
    ]
    assert len(list(paced(acts))) == len(pairs)


class End:
    """As much of an endpoint as the pacing looks at."""

    def __init__(self, name: str) -> None:
        self.name = name
