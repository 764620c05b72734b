"""What becomes of frames when a pair moves from the relay to a direct path, and when that path dies under it.

                ( internet )----[discovery with a relay]
        |       |       |       |
      here-0  here-1  there-0 there-1  ...      port-restricted NATs: direct, unless the internet keeps them apart

All pairs are kept apart, talk over the relay, are let together, move, are kept apart again, fall back, and so on, with
numbered datagrams both ways all the time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.nat import JOINING_RULES, parting_rules
from fabric.lab.overlay import introduce, side_by_side
from fabric.lab.product import until
from fabric.lab.stream import Counted, Stream
from tests.bench.asking import Pair, await_paths

PAIRS, QUICK_PAIRS = 10, 3
ROUNDS, QUICK_ROUNDS = 2, 1
PER_SECOND = 100
PAYLOAD_BYTES = 1000
WANS = IPv4Network("5.0.0.0/16")
"""The outside addresses of all sites behind a NAT; the service's is elsewhere."""
UPGRADED_WITHIN_S = 90.0
FALLEN_BACK_WITHIN_S = 30.0
BEFORE, AFTER = 100, 200
"""Datagrams that come each way before the change, and after it."""


@dataclass(frozen=True, slots=True)
class Changed:
    """One pair at one change, both ways together; `gap_s` is the longest time without a frame of the worse way."""

    sent: int
    lost: int
    doubled: int
    overtaken: int
    gap_s: float


@dataclass(frozen=True, slots=True)
class Changes:
    upgrades: list[Changed]
    fallbacks: list[Changed]
    upgraded_within_s: float
    """From when a direct path became possible again until the last pair had it, of the slowest round."""


def measure(*, quick: bool) -> Changes:
    """Takes about a minute and a half, `quick` a half one."""
    pairs_wanted, rounds = (QUICK_PAIRS, QUICK_ROUNDS) if quick else (PAIRS, ROUNDS)
    made = Changes([], [], 0.0)
    took: list[float] = []
    with Lab("bench-moves") as lab:
        pairs = _pairs(lab, Overlay(lab), pairs_wanted)
        _part(lab)
        side_by_side([partial(introduce, *pair) for pair in pairs])
        await_paths(pairs, "relay-udp", FALLEN_BACK_WITHIN_S)
        for _ in range(rounds):
            running = _streams(pairs)
            took.append(_join(lab, pairs))
            made.upgrades.extend(_counted(running))
            running = _streams(pairs)
            _part(lab)
            await_paths(pairs, "relay-udp", FALLEN_BACK_WITHIN_S)
            made.fallbacks.extend(_counted(running))
    return Changes(made.upgrades, made.fallbacks, round(max(took), 1))


def _pairs(lab: Lab, overlay: Overlay, count: int) -> list[Pair]:
    names = [f"{side}-{number}" for side in ("here", "there") for number in range(count)]
    made = overlay.endpoints({name: lab.site(f"s-{name}", Nat.PORT_RESTRICTED) for name in names})
    return [(made[f"here-{number}"], made[f"there-{number}"]) for number in range(count)]


def _part(lab: Lab) -> None:
    lab.internet.add_rules(JOINING_RULES + parting_rules(WANS, WANS))


def _join(lab: Lab, pairs: Sequence[Pair]) -> float:
    """Lets them together; returns after how many seconds all are direct."""
    lab.internet.add_rules(JOINING_RULES)
    began = time.monotonic()
    await_paths(pairs, "direct-udp", UPGRADED_WITHIN_S)
    return time.monotonic() - began


# -- streams --------------------------------------------------------------------------------------------------------


def _streams(pairs: Sequence[Pair]) -> list[tuple[Stream, Stream]]:
    """Both ways of all pairs, and they flow."""
    running = [(_stream(one, other), _stream(other, one)) for one, other in pairs]
    _await_more(running, BEFORE)
    return running


def _stream(sender: Endpoint, receiver: Endpoint) -> Stream:
    address = receiver.overlay_ip()
    return Stream(sender.host, receiver.host, address, per_second=PER_SECOND, payload_bytes=PAYLOAD_BYTES)


def _await_more(running: Sequence[tuple[Stream, Stream]], datagrams: int) -> None:
    ways = [(way, len(way.arrivals) + datagrams) for pair in running for way in pair]
    until(lambda: all(len(way.arrivals) >= wanted for way, wanted in ways), "more datagrams", 60)


def _counted(running: Sequence[tuple[Stream, Stream]]) -> list[Changed]:
    _await_more(running, AFTER)
    counts = side_by_side([partial(way.finish, 0.5) for pair in running for way in pair])
    return [_together(counts[at : at + 2]) for at in range(0, len(counts), 2)]


def _together(ways: Sequence[Counted]) -> Changed:
    return Changed(
        sent=sum(way.sent for way in ways),
        lost=sum(way.lost for way in ways),
        doubled=sum(way.doubled for way in ways),
        overtaken=sum(way.overtaken for way in ways),
        gap_s=round(max(way.longest_gap_s for way in ways), 3),
    )
