"""What is read off a standing tunnel: throughput, packet rate, round trips, processor time, memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fabric.lab import Host, LabError, Program
from fabric.lab.product import until
from tests.bench.cable import Cable
from tests.bench.tunnels import Raised

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PAYLOAD_BYTES = 64
FLOOD_PORT = 9  # discard
GIGABYTE = 1e9


class Ends(Protocol):
    """Two hosts with a tunnel between them; the load goes from left to right."""

    @property
    def left(self) -> Host: ...

    @property
    def right(self) -> Host: ...


@dataclass(frozen=True, slots=True)
class Durations:
    """How long each gauge is read, in seconds, and how many pings are sent."""

    stream_s: int
    flood_s: float
    pings: int


FULL = Durations(stream_s=5, flood_s=3.0, pings=400)
QUICK = Durations(stream_s=2, flood_s=1.5, pings=100)


@dataclass(frozen=True, slots=True)
class Reading:
    """One round over one tunnel. Mbit/s, thousand packets/s, milliseconds, seconds per 10^9 bytes, MiB."""

    tcp_1_mbits: float
    tcp_4_mbits: float
    small_kpps: float
    ping_p50_ms: float
    ping_p99_ms: float
    loaded_p50_ms: float
    loaded_p99_ms: float
    daemons_s_per_gb: float | None
    machine_s_per_gb: float
    resident_mib: float | None


def read(cable: Cable, raised: Raised, durations: Durations) -> Reading:
    """All gauges, one after the other."""
    idle = ping(cable, raised, durations.pings)
    server = cable.start(cable.right, ["iperf3", "--server", "--forceflush"])
    try:
        until(lambda: "listening" in server.output(), "iperf3 listening")
        daemons, machine = daemon_seconds(raised), machine_seconds()
        one, transferred = streams(cable, raised, 1, durations.stream_s)
        daemons, machine = daemon_seconds(raised) - daemons, machine_seconds() - machine
        four, _ = streams(cable, raised, 4, durations.stream_s)
        loaded = _loaded_ping(cable, raised, durations)
    finally:
        server.terminate()
    return Reading(
        tcp_1_mbits=one,
        tcp_4_mbits=four,
        small_kpps=_flood(cable, raised, durations.flood_s),
        ping_p50_ms=percentile(idle, 50),
        ping_p99_ms=percentile(idle, 99),
        loaded_p50_ms=percentile(loaded, 50),
        loaded_p99_ms=percentile(loaded, 99),
        daemons_s_per_gb=daemons / transferred * GIGABYTE if raised.programs else None,
        machine_s_per_gb=machine / transferred * GIGABYTE,
        resident_mib=max(map(resident_mib, raised.programs)) if raised.programs else None,
    )


# -- throughput ---------------------------------------------------------------------------------------------------


def streams(cable: Ends, raised: Raised, count: int, seconds: int) -> tuple[float, float]:
    """(Mbit/s received, bytes received) over so many TCP streams."""
    words = ["iperf3", "--client", raised.target, "--json", "--time", str(seconds), "--parallel", str(count)]
    report = json.loads(cable.left.run(*words, timeout_s=seconds + 30).output)
    if "error" in report:
        raise LabError(f"iperf3: {report['error']}")
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e6, received["bytes"]


_FLOOD = """
import socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect((sys.argv[1], int(sys.argv[2])))
payload, send, clock = bytes(int(sys.argv[3])), sender.send, time.monotonic
end = clock() + float(sys.argv[4])
while clock() < end:
    for _ in range(256):
        try:
            send(payload)
        except OSError:
            pass
"""

_SINK = """
import socket, sys, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("", int(sys.argv[1])))
print("bound")
time.sleep(600)
"""


def _flood(cable: Cable, raised: Raised, seconds: float) -> float:
    """Thousand small datagrams a second that the tunnel hands to the right kernel while the left offers all it can.

    The receiving device counts them, so that neither the receiving program nor its socket buffer is measured.
    """
    sink = cable.start(cable.right, [sys.executable, "-S", "-c", _SINK, str(FLOOD_PORT)])
    until(lambda: "bound" in sink.output(), "the sink")
    words = [sys.executable, "-S", "-c", _FLOOD, raised.target, str(FLOOD_PORT), str(PAYLOAD_BYTES), str(seconds + 1.5)]
    flood = cable.start(cable.left, words)
    try:
        time.sleep(0.8)
        device = cable.right.namespace
        packets, began = device.counters(raised.device).rx_packets, time.monotonic()
        time.sleep(seconds)
        packets = device.counters(raised.device).rx_packets - packets
        return packets / (time.monotonic() - began) / 1e3
    finally:
        flood.terminate()
        sink.terminate()


# -- round trips --------------------------------------------------------------------------------------------------


def ping(cable: Ends, raised: Raised, count: int, interval_s: float = 0.01) -> list[float]:
    """Round trips in milliseconds of those pings that were answered."""
    words = ["ping", "-n", "-c", str(count), "-i", str(interval_s), "-W", "2", raised.target]
    printed = cable.left.run(*words, timeout_s=count * interval_s + 20).output
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", printed)]
    if not times:
        raise LabError(f"no ping was answered: {printed[-300:]}")
    return times


def _loaded_ping(cable: Cable, raised: Raised, durations: Durations) -> list[float]:
    """Round trips while one TCP stream fills the tunnel."""
    seconds = durations.pings * 0.01 + 2
    bulk = cable.start(cable.left, ["iperf3", "--client", raised.target, "--time", str(int(seconds + 3))])
    try:
        time.sleep(1.0)
        return ping(cable, raised, durations.pings)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(bulk.pid, signal.SIGINT)
        bulk.terminate()


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


# -- processor and memory -----------------------------------------------------------------------------------------


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
