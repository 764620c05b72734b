"""Rounds over several tunnels, interleaved: what slows the machine down for a while falls on all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from fabric.lab import LabError
from tests.bench.cable import Cable, cable
from tests.bench.tunnels import Raised, Tunnel

R = TypeVar("R")


def interleaved(
    tunnels: Sequence[Tunnel],
    rounds: int,
    read: Callable[[Cable, Raised], R],
    describe: Callable[[R], str],
    *,
    segmentation: bool,
) -> dict[str, list[R]]:
    """What was read of each tunnel, by label; each is raised anew in every round. Failures are told on stderr."""
    readings: dict[str, list[R]] = {tunnel.label: [] for tunnel in tunnels}
    for number in range(1, rounds + 1):
        for tunnel in tunnels:
            try:
                with cable(segmentation=segmentation) as made:
                    reading = read(made, tunnel.raise_(made))
            except (LabError, ValueError, KeyError) as error:
                print(f"round {number}: {tunnel.label} failed: {error}", file=sys.stderr)
                continue
            readings[tunnel.label].append(reading)
            print(f"round {number}/{rounds} {tunnel.label:<13} {describe(reading)}", file=sys.stderr, flush=True)
    return readings
