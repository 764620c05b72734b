"""Our own tunnel on the cable, and what only a daemon's whole life shows: start-up, idling, memory with peers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fabric.lab import DiscoveryService, Endpoint, Host, Lab, LabError, Nat, Program
from fabric.lab.overlay import await_connected, connect, introduce, side_by_side, start_all
from fabric.lab.product import until
from fabric.shell.config import PREFIX, Config
from tests.bench.cable import RIGHT, Cable
from tests.bench.tunnels import AES, Raised, Tunnel, await_echo
from tests.bench.usage import processor_seconds, resident_mib

NETWORK = "bench"
DEVICE = "fabric0"
CIPHER, LANE, LIBRARY = "FABRIC_CIPHER", "FABRIC_LANE", "FABRIC_CIPHER_LIBRARY"
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

    @property
    def resident_mib_further_peer(self) -> float:
        """What each peer after the first one costs."""
        return (self.resident_mib_ten_peers - self.resident_mib_one_peer) / (PEERS - 1)


def tunnel(environment: Mapping[str, str] | None = None, label: str = "fabric") -> Tunnel:
    """Ours, with settings as the environment of `fabricd` has them."""
    settings = dict(environment or {})
    return Tunnel(label, settings.get(CIPHER, AES), (), partial(_raise, environment=settings))


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """Those that this `fabricd` would not look at: what is measured would have the wrong name."""
    known = {PREFIX + field.upper() for field in Config.__struct_fields__}
    return sorted(name for name in environment if name.startswith(PREFIX) and name not in known)


def enrolled(lab: Lab, hosts: Sequence[Host], environment: Mapping[str, str] | None = None) -> list[Endpoint]:
    """A discovery service, and an endpoint on each of `hosts` that is enrolled with it and runs."""
    service = DiscoveryService(lab, lab.site("service", Nat.PUBLIC).host("discovery"), NETWORK)
    service.init()
    service.start()
    key = service.create_key("--uses", str(len(hosts)))
    endpoints = [Endpoint(lab, host) for host in hosts]
    for endpoint in endpoints:
        endpoint.environment.update(environment or {})
    side_by_side([partial(endpoint.enrol, key) for endpoint in endpoints])
    start_all(endpoints)
    return endpoints


def _raise(cable: Cable, environment: Mapping[str, str]) -> Raised:
    left, right = enrolled(cable.lab, [cable.left, cable.right], environment)
    connect(left, right)
    until(lambda: _over_the_cable(left, right.name), "a path over the cable")
    took = _first_ping_s(left, right)
    until(lambda: _over_the_cable(left, right.name), "a path over the cable")
    _check_settings(left, right, environment)
    return Raised(DEVICE, right.overlay_ip(), [left.process], [right.process], took)


def _over_the_cable(endpoint: Endpoint, peer: str) -> bool:
    seen = endpoint.peer(peer)
    return bool(seen and seen["path"] and str(seen["path"]["remote"]).startswith(f"{RIGHT.ip}:"))


def _check_settings(left: Endpoint, right: Endpoint, environment: Mapping[str, str]) -> None:
    """LabError where the daemon says that it uses another lane or cipher than it was told to."""
    peer = left.peer(right.name) or {}
    for setting, used in ((LANE, left.status()["endpoint"]["lane"]), (CIPHER, peer.get("cipher"))):
        wanted = environment.get(setting, "auto")
        if wanted not in ("auto", used):
            raise LabError(f"{setting} is {wanted}, but {used} is used")


# -- a daemon's life ----------------------------------------------------------------------------------------------


def life(*, quick: bool) -> Life:
    """Measures it all; takes about two minutes, `quick` a minute."""
    repeats, watch_s = (2, 5.0) if quick else (5, 20.0)
    with Lab() as lab:
        house = lab.site("house", Nat.PORT_RESTRICTED)
        left, right = enrolled(lab, [house.host("left"), house.host("right")])
        connect(left, right)
        lan = _median(lambda: _first_ping_s(left, right), repeats)
        idle = _idle_percent(left.process, watch_s)
        one = resident_mib(left.process)
    with Lab() as lab:
        left, right = enrolled(
            lab, [lab.site(side, Nat.PORT_RESTRICTED).host(f"{side}-1") for side in ("west", "east")]
        )
        connect(left, right)
        nats = _median(lambda: _first_ping_s(left, right), repeats)
    with Lab() as lab:
        hub = _hub(lab)
        idle_ten = _idle_percent(hub.process, watch_s)
        ten, parts = resident_mib(hub.process), _parts(hub.process)
    return Life(lan, nats, idle, idle_ten, one, ten, parts)


def _hub(lab: Lab) -> Endpoint:
    """One endpoint with ten connected peers on its LAN."""
    house = lab.site("house", Nat.PORT_RESTRICTED)
    hub, *others = enrolled(lab, [house.host(f"host-{number}") for number in range(PEERS + 1)])
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
    took = await_echo(left.host, target, began, [left.process])
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
