"""What a pair that nobody uses costs on the wire, by the kind of its path.

            ( internet )----[discovery, no relay]   [relay]
        |          |            |            |
     port-r.     no UDP     symmetric    TCP 443 only        left-... and right-... of each kind

A wiretap on the line of each left one counts IP packets with their headers, both ways.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from fabric.lab import Lab, Nat, Overlay, Relay
from fabric.lab.overlay import introduce
from fabric.lab.wiretap import Passed, Wiretap
from tests.bench.asking import Pair, await_paths

SETTLE_S, QUICK_SETTLE_S = 60.0, 10.0
COUNTED_S, QUICK_COUNTED_S = 120.0, 20.0
KINDS = {
    "direct-udp": Nat.PORT_RESTRICTED,
    "direct-tcp": Nat.UDP_BLOCKED,
    "relay-udp": Nat.SYMMETRIC,
    "relay-tls": Nat.WEB_ONLY,
}


@dataclass(frozen=True, slots=True)
class Idle:
    """Bytes a minute on the line of an endpoint with one peer.

    `sent` and `received` are to and from the peer, or the relay; `stun` and `channel` what went between the endpoint
    and the service, both ways; `other` whatever else there was.
    """

    path: str
    sent: int
    received: int
    stun: int
    channel: int
    other: int


def measure(lab: Lab, *, quick: bool) -> list[Idle]:
    """Takes about three and a half minutes, `quick` one; needs next to no processor time, so others may run beside."""
    settle_s, counted_s = (QUICK_SETTLE_S, QUICK_COUNTED_S) if quick else (SETTLE_S, COUNTED_S)
    relay_host = lab.site("s-relay", Nat.PUBLIC).host("relay")
    overlay = Overlay(lab, configuration=f'relay = false\nrelays = ["{relay_host.ip}"]')
    relay = Relay(lab, relay_host, overlay.discovery)
    relay.start()
    pairs = {path: _pair(lab, overlay, path, nat) for path, nat in KINDS.items()}
    time.sleep(settle_s)
    with ExitStack() as stack:
        taps = {path: stack.enter_context(Wiretap(lab, left.host.site)) for path, (left, _) in pairs.items()}
        time.sleep(counted_s)
    service = overlay.discovery.host.ip
    for path, pair in pairs.items():
        await_paths([pair], path, 5)
    return [
        _idle(path, taps[path].passed(), pair, relay.host.ip, service, 60 / counted_s) for path, pair in pairs.items()
    ]


def _pair(lab: Lab, overlay: Overlay, path: str, nat: Nat) -> Pair:
    names = [f"{side}-{path.replace('-', '')[:8]}" for side in ("l", "r")]
    left, right = overlay.endpoints({name: lab.site(f"s-{name}", nat) for name in names}).values()
    introduce(left, right)
    await_paths([(left, right)], path, 60)
    return left, right


def _idle(path: str, passed: list[Passed], pair: Pair, relay: str, service: str, per_minute: float) -> Idle:
    """`per_minute` is how many of the counted times make a minute."""
    far = relay if path.startswith("relay") else str(pair[1].host.site.wan.ip)
    sums = dict.fromkeys(("sent", "received", "stun", "channel", "other"), 0)
    for packet in passed:
        sums[_sort(packet, far, service)] += packet.length
    return Idle(path, **{name: round(length * per_minute) for name, length in sums.items()})


def _sort(packet: Passed, far: str, service: str) -> str:
    if packet.is_stun:
        return "stun"
    if far in (packet.source, packet.target):
        return "sent" if packet.target == far else "received"
    return "channel" if service in (packet.source, packet.target) else "other"
