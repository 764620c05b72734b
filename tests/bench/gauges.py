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
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol

from fabric.lab import Host, LabError, Program
from fabric.lab.product import until
from tests.bench import flood
from tests.bench.cable import Cable
from tests.bench.tunnels import Raised
from tests.bench.usage import daemon_seconds, machine_seconds, resident_mib

PAYLOAD_BYTES = 64
FLOOD_PORT = 9  # discard
GIGABYTE = 1e9
LOST_PER_MILLE = 10
PING_INTERVAL_S = 0.01
FLOOD_WITHIN_S = 20.0
FLOOD_LEAD = 5
"""Tenths of a second that the sender of small datagrams has been at it before it counts."""
FLOWING_BYTES = 20_000_000
"""After so many a stream is out of its slow start: its queues are full."""


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
    busy_s: int


FULL = Durations(stream_s=4, flood_s=2.5, pings=300, busy_s=2)
QUICK = Durations(stream_s=2, flood_s=1.5, pings=100, busy_s=1)


@dataclass(frozen=True, slots=True)
class Load:
    """What a tunnel carries at most, and the price of it: Mbit/s, thousand packets/s, seconds per 10^9 bytes.

    `offered_kpps` is what the kernel took from the sender of small datagrams: if about as much came out, the tunnel can
    do more.
    """

    tcp_1_mbits: float
    tcp_4_mbits: float
    small_kpps: float
    offered_kpps: float
    daemons_s_per_gb: float | None
    machine_s_per_gb: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One round over one tunnel: beside its load, Mbit/s, milliseconds, percent, MiB, seconds.

    `lossy_mbits` is one TCP stream while each end loses every hundredth packet that the cable brings; `loaded_lost` how
    many of a hundred pings got no answer beside a bulk stream.
    """

    load: Load
    lossy_mbits: float
    ping_p50_ms: float
    ping_p99_ms: float
    busy_p50_ms: float
    loaded_p50_ms: float
    loaded_p99_ms: float
    loaded_lost: float
    resident_mib: float | None
    first_echo_s: float | None


def figures(reading: Reading | Load) -> dict[str, float | None]:
    """All of it by name, those of its load among them."""
    flat = asdict(reading)
    return {**flat.pop("load", {}), **flat}


def read(cable: Cable, raised: Raised, durations: Durations) -> Reading:
    """All gauges, one after the other."""
    idle = ping(cable, raised, durations.pings)
    busy = busy_ping(cable, raised, durations.busy_s)
    with serving(cable) as server:
        load = _read_load(cable, server, raised, durations)
        server.await_free()
        loaded = _loaded_ping(cable, raised, durations)
        resident = max(map(resident_mib, raised.programs)) if raised.programs else None
        cable.lose(LOST_PER_MILLE)
        server.await_free()
        lossy, _ = streams(cable, raised, 1, durations.stream_s)
    return Reading(
        load=load,
        lossy_mbits=lossy,
        ping_p50_ms=percentile(idle, 50),
        ping_p99_ms=percentile(idle, 99),
        busy_p50_ms=percentile(busy, 50),
        loaded_p50_ms=percentile(loaded, 50),
        loaded_p99_ms=percentile(loaded, 99),
        loaded_lost=100 * (1 - len(loaded) / durations.pings),
        resident_mib=resident,
        first_echo_s=raised.first_echo_s,
    )


def read_load(cable: Cable, raised: Raised, durations: Durations) -> Load:
    """Only what it carries, and the price of it."""
    with serving(cable) as server:
        return _read_load(cable, server, raised, durations)


def _read_load(cable: Cable, server: _Server, raised: Raised, durations: Durations) -> Load:
    server.await_free()
    daemons, machine = daemon_seconds(raised), machine_seconds()
    one, transferred = streams(cable, raised, 1, durations.stream_s)
    daemons, machine = daemon_seconds(raised) - daemons, machine_seconds() - machine
    server.await_free()
    four, _ = streams(cable, raised, 4, durations.stream_s)
    small, offered = _flood(cable, raised, durations.flood_s)
    return Load(
        tcp_1_mbits=one,
        tcp_4_mbits=four,
        small_kpps=small,
        offered_kpps=offered,
        daemons_s_per_gb=daemons / transferred * GIGABYTE if raised.programs else None,
        machine_s_per_gb=machine / transferred * GIGABYTE,
    )


class _Server:
    """iperf3 on the right. It listens anew for each test, and resets who calls before it does."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._tests = 0

    def await_free(self) -> None:
        """Returns when the next test may begin; to be called once before each."""
        self._tests += 1
        until(lambda: self.program.output().count("listening") >= self._tests, "iperf3 listening")


