"""Medians, the table, the plot and the JSON that a run leaves behind."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench import plot
from tests.bench.fabric_tunnel import Life
from tests.bench.gauges import PAYLOAD_BYTES, Load, Reading, figures
from tests.bench.ip_tunnels import WIREGUARD
from tests.bench.tunnels import BARE, NO_CIPHER, VXLAN, Tunnel
from tests.bench.variant import Variant

Medians = dict[str, dict[str, float | None]]
Ratios = dict[str, dict[str, dict[str, float]]]


class Column(NamedTuple):
    figure: str
    title: str
    digits: int


CARRIED = (
    Column("tcp_1_mbits", "TCP 1 stream, Mbit/s", 0),
    Column("tcp_4_mbits", "TCP 4, Mbit/s", 0),
    Column("lossy_mbits", "TCP 1 at 1 % loss, Mbit/s", 0),
    Column("lossy_share", "of the bare cable", 2),
    Column("small_kpps", f"{PAYLOAD_BYTES} B UDP, kpps", 1),
    Column("offered_kpps", "offered", 0),
    Column("daemons_s_per_gb", "CPU s/GB, daemons", 1),
    Column("machine_s_per_gb", "CPU s/GB, machine", 1),
)
ANSWERED = (
    Column("ping_p50_ms", "ping idle p50, ms", 2),
    Column("ping_p99_ms", "p99, ms", 2),
    Column("busy_p50_ms", "busy p50, ms", 3),
    Column("loaded_p50_ms", "under load p50, ms", 2),
    Column("loaded_p99_ms", "p99, ms", 2),
    Column("first_echo_s", "start to first echo, s", 2),
    Column("resident_mib", "memory, MiB", 0),
)
COMPARED = (
    Column("tcp_1_mbits", "TCP 1 stream", 2),
    Column("tcp_4_mbits", "TCP 4", 2),
    Column("lossy_mbits", "TCP 1 at 1 % loss", 2),
    Column("small_kpps", f"{PAYLOAD_BYTES} B UDP", 2),
    Column("ping_p50_ms", "ping idle p50", 2),
    Column("busy_p50_ms", "busy p50", 2),
    Column("loaded_p50_ms", "under load p50", 2),
    Column("machine_s_per_gb", "CPU s/GB, machine", 2),
    Column("resident_mib", "memory", 2),
)
REFERENCES = (WIREGUARD.label, VXLAN.label)


def line(reading: Reading) -> str:
    """One round in one line, for the terminal."""
    load = reading.load
    return (
        f"{load.tcp_1_mbits:7.0f} / {load.tcp_4_mbits:6.0f} Mbit/s, lossy {reading.lossy_mbits:6.0f}  "
        f"{load.small_kpps:6.1f} of {load.offered_kpps:.0f} kpps  ping {reading.ping_p50_ms:.2f} ms, "
        f"busy {reading.busy_p50_ms:.3f}, loaded {reading.loaded_p50_ms:.2f}  {load.machine_s_per_gb:.1f} s/GB"
    )


def write(
    directory: Path,
    tunnels: Sequence[Tunnel],
    readings: Mapping[str, Sequence[Reading]],
    life: Life | None,
    rounds: int,
    *,
    variant: Variant,
    load: float,
) -> str:
    """Writes the JSON, the tables and the plot of a run into `directory`; returns the tables."""
    medians = with_share({label: medians_of(found) for label, found in readings.items() if found})
    ratios = ratios_of(medians)
    machine = machine_facts(load)
    text = "\n".join(
        [
            opening(machine, rounds, variant.sentence()),
            "",
            *_table(tunnels, medians, CARRIED),
            "",
            *_table(tunnels, medians, ANSWERED),
            "",
            *_ratio_tables(ratios),
            *_life(life),
        ]
    )
    document = {
        "machine": machine,
        "rounds": rounds,
        "card": variant.card,
        "cipher": variant.cipher,
        "lane": variant.lane,
        "medians": medians,
        "ratios": ratios,
        "readings": {label: [figures(reading) for reading in found] for label, found in readings.items()},
        "life": dataclasses.asdict(life) if life else None,
    }
    drawing = plot.draw(medians, {tunnel.label for tunnel in tunnels if tunnel.cipher == NO_CIPHER})
    leave(directory, variant.stem, document, text, drawing)
    return text


def leave(directory: Path, stem: str, document: object, text: str, drawing: str) -> None:
    """Writes what a run leaves behind: STEM.json, STEM.md and STEM.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / f"{stem}.md").write_text(text)
    (directory / f"{stem}.svg").write_text(drawing)


