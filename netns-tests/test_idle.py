"""A connection that nobody uses costs next to nothing, and still works when it is used.

            ( internet )----[discovery, relay]
        |          |            |             |
     port-r.    carrier     symmetric     symmetric
        |          |            |             |
       kit        leo          may           noa

kit and leo have a direct path, may and noa can only meet at the relay. A wiretap on kit's and may's lines counts
what goes to and from each address, IP headers included.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import connect, describe
from fabric.lab.wiretap import Passed, Wiretap

SETTLE_S, COUNTED_S = 30.0, 60.0
ALLOWED_BYTES = 2_000
"""That an endpoint sends, a minute and a peer."""

pytestmark = pytest.mark.timeout(180)


@dataclass
class Counted:
    people: dict[str, Endpoint]
    direct: list[Passed]
    relayed: list[Passed]


@pytest.fixture(scope="module")
def idle(lab: Lab, overlay: Overlay) -> Counted:
    """Two connected pairs, and what passed in a minute in which nobody did anything."""
    kinds = {"kit": Nat.PORT_RESTRICTED, "leo": Nat.CARRIER, "may": Nat.SYMMETRIC, "noa": Nat.SYMMETRIC}
    people = overlay.endpoints({name: lab.site(f"s-{name}", kind) for name, kind in kinds.items()})
    connect(people["kit"], people["leo"])
    connect(people["may"], people["noa"], path="any")
    time.sleep(SETTLE_S)
    with Wiretap(lab, people["kit"].host.site) as direct, Wiretap(lab, people["may"].host.site) as relayed:
        time.sleep(COUNTED_S)
    return Counted(people, direct.passed(), relayed.passed())


def test_an_idle_direct_path_costs_under_two_kilobytes_a_minute(
    idle: Counted, overlay: Overlay, figure: Callable[[str], None]
) -> None:
    own, other = (str(idle.people[name].host.site.wan.ip) for name in ("kit", "leo"))
    sent = sum(each.length for each in idle.direct if each.target == other)
    came = sum(each.length for each in idle.direct if each.source == other)
    stun, channel = service_bytes(idle.direct, own, overlay)
    figure(f"idle: direct: {sent} bytes sent, {came} received a minute; STUN {stun}, service channel {channel} bytes")
    assert came > 0, "nothing keeps this path alive"
    assert 0 < sent * 60 / COUNTED_S < ALLOWED_BYTES, tally(idle.direct)


def test_an_idle_relayed_path_costs_under_two_kilobytes_a_minute(
    idle: Counted, overlay: Overlay, figure: Callable[[str], None]
) -> None:
    own = str(idle.people["may"].host.site.wan.ip)
    relayed = [each for each in idle.relayed if each.is_udp and not each.is_stun]
    sent, came = (sum(each.length for each in relayed if getattr(each, end) == own) for end in ("source", "target"))
    stun, channel = service_bytes(idle.relayed, own, overlay)
    figure(f"idle: relayed: {sent} bytes sent, {came} received a minute; STUN {stun}, service channel {channel} bytes")
    assert came > 0, "nothing keeps this path alive"
    assert 0 < sent * 60 / COUNTED_S < ALLOWED_BYTES, tally(relayed)


def tally(passed: list[Passed]) -> str:
    """How many packets of each length went each way."""
    counts = Counter(passed)
    return "\n".join(f"{count} x {each}" for each, count in counts.most_common())


def service_bytes(passed: list[Passed], own: str, overlay: Overlay) -> tuple[int, int]:
    """What went between `own` and the service, both ways: STUN, and the channel."""
    service = overlay.discovery.host.ip
    with_it = [each for each in passed if {each.source, each.target} == {own, service}]
    stun = sum(each.length for each in with_it if each.is_stun)
    return stun, sum(each.length for each in with_it if not each.is_udp)


def test_after_a_quiet_while_the_first_ping_is_answered(idle: Counted) -> None:
    for one, other in (("kit", "leo"), ("may", "noa")):
        here, there = idle.people[one], idle.people[other]
        assert here.reaches(there.overlay_ip(), within_s=1), describe(here, there)
