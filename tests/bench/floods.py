"""`make bench ARGS="--only floods"`: what a running session keeps while somebody floods one end of it.

    left ==== cable ==== right ==== wire 10.92.0.0/24 ==== intruder

One TCP stream runs from left to right over the overlay. The intruder, whom right has added as a peer, throws what
`garbage` makes at right's port, as fast as one processor can. Then as many a second are thrown at a port of right
where nobody listens: sender, both daemons, both ends of the stream and the kernel share the processors of one machine,
and what the kernel's own work at a flood costs the stream is not ours to save. What counts is the ratio of the two,
at the median of some rounds: one stream of a few seconds differs from the next by more than a flood takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from ipaddress import IPv4Interface
from pathlib import Path

from fabric.custody.identity_file import Surroundings, open_identity
from fabric.lab import Endpoint, Host, Nat, Program
from fabric.lab.overlay import connect
from fabric.lab.product import until
from fabric.lab.wiretap import Ear
from fabric.shell.keystore import Keystore
from fabric.wire.offer import decode_offer
from tests.bench import barrage, garbage
from tests.bench.cable import DEVICE, Cable, cable
from tests.bench.fabric_tunnel import NETWORK, enrolled
from tests.bench.gauges import serving, streams
from tests.bench.tunnels import Raised
from tests.bench.usage import processor_seconds, resident_mib

LABEL = "floods"
BEGIN, END = "<!-- floods -->", "<!-- /floods -->"
PAGE = Path(__file__).parents[2] / "docs/security.md"
WIRE = "wire"
INTRUDER, TARGET = IPv4Interface("10.92.0.1/24"), IPv4Interface("10.92.0.2/24")
FORGED = "10.66.0.0"
CLOSED_PORT = 9
STREAM_S = 4
ROUNDS, QUICK_ROUNDS = 3, 1
LEAD_S = 0.5
KEPT_AIM = 90


@dataclass(frozen=True, slots=True)
class Kind:
    """`is_forged`: from addresses that are not the intruder's own."""

    name: str
    make: Callable[[garbage.Wire, garbage.Gate], list[bytes]]
    is_forged: bool = False


