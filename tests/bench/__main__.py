"""`make bench`: every tunnel that is installed, several interleaved rounds, medians, a table and a plot; then paths.

`--only paths` measures the paths between networks alone, and publishes them.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from fabric.lab import LabError, become_able, why_not
from tests.bench import fabric_tunnel, paths, report
from tests.bench.cable import cable
from tests.bench.gauges import FULL, QUICK, Durations, Reading, read
from tests.bench.tunnels import COMPETITORS, Tunnel

PUBLISHED = Path("docs/measurements")
PAGE = Path("docs/performance.md")
SCRATCH = Path("build/bench")


def main() -> int:
    become_able([sys.executable, "-m", "tests.bench", *sys.argv[1:]])
    options = _options()
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return 1
    load = os.getloadavg()[0]
    tunnels = [tunnel for tunnel in (fabric_tunnel.TUNNEL, *COMPETITORS) if _wanted(tunnel, options.only)]
    is_whole = _measure_tunnels(tunnels, options, load) if tunnels else True
    if not options.only or paths.LABEL in options.only:
        is_whole = _measure_paths(options, load) and is_whole
    return 0 if is_whole else 1


def _measure_tunnels(tunnels: list[Tunnel], options: argparse.Namespace, load: float) -> bool:
    """Whether nothing failed."""
    durations = QUICK if options.quick else FULL
    rounds = options.rounds or (1 if options.quick else 5)
    readings = _rounds(tunnels, rounds, durations, segmentation=not options.card)
    is_whole = all(len(found) == rounds for found in readings.values())
    life = None
    if fabric_tunnel.TUNNEL in tunnels and not options.no_life:
        life = _life(quick=options.quick)
        is_whole = is_whole and life is not None
    directory = options.output or (SCRATCH if options.quick or options.only else PUBLISHED)
    text = report.write(directory, tunnels, readings, life, rounds, segmentation=not options.card, load=load)
    if directory == PUBLISHED:
        report.publish(PAGE, text)
    print(text)
    return is_whole


def _measure_paths(options: argparse.Namespace, load: float) -> bool:
    """Whether nothing failed."""
    found = paths.measure(quick=options.quick)
    directory = options.output or (SCRATCH if options.quick else PUBLISHED)
    text = paths.write(directory, found, load)
    if directory == PUBLISHED:
        report.publish(PAGE, text, paths.BEGIN, paths.END)
    print(text)
    return found.is_whole


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; written to build/bench")
    parser.add_argument("--rounds", type=int, help="how many rounds (default 5, quick 1)")
    parser.add_argument("--only", action="append", help="only tunnels whose label contains this, or paths")
    parser.add_argument("--no-life", action="store_true", help="leave out start-up, idle and memory of fabricd")
    parser.add_argument("--card", action="store_true", help="a cable that cuts UDP super-datagrams like a real card")
    parser.add_argument("--output", type=Path, help="directory for the JSON, the tables and the plots")
    return parser.parse_args()


def _wanted(tunnel: Tunnel, only: list[str] | None) -> bool:
    if only and not any(word in tunnel.label for word in only):
        return False
    if missing := tunnel.missing():
        print(f"left out {tunnel.label}: {', '.join(missing)} not installed", file=sys.stderr)
    return not missing


def _rounds(
    tunnels: list[Tunnel], rounds: int, durations: Durations, *, segmentation: bool
) -> dict[str, list[Reading]]:
    """Interleaved: what slows the machine down for a while falls on every tunnel, not on one."""
    readings: dict[str, list[Reading]] = {tunnel.label: [] for tunnel in tunnels}
    for number in range(1, rounds + 1):
        for tunnel in tunnels:
            try:
                with cable(segmentation=segmentation) as made:
                    reading = read(made, tunnel.raise_(made), durations)
            except (LabError, ValueError, KeyError) as error:
                print(f"round {number}: {tunnel.label} failed: {error}", file=sys.stderr)
                continue
            readings[tunnel.label].append(reading)
            print(f"round {number}/{rounds} {tunnel.label:<13} {report.line(reading)}", file=sys.stderr, flush=True)
    return readings


def _life(*, quick: bool) -> fabric_tunnel.Life | None:
    """The daemon's life; None, and why on stderr, when it could not be measured."""
    try:
        return fabric_tunnel.life(quick=quick)
    except (LabError, ValueError, KeyError) as error:
        print(f"the daemon's life was not measured: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
