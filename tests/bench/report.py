"""Medians, the table, the plot and the JSON that a run leaves behind."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from tests.bench import plot
from tests.bench.fabric_tunnel import Life
from tests.bench.gauges import PAYLOAD_BYTES, Reading
from tests.bench.tunnels import NO_CIPHER, Tunnel

FIGURES, END_OF_FIGURES = "<!-- figures -->", "<!-- end of figures -->"

Medians = dict[str, dict[str, float | None]]

COLUMNS = (
    ("tcp_1_mbits", "TCP 1 stream, Mbit/s", 0),
    ("tcp_4_mbits", "TCP 4, Mbit/s", 0),
    ("small_kpps", f"{PAYLOAD_BYTES} B UDP, kpps", 1),
    ("ping_p50_ms", "ping idle p50, ms", 2),
    ("ping_p99_ms", "p99, ms", 2),
    ("loaded_p50_ms", "under load p50, ms", 2),
    ("loaded_p99_ms", "p99, ms", 2),
    ("daemons_s_per_gb", "CPU s/GB, daemons", 1),
    ("machine_s_per_gb", "CPU s/GB, machine", 1),
    ("resident_mib", "memory, MiB", 0),
)


def line(reading: Reading) -> str:
    """One round in one line, for the terminal."""
    return (
        f"{reading.tcp_1_mbits:7.0f} / {reading.tcp_4_mbits:6.0f} Mbit/s {reading.small_kpps:6.1f} kpps  "
        f"ping {reading.ping_p50_ms:.2f} ms, loaded {reading.loaded_p50_ms:.2f} ms  {reading.machine_s_per_gb:.1f} s/GB"
    )


def write(
    directory: Path,
    tunnels: Sequence[Tunnel],
    readings: dict[str, list[Reading]],
    life: Life | None,
    rounds: int,
    *,
    segmentation: bool,
    load: float,
) -> str:
    """Writes bench.json, bench.md and bench.svg into `directory`; returns the text of bench.md."""
    medians = {label: _medians(found) for label, found in readings.items() if found}
    machine = machine_facts(load)
    text = "\n".join(
        [
            f"Measured {machine['date']} on {machine['processor']}, {machine['processors']} processors, "
            f"Linux {machine['kernel']}, Python {machine['python']}; medians of {rounds} interleaved rounds; "
            f"the cable {'takes' if segmentation else 'does not take'} UDP super-datagrams whole; "
            f"load average when it began: {load:.1f}" + ("." if load < 1 else ": other work was running beside it."),
            "",
            *_table(tunnels, medians),
            "",
            *_life(life),
        ]
    )
    directory.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine,
        "rounds": rounds,
        "segmentation": segmentation,
        "medians": medians,
        "readings": {label: [dataclasses.asdict(reading) for reading in found] for label, found in readings.items()},
        "life": dataclasses.asdict(life) if life else None,
    }
    (directory / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / "bench.md").write_text(text)
    (directory / "bench.svg").write_text(
        plot.draw(medians, {tunnel.label for tunnel in tunnels if tunnel.cipher == NO_CIPHER})
    )
    return text


def publish(page: Path, text: str, begin: str = FIGURES, end_mark: str = END_OF_FIGURES) -> None:
    """Puts a text between the marks of a page; those of bench.md if none are named."""
    before, mark, rest = page.read_text().partition(begin)
    _, end, after = rest.partition(end_mark)
    if mark and end:
        page.write_text(before + mark + "\n" + text.strip() + "\n" + end + after)


def _medians(readings: Sequence[Reading]) -> dict[str, float | None]:
    medians: dict[str, float | None] = {}
    for field in dataclasses.fields(Reading):
        values = [value for reading in readings if (value := getattr(reading, field.name)) is not None]
        medians[field.name] = round(statistics.median(values), 3) if values else None
    return medians


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


def _table(tunnels: Sequence[Tunnel], medians: Medians) -> list[str]:
    rows = ["| tunnel | cipher | " + " | ".join(title for _, title, _ in COLUMNS) + " |"]
    rows.append("|---|---|" + "---:|" * len(COLUMNS))
    for tunnel in tunnels:
        if (found := medians.get(tunnel.label)) is not None:
            cells = [_cell(found[name], digits) for name, _, digits in COLUMNS]
            rows.append(f"| {tunnel.label} | {tunnel.cipher} | " + " | ".join(cells) + " |")
    return rows


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
        "",
        f"With ten peers: {life.programs_mib}.",
        "",
    ]
