"""Those who know each other need no service: sessions live on, and who restarts or moves is found.

            ( internet )----[discovery, relay: killed]
        |          |             |              |
     port-r.    carrier       full cone      port-r.           cafe (port-r.)
        |          |             |            |    |
      quin        rob           sue         tia   uwe

quin, rob and sue know each other, so sue can pass a sealed offer on between the other two; tia and uwe share a LAN
and know nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay, Site
from fabric.lab.overlay import await_reach, connect, describe, side_by_side
from fabric.lab.product import until

BACK_SOON = "service_retry_limit_s = 2"
"""So that a test need not wait long for the next to begin with everybody connected."""
BACK_WITHIN_S = 20.0

pytestmark = pytest.mark.timeout(180)


@dataclass
class Town:
    endpoints: dict[str, Endpoint]
    cafe: Site

    def __getitem__(self, name: str) -> Endpoint:
        return self.endpoints[name]

    def named(self, names: str) -> list[Endpoint]:
        return [self.endpoints[name] for name in names.split("+")]


@pytest.fixture(scope="module")
def town(lab: Lab, overlay: Overlay) -> Town:
    home = lab.site("s-home", Nat.PORT_RESTRICTED)
    places = {
        "quin": lab.site("s-quin", Nat.PORT_RESTRICTED),
        "rob": lab.site("s-rob", Nat.CARRIER),
        "sue": lab.site("s-sue", Nat.FULL_CONE),
        "tia": home,
        "uwe": home,
    }
    made = overlay.endpoints(places, configuration=BACK_SOON)
    connect(made["quin"], made["rob"], made["sue"])
    connect(made["tia"], made["uwe"])
    return Town(made, lab.site("cafe", Nat.PORT_RESTRICTED))


@pytest.fixture
def alone(town: Town, overlay: Overlay) -> Iterator[Town]:
    """Everybody connected, and the service dead for as long as the test takes."""
    homes = {end: end.host.site for end in town.endpoints.values()}
    for one, other in (("quin", "rob"), ("quin", "sue"), ("rob", "sue"), ("tia", "uwe")):
        await_reach(town[one], town[other], 30)
    overlay.discovery.kill()
    yield town
    for end, home in homes.items():
        if end.host.site is not home:
            end.host.move(home)
    overlay.discovery.start()
    until(lambda: all(map(is_served, town.endpoints.values())), "the service is back", 60)


def is_served(endpoint: Endpoint) -> bool:
    return bool(endpoint.status()["endpoint"]["discovery"] == "connected")


@pytest.mark.parametrize("who", ["quin", "rob", "quin+rob"])
def test_who_restarts_is_found(alone: Town, who: str, figure: Callable[[str], None]) -> None:
    restart(alone.named(who))
    took_s = await_reach(alone["quin"], alone["rob"], BACK_WITHIN_S)
    figure(f"no discovery: {who} restarted: reached after {took_s:.1f} s")


@pytest.mark.parametrize("who", ["quin", "rob"])
def test_who_moves_is_found_through_a_common_peer(alone: Town, who: str, figure: Callable[[str], None]) -> None:
    """The other's router lets nobody in whom it has not sent to: only the common peer can tell it."""
    (mover,) = alone.named(who)
    mover.host.move(alone.cafe)
    took_s = await_reach(alone["quin"], alone["rob"], BACK_WITHIN_S)
    figure(f"no discovery: {who} moved: reached after {took_s:.1f} s")


@pytest.mark.parametrize("who", ["quin", "quin+rob"])
def test_who_restarts_elsewhere_is_found_through_a_common_peer(
    alone: Town, lab: Lab, who: str, figure: Callable[[str], None]
) -> None:
    movers = alone.named(who)
    for number, mover in enumerate(movers):
        mover.kill()
        mover.host.move(alone.cafe if number == 0 else lab.site(f"inn-{len(lab.sites)}", Nat.PORT_RESTRICTED))
    for mover in movers:
        mover.start()
    took_s = await_reach(alone["quin"], alone["rob"], BACK_WITHIN_S)
    figure(f"no discovery: {who} restarted elsewhere: reached after {took_s:.1f} s")


def test_neighbours_with_new_addresses_find_each_other_on_the_lan(alone: Town, figure: Callable[[str], None]) -> None:
    """Neither knows where the other is, and nobody else knows either of them."""
    tia, uwe = alone["tia"], alone["uwe"]
    for number, end in enumerate((tia, uwe)):
        end.kill()
        end.host.move(end.host.site, 80 + number)
    side_by_side([tia.start, uwe.start])
    took_s = await_reach(tia, uwe, BACK_WITHIN_S)
    figure(f"no discovery: two neighbours restarted with new addresses: reached after {took_s:.1f} s")
    assert tia.path_kind("uwe") == "lan", describe(tia, uwe)


def restart(ends: list[Endpoint]) -> None:
    for end in ends:
        end.kill()
    for end in ends:
        end.start()
