"""What the demo needs behind the scenes: a live table, and scripts to play on with."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from fabric.lab import Endpoint, Lab, LabError
from fabric.lab.ability import UNSHARED

KIND_IN_WORDS = {
    "lan": "same LAN",
    "direct-udp": "direct",
    "direct-tcp": "direct TCP",
    "relay-udp": "relay",
    "relay-tls": "relay TLS",
}


class Watch:
    """A table of all pairs, kept fresh by asking each endpoint for its status while the block lasts."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._views: dict[tuple[str, str], dict[str, Any]] = {}
        self._speeds: dict[tuple[str, str], float] = {}
        self._rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        asked: dict[str, float] = {}
        while not self._stop.wait(0.2):
            for endpoint in self._endpoints[:-1]:
                with suppress(LabError):
                    peers, now = endpoint.status()["peers"], time.monotonic()
                    self._take(endpoint.name, peers, now - asked.get(endpoint.name, now))
                    asked[endpoint.name] = now
            self._rounds += 1

    def look_once_more(self) -> None:
        """Returns after one whole round of asking from now, so that the table shows how it ended."""
        wanted = self._rounds + 2
        while self._rounds < wanted:
            time.sleep(0.05)

    def _take(self, name: str, peers: Sequence[dict[str, Any]], passed_s: float) -> None:
        for peer in peers:
            pair = name, str(peer["name"]).partition(".")[0]
            before = self._views.get(pair)
            if before is not None and passed_s > 0:
                moved = sum(peer[which] - before[which] for which in ("rx_bytes", "tx_bytes"))
                self._speeds[pair] = max(self._speeds.get(pair, 0.0), moved * 8 / passed_s / 1e6)  # the peak so far
            self._views[pair] = peer

    def __rich__(self) -> Table:
        table = Table("pair", "path", "through", "cipher", "round trip", "traffic", box=box.SIMPLE_HEAD)
        for one, other in combinations((endpoint.name for endpoint in self._endpoints), 2):
            table.add_row(f"{one} ↔ {other}", *self._cells((one, other)))
        return table

    def _cells(self, pair: tuple[str, str]) -> Sequence[str]:
        view = self._views.get(pair)
        if view is None:
            return ("…",) * 5
        path = view["path"] or {}
        trip = path.get("rtt_ms")
        return (
            KIND_IN_WORDS.get(path.get("kind", ""), str(view["state"])),
            str(path.get("remote", "")),
            str(view["cipher"] or ""),
            f"{trip:.1f} ms" if trip is not None else "",
            f"{self._speeds.get(pair, 0.0):.0f} Mbit/s",
        )


def hand_over(lab: Lab, endpoints: Mapping[str, Endpoint], take_down: Sequence[str]) -> tuple[Path, Path]:
    """Writes two scripts for a demo that stays: `at HOST COMMAND...`, and `down`. Returns their paths."""
    join = ""
    if UNSHARED in os.environ:  # the names of namespaces are in a mount namespace that only its processes know
        inhabitant = next(iter(endpoints.values())).process.pid
        join = f"nsenter --target {inhabitant} --user --mount --preserve-credentials "
    at, down = lab.directory / "at", lab.directory / "down"
    _write_script(
        at,
        "# at HOST COMMAND...   runs a command on a host of the demo; without a command, a shell",
        'host="${1:?which host?}"; shift',
        f'export FABRIC_STATE="{lab.directory}/$host" DISCOVERY_STATE="{lab.directory}/discovery"',
        f'export PATH="{Path(sys.executable).parent}:$PATH:/usr/sbin:/sbin"',
        f'exec {join}nsenter --net="/run/netns/{lab.prefix}$host" "${{@:-sh}}"',
    )
    _write_script(down, "# takes the demo down", f"exec {join}{shlex.join(take_down)}")
    return at, down


def _write_script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
