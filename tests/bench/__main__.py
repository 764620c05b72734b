"""`make bench`: every tunnel that is installed, several interleaved rounds, medians, a table and a plot; then paths.

`--only paths` measures the paths between networks alone, and publishes them; `--only floods` what a session keeps in
a flood, which no other run measures. A run with `--card`, `--cipher` or
`--lane` has files and a block in the page of its own, and leaves out the daemon's life and the paths.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from fabric.lab import LabError, become_able, why_not
from tests.bench import fabric_tunnel, floods, paths, report
from tests.bench.gauges import FULL, QUICK, read
from tests.bench.rounds import interleaved
from tests.bench.tunnels import AES, CHACHA, Tunnel
from tests.bench.variant import PAGE, PUBLISHED, SCRATCH, Variant


def main() -> int:
    become_able([sys.executable, "-m", "tests.bench", *sys.argv[1:]])
    options = _options()
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return 1
    variant = Variant(options.card, options.cipher, options.lane)
    if strange := fabric_tunnel.unknown_settings(variant.environment):
        print(f"this fabricd does not look at {', '.join(strange)}", file=sys.stderr)
        return 1
    load = os.getloadavg()[0]
    tunnels = [tunnel for tunnel in variant.tunnels() if _wanted(tunnel, options.only)]
    is_whole = _measure_tunnels(tunnels, variant, options, load) if tunnels else True
    if paths.LABEL in options.only if options.only else not variant.words:
        is_whole = _measure_paths(options, load) and is_whole
    if options.only and floods.LABEL in options.only:
        _measure_floods(options, load)
    return 0 if is_whole else 1


def _measure_tunnels(tunnels: list[Tunnel], variant: Variant, options: argparse.Namespace, load: float) -> bool:
    """Whether nothing failed."""
    durations = QUICK if options.quick else FULL
    rounds = options.rounds or (1 if options.quick else 3)
    readings = interleaved(
        tunnels, rounds, partial(read, durations=durations), report.line, segmentation=not variant.card
    )
    is_whole = all(len(found) == rounds for found in readings.values())
    life = None
    if "fabric" in readings and not options.no_life and not variant.words:
        life = _life(quick=options.quick)
        is_whole = is_whole and life is not None
    directory = options.output or (SCRATCH if options.quick or options.only else PUBLISHED)
    text = report.write(directory, tunnels, readings, life, rounds, variant=variant, load=load)
    if directory == PUBLISHED:
        report.publish(PAGE, report.with_links(text, variant.stem), *variant.marks)
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


def _measure_floods(options: argparse.Namespace, load: float) -> None:
    found = floods.measure(quick=options.quick)
    directory = options.output or (SCRATCH if options.quick else PUBLISHED)
    text = floods.write(directory, found, load)
    if directory == PUBLISHED:
        report.publish(floods.PAGE, text, floods.BEGIN, floods.END)
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; written to build/bench")
    parser.add_argument("--rounds", type=int, help="how many rounds (default 3, quick 1)")
    parser.add_argument("--only", action="append", help="only tunnels whose label contains this, paths, or floods")
    parser.add_argument("--no-life", action="store_true", help="leave out start-up, idle and memory of fabricd")
    parser.add_argument("--card", action="store_true", help="a cable that cuts UDP super-datagrams like a real card")
    parser.add_argument("--cipher", choices=(AES, CHACHA), help="only tunnels that can use it, and those without one")
    parser.add_argument("--lane", choices=("reference", "native"), help="the lane of fabricd (default: its own choice)")
    parser.add_argument("--output", type=Path, help="directory for the JSON, the tables and the plots")
    return parser.parse_args()


def _wanted(tunnel: Tunnel, only: list[str] | None) -> bool:
    if only and not any(word in tunnel.label for word in only):
        return False
    if missing := tunnel.missing():
        print(f"left out {tunnel.label}: {', '.join(missing)} not installed", file=sys.stderr)
    return not missing


def _life(*, quick: bool) -> fabric_tunnel.Life | None:
    """The daemon's life; None, and why on stderr, when it could not be measured."""
    try:
        return fabric_tunnel.life(quick=quick)
    except (LabError, ValueError, KeyError) as error:
        print(f"the daemon's life was not measured: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
