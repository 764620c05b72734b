"""Paths between networks: how soon there is one, what it carries, what a change of it costs, and an idle one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from fabric.errors import FabricError
from fabric.lab import Lab, LabError
from tests.bench import carriage, idle, meetings, paths_plot, report, upgrades
from tests.bench.carriage import Carried
from tests.bench.gauges import percentile
from tests.bench.idle import Idle
from tests.bench.meetings import Group, Meeting, Meetings
from tests.bench.upgrades import Changed, Changes

LABEL = "paths"
BEGIN, END = "<!-- paths -->", "<!-- end of paths -->"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Paths:
    """All of it; None for what could not be measured, which was said on stderr."""

    meetings: Meetings | None
    changes: Changes | None
    carried: list[Carried] | None
    idle: list[Idle] | None

    @property
    def is_whole(self) -> bool:
        return None not in (self.meetings, self.changes, self.carried, self.idle)


def measure(*, quick: bool) -> Paths:
    """Takes about seven minutes, `quick` two."""
    with Lab("bench-idle") as lab, ThreadPoolExecutor(max_workers=1) as beside:
        quiet = beside.submit(_attempt, "idle paths", partial(idle.measure, lab, quick=quick))
        met = _attempt("meetings", partial(meetings.measure, quick=quick))
        changed = _attempt("changes of path", partial(upgrades.measure, quick=quick))
    return Paths(met, changed, _attempt("carriage", partial(carriage.measure, quick=quick)), quiet.result())


def _attempt(what: str, act: Callable[[], T]) -> T | None:
    try:
        print(f"measuring {what}", file=sys.stderr, flush=True)
        return act()
    except (LabError, FabricError, ValueError, KeyError) as error:
        print(f"{what}: not measured: {error}", file=sys.stderr)
        return None


# -- what is left behind --------------------------------------------------------------------------------------------


def write(directory: Path, found: Paths, load: float) -> str:
    """Writes paths.json, paths.md and paths.svg into `directory`; returns the text of paths.md."""
    machine = report.machine_facts(load)
    text = "\n".join([_head(found, machine), "", *_tables(found)])
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "paths.json").write_text(json.dumps({"machine": machine, **asdict(found)}, indent=1) + "\n")
    (directory / "paths.md").write_text(text)
    (directory / "paths.svg").write_text(
        paths_plot.draw(found.meetings.found if found.meetings else [], found.carried or [], found.idle or [])
    )
    return text


def _head(found: Paths, machine: dict[str, str | int | float]) -> str:
    busy = f"; processors busy for {found.meetings.busy_percent:.0f} % while pairs met" if found.meetings else ""
    return (
        f"Measured {machine['date']} on {machine['processor']}, {machine['processors']} processors, "
        f"Linux {machine['kernel']}, Python {machine['python']}; load average when it began: {machine['load']}{busy}."
    )


def _tables(found: Paths) -> list[str]:
    tables: list[str] = []
    if found.meetings is not None:
        tables += _meetings(found.meetings.found)
    if found.carried is not None:
        tables += _carried(found.carried)
    if found.changes is not None:
        tables += _changes(found.changes)
    if found.idle is not None:
        tables += _idle(found.idle)
    return tables


def _meetings(found: Sequence[Meeting]) -> list[str]:
    rows = [
        "| between | round trip | pairs | first frame p50 | p99 | direct p50 | p99 | went direct |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for group in Group:
        for rtt_ms in sorted({meeting.rtt_ms for meeting in found}):
            some = [meeting for meeting in found if (meeting.group, meeting.rtt_ms) == (group.value, rtt_ms)]
            if some:
                rows.append(f"| {group.value} | {rtt_ms} ms | {len(some)} | {_times(group, some)} |")
    return [*rows, ""]


def _times(group: Group, found: Sequence[Meeting]) -> str:
    firsts, directs = known(each.first_frame_s for each in found), known(each.direct_s for each in found)
    cells = [_seconds(values, percent) for values in (firsts, directs) for percent in (50, 99)]
    direct = f"{len(directs)} of {len(found)}" if group.can_be_direct else "can't"
    missing = len(found) - len(firsts)
    return " | ".join([*cells, direct]) + (f", {missing} never met" if missing else "")


def _seconds(values: Sequence[float], percent: int) -> str:
    return f"{percentile(values, percent):.2f} s" if values else ""


def known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _carried(found: Sequence[Carried]) -> list[str]:
    rows = [
        "| path | TCP 1 stream, Mbit/s | of direct UDP | CPU s/GB, daemons and relays | CPU s/GB, machine "
        "| ping p50, ms | p99, ms | longest datagram |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {each.label} | {each.tcp_1_mbits:,.0f} | {each.tcp_1_mbits / found[0].tcp_1_mbits:.0%} "
        f"| {each.daemons_s_per_gb:.1f} | {each.machine_s_per_gb:.1f} "
        f"| {each.ping_p50_ms:.2f} | {each.ping_p99_ms:.2f} | {each.datagram_bytes:,} |"
        for each in found
    ]
    return [*rows, ""]


def _changes(found: Changes) -> list[str]:
    return [
        f"| change under {upgrades.PER_SECOND} numbered datagrams a second each way | pairs | sent | lost | doubled "
        "| overtaken | longest time without a frame p50 | longest of all |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        _change("relay to direct", found.upgrades),
        _change("direct path dies, back to the relay", found.fallbacks),
        "",
        f"All pairs were direct {found.upgraded_within_s:.0f} s after it had become possible again.",
        "",
    ]


def _change(label: str, found: Sequence[Changed]) -> str:
    sums = [sum(getattr(each, name) for each in found) for name in ("sent", "lost", "doubled", "overtaken")]
    gaps = [each.gap_s for each in found]
    counts = " | ".join(f"{count:,}" for count in sums)
    return f"| {label} | {len(found)} | {counts} | {percentile(gaps, 50):.2f} s | {max(gaps):.2f} s |"


def _idle(found: Sequence[Idle]) -> list[str]:
    rows = [
        "| idle path | bytes a minute to the peer or relay | from there | STUN | service channel | other attempts |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {each.path} | {each.sent:,} | {each.received:,} | {each.stun:,} | {each.channel:,} | {each.other:,} |"
        for each in found
    ]
    return [*rows, ""]
