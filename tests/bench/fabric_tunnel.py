"""Our own tunnel on the cable, and what only a daemon's whole life shows: start-up, idling, memory with peers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fabric.lab import DiscoveryService, Endpoint, Host, Lab, LabError, Nat, Program
from fabric.lab.overlay import await_connected, connect, introduce, side_by_side, start_all
from fabric.lab.product import until
from tests.bench.cable import RIGHT, Cable
from tests.bench.gauges import processor_seconds, resident_mib
from tests.bench.tunnels import Raised, Tunnel

NETWORK = "bench"
DEVICE = "fabric0"
PEERS = 10


@dataclass(frozen=True, slots=True)
class Life:
    """Seconds from starting `fabricd` to the first answered ping; percent of one processor; MiB."""

    first_ping_lan_s: float
    first_ping_nats_s: float
    idle_percent: float
    idle_percent_ten_peers: float
    resident_mib_one_peer: float
    resident_mib_ten_peers: float
    programs_mib: str


def _enrolled(lab: Lab, hosts: Sequence[Host]) -> list[Endpoint]:
    """A discovery service, and an endpoint on each of `hosts` that is enrolled with it and runs."""
    service = DiscoveryService(lab, lab.site("service", Nat.PUBLIC).host("discovery"), NETWORK)
    service.init()
    service.start()
    key = service.create_key("--uses", str(len(hosts)))
    endpoints = [Endpoint(lab, host) for host in hosts]
    side_by_side([partial(endpoint.enrol, key) for endpoint in endpoints])
    start_all(endpoints)
    return endpoints


def _raise(cable: Cable) -> Raised:
    left, right = _enrolled(cable.lab, [cable.left, cable.right])
    connect(left, right)
    until(lambda: _over_the_cable(left, right.name), "a path over the cable")
    target = right.overlay_ip()
    until(lambda: left.reaches(target), "the first ping")
    return Raised(DEVICE, target, [left.process], [right.process])


def _over_the_cable(endpoint: Endpoint, peer: str) -> bool:
    seen = endpoint.peer(peer)
    return bool(seen and seen["path"] and str(seen["path"]["remote"]).startswith(f"{RIGHT.ip}:"))


TUNNEL = Tunnel("fabric", "aes-256-gcm", (), _raise)


# -- a daemon's life ----------------------------------------------------------------------------------------------


def life(*, quick: bool) -> Life:
    """Measures it all; takes about two minutes, `quick` a minute."""
    repeats, watch_s = (2, 5.0) if quick else (5, 20.0)
    with Lab("bench-lan") as lab:
        house = lab.site("house", Nat.PORT_RESTRICTED)
        left, right = _enrolled(lab, [house.host("left"), house.host("right")])
        connect(left, right)
        lan = _median(lambda: _first_ping_s(left, right), repeats)
        idle = _idle_percent(left.process, watch_s)
        one = resident_mib(left.process)
    with Lab("bench-nat") as lab:
        left, right = _enrolled(
            lab, [lab.site(side, Nat.PORT_RESTRICTED).host(f"{side}-1") for side in ("west", "east")]
        )
        connect(left, right)
        nats = _median(lambda: _first_ping_s(left, right), repeats)
    with Lab("bench-ten") as lab:
        hub = _hub(lab)
        idle_ten = _idle_percent(hub.process, watch_s)
        ten, parts = resident_mib(hub.process), _parts(hub.process)
    return Life(lan, nats, idle, idle_ten, one, ten, parts)


def _hub(lab: Lab) -> Endpoint:
    """One endpoint with ten connected peers on its LAN."""
    house = lab.site("house", Nat.PORT_RESTRICTED)
    hub, *others = _enrolled(lab, [house.host(f"host-{number}") for number in range(PEERS + 1)])
    for other in others:
        introduce(hub, other)
    for other in others:
        await_connected(hub, other, timeout_s=30)
    return hub


def _median(measure: Callable[[], float], repeats: int) -> float:
    return statistics.median(measure() for _ in range(repeats))


def _first_ping_s(left: Endpoint, right: Endpoint) -> float:
    """Stops the left daemon, starts it, and times from there to the first answered ping of the running right one."""
    target = right.overlay_ip()
    left.stop()
    time.sleep(1.0)
    began = time.monotonic()
    listener = left.launch()
    words = ("ping", "-n", "-c", "1", "-W", "0.1", target)
    while left.host.run(*words).code != 0:
        if time.monotonic() - began > 30:
            raise LabError(f"no ping was answered within 30 s of the start:\n{left.last_words()}")
    took = time.monotonic() - began
    left.await_ready(listener)
    return took


def _idle_percent(program: Program, watch_s: float) -> float:
    """Of one processor, with sessions that stand and nothing to carry."""
    time.sleep(3.0)
    seconds, began = processor_seconds(program), time.monotonic()
    time.sleep(watch_s)
    return (processor_seconds(program) - seconds) / (time.monotonic() - began) * 100


def _parts(program: Program) -> str:
    """What the memory is made of, as the kernel tells: anonymous, and files mapped (shared by several daemons)."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{program.pid}/status").read_text().splitlines() if ":" in line
    )
    anonymous, files = (int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return f"{anonymous:.0f} MiB its own, {files:.0f} MiB files mapped, of {Path(program.arguments[0]).name}"
