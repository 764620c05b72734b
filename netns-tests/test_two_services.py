"""A service with two addresses is used by both at once; either may go dark and nobody waits.

            ( internet )
        |         |         |        |        |
     north     south     port-r.  carrier  symmetric
       eth0   eth1          |        |        |
      [discovery, relay]   vic      wes      xia ...

The lines of north and south are cut one after the other: to those who use it, that address is silent, not refused.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay, Site
from fabric.lab.overlay import connect, describe, introduce
from fabric.lab.product import until

INTRODUCED_WITHIN_S = 10.0
SETTLE_S = 60.0

pytestmark = pytest.mark.timeout(150)

NAMES = ("vic", "wes", "xia", "yan", "zoe")


@dataclass
class Town:
    overlay: Overlay
    lines: dict[str, Site]
    endpoints: dict[str, Endpoint]
    strangers: Iterator[tuple[str, str]]

    def stranger_pair(self) -> tuple[Endpoint, Endpoint]:
        """Two who have not met."""
        one, other = next(self.strangers)
        return self.endpoints[one], self.endpoints[other]


@pytest.fixture(scope="module")
def town(lab: Lab) -> Town:
    lines = {name: lab.site(name, Nat.PUBLIC) for name in ("north", "south")}
    host = lines["north"].host("discovery")
    spare = host.add_uplink(lines["south"])
    overlay = Overlay(lab, host=host, addresses=(host.ip, str(spare.address.ip)))
    kinds = (Nat.PORT_RESTRICTED, Nat.CARRIER, Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED, Nat.FIREWALL)
    sites = {name: lab.site(f"s-{name}", kind) for name, kind in zip(NAMES, kinds, strict=True)}
    return Town(overlay, lines, overlay.endpoints(sites), itertools.combinations(NAMES, 2))


@pytest.fixture(params=["north", "south"])
def cut(town: Town, request: pytest.FixtureRequest) -> Iterator[str]:
    """One line of the service goes dead, without a sign, while both are in use."""
    town.lines[request.param].unplug()
    yield request.param
    town.lines[request.param].plug_in()
    until(lambda: all(is_connected(end) for end in town.endpoints.values()), "all are connected again", SETTLE_S)


def is_connected(endpoint: Endpoint) -> bool:
    return bool(endpoint.status()["endpoint"]["discovery"] == "connected")


def test_two_who_never_met_are_introduced_with_both(town: Town) -> None:
    connect(*town.stranger_pair())


def test_two_who_never_met_are_introduced_while_one_address_is_dark(
    town: Town, cut: str, figure: Callable[[str], None]
) -> None:
    one, other = town.stranger_pair()
    started = time.monotonic()
    introduce(one, other)
    for here, there in ((one, other), (other, one)):
        waited = here.wait(there.name, path="direct", timeout_s=INTRODUCED_WITHIN_S)
        assert waited.code == 0, f"{cut} is dark: {describe(one, other)}"
    figure(f"two services: {cut} dark: introduced and direct after {time.monotonic() - started:.1f} s")


def test_who_starts_while_one_address_is_dark_is_connected_and_introduced(town: Town, cut: str) -> None:
    one, other = town.stranger_pair()
    one.stop()
    one.start()
    until(lambda: is_connected(one), f"connected while {cut} is dark", 30)
    introduce(one, other)
    assert one.wait(other.name, path="direct", timeout_s=20).code == 0, describe(one, other)


def test_who_is_enrolled_while_one_address_is_dark_takes_part(town: Town, lab: Lab, cut: str) -> None:
    name = f"new-{cut}"
    made = town.overlay.endpoint(name, lab.site(f"s-{name}", Nat.PORT_RESTRICTED))
    connect(made, town.endpoints["vic"])
    made.stop()


def test_the_loss_of_an_address_is_no_loss_of_the_service(town: Town, cut: str) -> None:
    """Long enough for a dead channel to be noticed: the status never says unreachable."""
    until_s = time.monotonic() + 15
    while time.monotonic() < until_s:
        assert all(is_connected(town.endpoints[name]) for name in ("vic", "zoe")), cut
        time.sleep(1)