KINDS = (
    Kind("noise", lambda _wire, _gate: garbage.noise()),
    Kind("DATA, unknown index", lambda _wire, _gate: garbage.data_unknown()),
    Kind("DATA, the session's index", lambda wire, _gate: garbage.data_forged(wire)),
    Kind("DATA, replayed", lambda wire, _gate: garbage.data_replayed(wire)),
    Kind("GATED, unknown index", lambda _wire, _gate: garbage.gated_unknown()),
    Kind("GATED, an index in use", lambda wire, _gate: garbage.gated_forged(wire)),
    Kind("handshakes, replayed", lambda wire, _gate: garbage.gated_replayed(wire)),
    Kind("STUN answers", lambda _wire, _gate: garbage.stun()),
    Kind("relay control", lambda _wire, _gate: garbage.relay_control()),
    Kind("from no relay, said to be relayed", lambda _wire, _gate: garbage.relayed()),
    Kind("half-open handshakes of a peer, forged sources", lambda _wire, gate: garbage.hellos(gate), is_forged=True),
    Kind("probes of a peer, forged sources", lambda _wire, gate: garbage.probes(gate), is_forged=True),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Of one kind, each the median of the rounds: Mbit/s of the stream in peace, in the flood, and beside a flood of
    the same rate at a closed port; thousand datagrams a second offered; the daemon's processor seconds a second. Of all
    rounds together: thousands lost before the daemon's socket was read; MiB of memory before, behind; what it counted,
    by reason. `kept` is the second over the third, of each round."""

    kind: str
    calm_mbits: float
    flooded_mbits: float
    control_mbits: float
    offered_kpps: float
    control_kpps: float
    unread_thousands: float
    daemon_cpu: float
    calm_cpu: float
    resident_before_mib: float
    resident_after_mib: float
    counted: dict[str, int]
    is_connected: bool
    kept: list[float]

    @property
    def kept_percent(self) -> float:
        """Of what is possible beside a flood of that rate."""
        return 100 * statistics.median(self.kept)


@dataclass(frozen=True, slots=True)
class Round:
    calm_mbits: float
    flooded_mbits: float
    control_mbits: float
    offered_kpps: float
    control_kpps: float
    daemon_cpu: float
    calm_cpu: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything stands, and the intruder's own daemon has ended."""

    cable: Cable
    intruder: Host
    right: Endpoint
    raised: Raised
    port: int
    wire: garbage.Wire
    gate: garbage.Gate


def measure(*, quick: bool, only: list[str] | None = None) -> list[Found]:
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with _scene() as scene, serving(scene.cable) as server:

        def stream() -> float:
            server.await_free()
            return streams(scene.cable, scene.raised, 1, STREAM_S)[0]

        stream()
        kinds = [kind for kind in KINDS if not only or any(word in kind.name for word in only)]
        return [_of(scene, kind, stream, rounds) for kind in kinds]


@contextlib.contextmanager
def _scene() -> Iterator[Scene]:
    with cable() as ends:
        intruder = ends.lab.site("far", Nat.PORT_RESTRICTED).host("intruder")
        intruder.namespace.connect(WIRE, ends.right.namespace, WIRE)
        intruder.namespace.add_address(WIRE, INTRUDER)
        ends.right.namespace.add_address(WIRE, TARGET)
        ends.right.namespace.sysctl("net.ipv4.conf.all.rp_filter", 0, must=False)
        ends.right.namespace.sysctl(f"net.ipv4.conf.{WIRE}.rp_filter", 0, must=False)
        left, right, hostile = enrolled(ends.lab, [ends.left, ends.right, intruder])
        with Ear(ends.right.namespace, DEVICE) as on_cable, Ear(ends.right.namespace, WIRE) as on_wire:
            connect(left, right)
            connect(hostile, right)
            until(lambda: _over(left, right.name, f"{ends.ends()[1][1].ip}:"), "a path over the cable")
            until(lambda: left.reaches(right.overlay_ip(), count=20), "the first echoes")
        port = int(str((left.peer(right.name) or {})["path"]["remote"]).rpartition(":")[2])
        hostile.stop()
        recorded = [*on_wire.datagrams(), *on_cable.datagrams()]
        wire = garbage.Wire.of([each.payload for each in recorded if each.target_port == port])
        raised = Raised("fabric0", right.overlay_ip(), [left.process], [right.process])
        yield Scene(ends, intruder, right, raised, port, wire, _gate(hostile, right))


def _over(endpoint: Endpoint, peer: str, to: str) -> bool:
    seen = endpoint.peer(peer)
    return bool(seen and seen["path"] and str(seen["path"]["remote"]).startswith(to))


def _gate(hostile: Endpoint, target: Endpoint) -> garbage.Gate:
    """Returns what the stopped daemon knows of its peer's gate."""
    secrets = open_identity(Surroundings(hostile.state, None, {}))
    with Keystore(hostile.state, secrets.storage_key, os.urandom) as keystore:
        records, _ = keystore.load_records()
    (offer,) = [decode_offer(record.offer) for record in records if record.offer is not None]
    names = f"{hostile.name}.{NETWORK}", f"{target.name}.{NETWORK}"
    return garbage.Gate(offer.gate_index, offer.gate_share, NETWORK, *names)


def _of(scene: Scene, kind: Kind, stream: Callable[[], float], rounds: int) -> Found:
    daemon = scene.right.process
    path = scene.cable.lab.directory / "payloads"
    barrage.write_payloads(path, kind.make(scene.wire, scene.gate))
    resident, before = resident_mib(daemon), _counted(scene.right)
    unread = _unread(scene.cable.right)
    seen = [_round(scene, kind, stream, path) for _ in range(rounds)]
    behind = _counted(scene.right)
    return Found(
        kind=kind.name,
        **{each.name: statistics.median(getattr(one, each.name) for one in seen) for each in fields(Round)},
        unread_thousands=(_unread(scene.cable.right) - unread) / 1e3,
        resident_before_mib=resident,
        resident_after_mib=resident_mib(daemon),
        counted={name: count - before.get(name, 0) for name, count in behind.items() if count > before.get(name, 0)},
        is_connected=(scene.right.peer(scene.cable.left.name) or {}).get("state") == "connected",
        kept=[one.flooded_mbits / one.control_mbits for one in seen],
    )


def _round(scene: Scene, kind: Kind, stream: Callable[[], float], path: Path) -> Round:
    daemon = scene.right.process
    calm, calm_cpu = _timed(daemon, stream)
    with _throwing(scene, path, scene.port, 0.0, kind) as offered:
        flooded, cpu = _timed(daemon, stream)
        rate = offered()
    with _throwing(scene, path, CLOSED_PORT, rate, kind) as offered:
        control = stream()
        control_rate = offered()
    return Round(calm, flooded, control, rate / 1e3, control_rate / 1e3, cpu, calm_cpu)


@contextlib.contextmanager
def _throwing(scene: Scene, path: Path, port: int, a_second: float, kind: Kind) -> Iterator[Callable[[], float]]:
    """Yields what tells how many a second were taken since then."""
    words = [str(path), str(TARGET.ip), str(port), "600", str(a_second), *([FORGED] if kind.is_forged else [])]
    sender = scene.intruder.start(
        sys.executable, "-S", barrage.__file__, *words, log=f"barrage-{time.monotonic_ns()}.log"
    )
    try:
        until(lambda: sender.output().count("\n") > LEAD_S / barrage.TOLD_EVERY_S, "the sender of garbage")
        first = _taken(sender)
        yield lambda: _a_second(first, _taken(sender))
    finally:
        sender.terminate()


def _taken(sender: Program) -> tuple[float, int]:
    """(when, datagrams so far): the last whole line that it has printed."""
    when, taken = sender.output().rpartition("\n")[0].rpartition("\n")[2].split()
    return float(when), int(taken)


def _a_second(first: tuple[float, int], last: tuple[float, int]) -> float:
    return (last[1] - first[1]) / (last[0] - first[0])


def _timed(daemon: Program, stream: Callable[[], float]) -> tuple[float, float]:
    """(what the stream carried, processor seconds a second that the daemon took)."""
    used, began = processor_seconds(daemon), time.monotonic()
    carried = stream()
    return carried, (processor_seconds(daemon) - used) / (time.monotonic() - began)


def _counted(endpoint: Endpoint) -> dict[str, int]:
    report = endpoint.status()
    found: dict[str, int] = {}
    for drops in (report["endpoint"]["drops"], *(peer["drops"] for peer in report["peers"])):
        for reason, count in drops.items():
            found[reason] = found.get(reason, 0) + count
    return found


def _unread(host: Host) -> int:
    """Datagrams that found no room in a socket, of the whole namespace (RcvbufErrors of udp in /proc/net/snmp)."""
    lines = host.run("cat", "/proc/net/snmp").must().output.splitlines()
    names, values = [line.split()[1:] for line in lines if line.startswith("Udp:")]
    return int(dict(zip(names, values, strict=True))["RcvbufErrors"])


# -- what is shown ------------------------------------------------------------------------------------------------


def write(directory: Path, found: list[Found], load: float) -> str:
    """Writes floods.json and returns the table."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = [asdict(each) | {"kept_percent": round(each.kept_percent, 1)} for each in found]
    (directory / "floods.json").write_text(json.dumps({"load_before": load, "floods": figures}, indent=1) + "\n")
    return table(found)


def table(found: list[Found]) -> str:
    columns = "flood | offered, kpps | in peace, Mbit/s | beside a closed port | in the flood | kept"
    head = f"| {columns} | daemon's processors | memory, MiB |"
    rows = [head, "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for each in found:
        memory = f"{each.resident_before_mib:.1f} → {each.resident_after_mib:.1f}"
        speeds = f"{each.calm_mbits:,.0f} | {each.control_mbits:,.0f} | {each.flooded_mbits:,.0f}"
        used = f"{each.calm_cpu:.2f} → {each.daemon_cpu:.2f}"
        rows.append(
            f"| {each.kind} | {each.offered_kpps:.0f} | {speeds} | {each.kept_percent:.0f} % | {used} | {memory} |"
        )
    median = statistics.median(each.kept_percent for each in found)
    return "\n".join([*rows, "", f"Kept, at the median of all kinds: {median:.0f} %."])