@contextlib.contextmanager
def serving(cable: Cable) -> Iterator[_Server]:
    server = _Server(cable.start(cable.right, ["iperf3", "--server", "--forceflush"]))
    try:
        yield server
    finally:
        server.program.terminate()


# -- throughput ---------------------------------------------------------------------------------------------------


def streams(cable: Ends, raised: Raised, count: int, seconds: int) -> tuple[float, float]:
    """(Mbit/s received, bytes received) over so many TCP streams."""
    words = ["iperf3", "--client", raised.target, "--json", "--time", str(seconds), "--parallel", str(count)]
    report = json.loads(cable.left.run(*words, timeout_s=seconds + 30).output)
    if "error" in report:
        raise LabError(f"iperf3: {report['error']}")
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e6, received["bytes"]


_SINK = """
import socket, sys, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("", int(sys.argv[1])))
print("bound")
time.sleep(600)
"""


def _flood(cable: Cable, raised: Raised, seconds: float) -> tuple[float, float]:
    """(delivered, offered): thousand small datagrams a second that the tunnel hands to the right kernel, while the left
    offers all that one processor can.

    The receiving device counts them, so that neither the receiving program nor its socket buffer is measured.
    """
    sink = cable.start(cable.right, [sys.executable, "-S", "-c", _SINK, str(FLOOD_PORT)])
    until(lambda: "bound" in sink.output(), "the sink")
    words = [raised.target, str(FLOOD_PORT), str(PAYLOAD_BYTES), str(seconds + FLOOD_WITHIN_S)]
    sender = cable.start(cable.left, [sys.executable, "-S", flood.__file__, *words])
    try:
        until(lambda: sender.output().count("\n") > FLOOD_LEAD, "the sender of small datagrams")
        device = cable.right.namespace
        packets, began = device.counters(raised.device).rx_packets, time.monotonic()
        offered, offered_began = _taken(sender)
        time.sleep(seconds)
        packets = device.counters(raised.device).rx_packets - packets
        delivered = packets / (time.monotonic() - began) / 1e3
        offered_now, now = _taken(sender)
        return delivered, (offered_now - offered) / (now - offered_began) / 1e3
    finally:
        sender.terminate()
        sink.terminate()


def _taken(sender: Program) -> tuple[int, float]:
    """(datagrams so far, when): the last whole line that `flood` has printed."""
    when, taken = sender.output().rpartition("\n")[0].rpartition("\n")[2].split()
    return int(taken), float(when)


# -- round trips --------------------------------------------------------------------------------------------------


def ping(cable: Ends, raised: Raised, count: int, interval_s: float = PING_INTERVAL_S) -> list[float]:
    """Round trips in milliseconds of those pings that were answered."""
    words = ["ping", "-n", "-c", str(count), "-i", str(interval_s), "-W", "2", raised.target]
    return _round_trips(cable, words, count * interval_s + 20)


def busy_ping(cable: Ends, raised: Raised, seconds: int) -> list[float]:
    """Round trips in milliseconds where each ping leaves when the one before is answered: nothing has time to sleep."""
    return _round_trips(cable, ["ping", "-n", "-A", "-w", str(seconds), raised.target], seconds + 20)


def _round_trips(cable: Ends, words: Sequence[str], timeout_s: float) -> list[float]:
    printed = cable.left.run(*words, timeout_s=timeout_s).output
    times = [float(found) for found in re.findall(r"time=([\d.]+) ms", printed)]
    if not times:
        raise LabError(f"no ping was answered: {printed[-300:]}")
    return times


def _loaded_ping(cable: Cable, raised: Raised, durations: Durations) -> list[float]:
    """Round trips while one TCP stream fills the tunnel."""
    seconds = int(durations.pings * PING_INTERVAL_S) + 10
    before = cable.right.namespace.counters(raised.device).rx_bytes
    bulk = cable.start(cable.left, ["iperf3", "--client", raised.target, "--time", str(seconds)])
    try:
        flows = partial(_has_taken, cable.right, raised.device, before + FLOWING_BYTES)
        until(flows, "the bulk stream")
        times = ping(cable, raised, durations.pings)
        if not bulk.running:
            raise LabError(f"the bulk stream ended before the pings did: {bulk.last_words(5)}")
        return times
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(bulk.pid, signal.SIGINT)
        bulk.terminate()


def _has_taken(host: Host, device: str, received_bytes: int) -> bool:
    return host.namespace.counters(device).rx_bytes > received_bytes


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
