"""`make bench-lanes`: what each lane carries, what each cipher costs it, and what a part less makes of it."""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fabric.lab import LabError, become_able, why_not
from tests.bench import plot, report
from tests.bench.fabric_tunnel import CIPHER, LANE, LIBRARY, tunnel, unknown_settings
from tests.bench.gauges import FULL, QUICK, Load, read_load
from tests.bench.rounds import interleaved
from tests.bench.tunnels import CHACHA
from tests.bench.variant import PAGE, PUBLISHED, SCRATCH, cable_sentence

STEM = "lanes"
BEGIN, END = "<!-- lanes -->", "<!-- end of lanes -->"
APART = Path("build/ladder")
"""Where `make bench-lanes` puts a build that can go without a part of the native lane; no other build can."""
LABEL_WIDTH = 240


@dataclass(frozen=True, slots=True)
class Rung:
    """One row of the ladder: both daemons run with these variables in their environment.

    `apart`: by the build that lies in `APART`.
    """

    label: str
    environment: Mapping[str, str]
    apart: bool = False

    def surroundings(self) -> dict[str, str]:
        """Its variables, and what leads to its build."""
        return {**self.environment, **({"PYTHONPATH": str(APART.resolve())} if self.apart else {})}


REFERENCE, NATIVE = {LANE: "reference"}, {LANE: "native"}
RUNGS = (
    Rung("reference lane", REFERENCE),
    Rung("reference lane, ChaCha20-Poly1305", {**REFERENCE, CIPHER: CHACHA}),
    Rung("native lane", NATIVE),
    Rung("native lane, ChaCha20-Poly1305", {**NATIVE, CIPHER: CHACHA}),
    Rung("native lane, OpenSSL", {**NATIVE, LIBRARY: "openssl"}),
    Rung("native lane, PyNaCl's libsodium", {**NATIVE, LIBRARY: "pynacl"}),
    Rung("native lane, the system's libsodium", {**NATIVE, LIBRARY: "libsodium"}),
    Rung("native lane, no cipher", {**NATIVE, LIBRARY: "none"}, apart=True),
)
_TELL_PROVIDER = """
import os
from fabric.shell.lanes import choose_lane
lane, library = os.environ["FABRIC_LANE"], os.environ.get("FABRIC_CIPHER_LIBRARY", "auto")
print(choose_lane(lane, bytes(6), [], library=library).provider)
"""

COLUMNS = (
    report.Column("tcp_1_mbits", "TCP 1 stream, Mbit/s", 0),
    report.Column("tcp_4_mbits", "TCP 4, Mbit/s", 0),
    report.Column("daemons_s_per_gb", "CPU s/GB, daemons", 1),
    report.Column("machine_s_per_gb", "CPU s/GB, machine", 1),
    report.Column("small_kpps", "64 B UDP, kpps", 1),
    report.Column("offered_kpps", "offered", 0),
)


def main() -> int:
    become_able([sys.executable, "-m", "tests.bench.ladder", *sys.argv[1:]])
    options = _options()
    if (reason := why_not()) is not None:
        print(reason, file=sys.stderr)
        return 1
    load = os.getloadavg()[0]
    wanted = [rung for rung in RUNGS if _wanted(rung, options.only)]
    providers = _providers(wanted)
    rungs = [rung for rung in wanted if rung.label in providers]
    if not rungs:
        return 1
    rounds = options.rounds or (1 if options.quick else 3)
    readings = interleaved(
        [tunnel(rung.surroundings(), rung.label) for rung in rungs],
        rounds,
        partial(read_load, durations=QUICK if options.quick else FULL),
        _line,
        segmentation=not options.card,
    )
    directory = options.output or (SCRATCH if options.quick or options.only else PUBLISHED)
    text = write(directory, rungs, providers, readings, rounds, load, card=options.card)
    if directory == PUBLISHED:
        report.publish(PAGE, report.with_links(text, STEM), BEGIN, END)
    print(text)
    return 0 if all(len(found) == rounds for found in readings.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-lanes ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round; written to build/bench")
    parser.add_argument("--rounds", type=int, help="how many rounds (default 3, quick 1)")
    parser.add_argument("--only", action="append", help="only rungs whose label contains this")
    parser.add_argument("--card", action="store_true", help="a cable that cuts UDP super-datagrams like a real card")
    parser.add_argument("--output", type=Path, help="directory for the JSON, the table and the plot")
    return parser.parse_args()


def _wanted(rung: Rung, only: Sequence[str] | None) -> bool:
    return not only or any(word in rung.label for word in only)


def _providers(rungs: Sequence[Rung]) -> dict[str, str]:
    """By label, which library does the ciphers; without those rungs that can't stand here, which stderr is told."""
    found = {}
    for rung in rungs:
        try:
            found[rung.label] = _provider(rung)
        except LabError as error:
            print(f"left out {rung.label}: {error}", file=sys.stderr)
    return found


def _provider(rung: Rung) -> str:
    """LabError where this rung can't stand here: a library is not installed, or the build is not there."""
    if strange := unknown_settings(rung.environment):
        raise LabError(f"this fabricd does not look at {', '.join(strange)}")
    asked = subprocess.run(
        [sys.executable, "-P", "-c", _TELL_PROVIDER],
        env={**os.environ, **rung.surroundings()},
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        raise LabError((asked.stderr.strip().splitlines() or ["no reason was given"])[-1])
    return asked.stdout.strip()


def _line(load: Load) -> str:
    return (
        f"{load.tcp_1_mbits:7.0f} / {load.tcp_4_mbits:6.0f} Mbit/s  {load.small_kpps:6.1f} of {load.offered_kpps:.0f} "
        f"kpps  {load.daemons_s_per_gb or 0:.1f} s/GB"
    )


def write(
    directory: Path,
    rungs: Sequence[Rung],
    providers: Mapping[str, str],
    readings: Mapping[str, Sequence[Load]],
    rounds: int,
    load: float,
    *,
    card: bool = False,
) -> str:
    """Writes lanes.json, lanes.md and lanes.svg into `directory`; returns the table, a row for each rung that stood."""
    medians = {label: report.medians_of(found) for label, found in readings.items() if found}
    machine = report.machine_facts(load)
    rows = [
        f"| {rung.label} | {providers[rung.label]} | {report.cells(medians[rung.label], COLUMNS)} |"
        for rung in rungs
        if rung.label in medians
    ]
    text = "\n".join(
        [
            report.opening(machine, rounds, cable_sentence(card)),
            "",
            "| lane | ciphers of | " + " | ".join(column.title for column in COLUMNS) + " |",
            "|---|---|" + "---:|" * len(COLUMNS),
            *rows,
            "",
        ]
    )
    document = {
        "machine": machine,
        "rounds": rounds,
        "card": card,
        "rungs": {rung.label: dict(rung.environment) for rung in rungs},
        "providers": dict(providers),
        "medians": medians,
        "readings": {label: [dataclasses.asdict(one) for one in found] for label, found in readings.items()},
    }
    drawing = plot.draw(medians, set(), plot.LOAD_PANELS, label_width=LABEL_WIDTH, ours="native")
    report.leave(directory, STEM, document, text, drawing)
    return text


if __name__ == "__main__":
    sys.exit(main())
