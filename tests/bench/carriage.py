"""What each kind of path carries: one TCP stream, its price in processor time, and round trips.

                     ( internet )----[discovery with a relay]----[another relay]
      |           |            |            |            |            |
    port-r.    port-r.,      no UDP     symmetric    symmetric,    TCP 443
             line of 1,280                           two copies     only         left-... and right-... of each kind

All pairs stand in one laboratory and are read in turn, several rounds, so that the rows can be compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from fabric.lab import Endpoint, Host, Lab, Nat, Overlay, Program, Relay
from fabric.lab.overlay import await_reach, introduce
from fabric.lab.product import until
from tests.bench.asking import Pair, await_paths
from tests.bench.fabric_tunnel import DEVICE
from tests.bench.gauges import GIGABYTE, percentile, ping, streams
from tests.bench.tunnels import Raised
from tests.bench.usage import daemon_seconds, machine_seconds

UNLIMITED = "relay_rate_bytes_s = 1000000000"
"""The usual limit of a pair, 100 Mbit/s, is policy and would hide what the relay can do."""
ROUNDS, QUICK_ROUNDS = 3, 1
STREAM_S, QUICK_STREAM_S = 3, 2
PINGS = 200
PATH_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Way:
    """A kind of path, and between which networks it is the best one."""

    label: str
    nat: Nat
    path: str
    line_bytes: int = 1500
    copies: int = 1


WAYS = (
    Way("direct, UDP", Nat.PORT_RESTRICTED, "direct-udp"),
    Way("direct, UDP, line of 1,280 bytes", Nat.PORT_RESTRICTED, "direct-udp", line_bytes=1280),
    Way("direct, TCP", Nat.UDP_BLOCKED, "direct-tcp"),
    Way("relay, UDP", Nat.SYMMETRIC, "relay-udp"),
    Way("relay, UDP, two copies", Nat.SYMMETRIC, "relay-udp", copies=2),
    Way("relay, TLS", Nat.WEB_ONLY, "relay-tls"),
)


@dataclass(frozen=True, slots=True)
class Carried:
    """One way, medians of the rounds: Mbit/s, seconds per 10^9 bytes of daemons and relays, and of all, milliseconds.

    `datagram_bytes` is the longest datagram that the path was found to carry.
    """

    label: str
    tcp_1_mbits: float
    daemons_s_per_gb: float
    machine_s_per_gb: float
    ping_p50_ms: float
    ping_p99_ms: float
    datagram_bytes: int


@dataclass(frozen=True, slots=True)
class _Ends:
    left: Host
    right: Host


def measure(*, quick: bool) -> list[Carried]:
    """Takes about two minutes, `quick` a half one."""
    rounds, stream_s = (QUICK_ROUNDS, QUICK_STREAM_S) if quick else (ROUNDS, STREAM_S)
    with Lab("bench-carry") as lab:
        relay_host = lab.site("s-relay", Nat.PUBLIC).host("relay")
        overlay = Overlay(lab, configuration=f'{UNLIMITED}\nrelays = ["{relay_host.ip}"]')
        relay = Relay(lab, relay_host, overlay.discovery, configuration=UNLIMITED)
        relay.start()
        relays = [overlay.discovery.process, relay.process]
        pairs = [_pair(lab, overlay, number, way) for number, way in enumerate(WAYS)]
        found: list[list[Carried]] = [[] for _ in WAYS]
        for _ in range(rounds):
            for way, (left, right), readings in zip(WAYS, pairs, found, strict=True):
                readings.append(_read(way, left, right, relays, stream_s))
    return [_median(readings) for readings in found]


def _pair(lab: Lab, overlay: Overlay, number: int, way: Way) -> Pair:
    places = {f"{side}-{number}": lab.site(f"s-{side}-{number}", way.nat) for side in ("left", "right")}
    for site in places.values():
        if way.line_bytes != 1500:
            site.narrow(way.line_bytes)
    configuration = f"relay_copies = {way.copies}" if way.copies > 1 else ""
    left, right = overlay.endpoints(places, configuration=configuration).values()
    introduce(left, right)
    await_paths([(left, right)], way.path, PATH_WITHIN_S)
    await_reach(left, right, PATH_WITHIN_S)
    return left, right


def _read(way: Way, left: Endpoint, right: Endpoint, relays: Sequence[Program], stream_s: int) -> Carried:
    await_paths([(left, right)], way.path, PATH_WITHIN_S)
    ends = _Ends(left.host, right.host)
    raised = Raised(DEVICE, right.overlay_ip(), [left.process, *relays], [right.process])
    times_ms = ping(ends, raised, PINGS)
    server = right.host.start("iperf3", "--server", "--forceflush", log=f"iperf3-{right.name}.log")
    try:
        until(lambda: "listening" in server.output(), "iperf3 listening")
        daemons, machine = daemon_seconds(raised), machine_seconds()
        mbits, transferred = streams(ends, raised, 1, stream_s)
        daemons, machine = daemon_seconds(raised) - daemons, machine_seconds() - machine
    finally:
        server.terminate()
    peer = left.peer(right.name)
    gigabytes = transferred / GIGABYTE
    return Carried(
        label=way.label,
        tcp_1_mbits=mbits,
        daemons_s_per_gb=daemons / gigabytes,
        machine_s_per_gb=machine / gigabytes,
        ping_p50_ms=percentile(times_ms, 50),
        ping_p99_ms=percentile(times_ms, 99),
        datagram_bytes=peer["path"]["mtu"] if peer and peer["path"] else 0,
    )


def _median(readings: Sequence[Carried]) -> Carried:
    rows = [asdict(reading) for reading in readings]
    figures = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name != "label"}
    return Carried(readings[0].label, **{name: round(value, 3) for name, value in figures.items()})