def opening(machine: Mapping[str, str | int | float], rounds: int, sentence: str) -> str:
    """Where, when and how it was measured; `sentence` says what is special."""
    load = float(machine["load"])
    return (
        f"Measured {machine['date']} on {machine['processor']}, {machine['processors']} processors, "
        f"Linux {machine['kernel']}, Python {machine['python']}; medians of {rounds} interleaved rounds; {sentence}; "
        f"load average when it began: {load:.1f}" + ("." if load < 1 else ": other work was running beside it.")
    )


def with_links(text: str, stem: str) -> str:
    """The tables as the page shows them: with the plot and all single readings below."""
    plot_link = f"![The medians as bars](measurements/{stem}.svg)"
    return f"{text.strip()}\n\n{plot_link}\n\nAll single readings: [{stem}.json](measurements/{stem}.json)."


def publish(page: Path, text: str, begin: str, end_mark: str) -> None:
    """Puts a text between the marks of a page; leaves alone a page without such marks."""
    before, mark, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(end_mark)
    if mark and end:
        page.write_text(before + mark + "\n" + text.strip() + "\n" + end + after)


def medians_of(readings: Sequence[Reading | Load]) -> dict[str, float | None]:
    """Figure by figure; None for what no reading has."""
    rows = [figures(reading) for reading in readings]
    found = {name: [value for row in rows if (value := row[name]) is not None] for name in rows[0]}
    return {name: round(statistics.median(values), 3) if values else None for name, values in found.items()}


def with_share(medians: Medians) -> Medians:
    """The medians, with what share of the bare cable's throughput under loss is left; None without that row."""
    bare = medians.get(BARE.label, {}).get("lossy_mbits")
    return {label: {**found, "lossy_share": _ratio(found.get("lossy_mbits"), bare)} for label, found in medians.items()}


def ratios_of(medians: Medians) -> Ratios:
    """By reference, then by tunnel, then by figure: how many times the reference's."""
    ratios: Ratios = {}
    for reference in REFERENCES:
        if (base := medians.get(reference)) is not None:
            ratios[reference] = {
                label: {
                    column.figure: ratio
                    for column in COMPARED
                    if (ratio := _ratio(found.get(column.figure), base.get(column.figure))) is not None
                }
                for label, found in medians.items()
                if label != reference
            }
    return ratios


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else round(value / base, 3)


def machine_facts(load: float) -> dict[str, str | int | float]:
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in cpu.items()}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": names.get("model name", platform.machine()),
        "processors": os.cpu_count() or 1,
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load": round(load, 1),
    }


def _table(tunnels: Sequence[Tunnel], medians: Medians, columns: Sequence[Column]) -> list[str]:
    rows = ["| tunnel | layer | cipher | " + " | ".join(column.title for column in columns) + " |"]
    rows.append("|---|---|---|" + "---:|" * len(columns))
    for tunnel in tunnels:
        if (found := medians.get(tunnel.label)) is not None:
            rows.append(f"| {tunnel.label} | {tunnel.layer} | {tunnel.cipher} | {cells(found, columns)} |")
    return rows


def _ratio_tables(ratios: Ratios) -> list[str]:
    rows = []
    for reference, tunnels in ratios.items():
        rows += [f"| times {reference} | " + " | ".join(column.title for column in COMPARED) + " |"]
        rows += ["|---|" + "---:|" * len(COMPARED)]
        rows += [f"| {label} | {cells(found, COMPARED)} |" for label, found in tunnels.items()]
        rows += [""]
    return rows


def cells(found: Mapping[str, float | None], columns: Sequence[Column]) -> str:
    """The figures of one row, in the order of the columns."""
    return " | ".join(_cell(found.get(column.figure), column.digits) for column in columns)


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _life(life: Life | None) -> list[str]:
    if life is None:
        return []
    return [
        "| the daemon's life | measured | aim |",
        "|---|---:|---:|",
        f"| start of `fabricd` to the first answered ping, same LAN | {life.first_ping_lan_s:.2f} s | 1 s |",
        f"| the same through two NATs | {life.first_ping_nats_s:.2f} s | 2 s |",
        f"| processor while idle, one peer | {life.idle_percent:.2f} % | 1 % |",
        f"| processor while idle, ten peers | {life.idle_percent_ten_peers:.2f} % | 1 % |",
        f"| memory with one peer | {life.resident_mib_one_peer:.0f} MiB | |",
        f"| memory with ten peers | {life.resident_mib_ten_peers:.0f} MiB | 80 MB |",
        f"| memory for each further peer | {life.resident_mib_further_peer:.2f} MiB | |",
        "",
        f"With ten peers: {life.programs_mib}.",
        "",
    ]
