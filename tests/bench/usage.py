"""What programs and the machine have used so far: processor time and memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fabric.lab import Program
from tests.bench.tunnels import Raised

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def family(program: Program) -> Iterator[int]:
    """The process and all that it started: a daemon may keep its keys in a process of its own."""
    waiting = [program.pid]
    while waiting:
        pid = waiting.pop()
        yield pid
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())


def processor_seconds(program: Program) -> float:
    """User and system time of a program and its children so far, exact to a tick (10 ms)."""
    total = 0
    for pid in family(program):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def resident_mib(program: Program) -> float:
    """Memory held by a program and its children."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family(program)) * PAGE_BYTES / 2**20


def daemon_seconds(raised: Raised) -> float:
    return sum(map(processor_seconds, raised.programs))


def machine_seconds() -> float:
    """Busy time of all processors: what the kernel does in interrupts for no process is in here too."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S
