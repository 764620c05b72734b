"""Hosts that share a LAN talk over it; hosts whose LANs merely look alike are not misled.

    ( internet )----[discovery]
      |               |                     |
  [router]        [router]              [router]            port-restricted all
   |      |           |                     |
anna     bert       carl 192.168.77.10    dora 192.168.77.10     the same range, and the same address
                    erik 192.168.77.11
"""

from __future__ import annotations

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_connected, await_reach, connect, describe
from fabric.lab.traffic import Transfer

FILE_BYTES = 8_000_000
SAME_RANGE = "192.168.77.0/24"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def house(lab: Lab, overlay: Overlay) -> dict[str, Endpoint]:
    shared = lab.site("shared", Nat.PORT_RESTRICTED)
    west = lab.site("west", Nat.PORT_RESTRICTED, SAME_RANGE)
    east = lab.site("east", Nat.PORT_RESTRICTED, SAME_RANGE)
    places = {"anna": shared, "bert": shared, "carl": west, "dora": east, "erik": west}
    return overlay.endpoints(places)


def test_two_hosts_behind_one_nat_use_the_lan_and_nothing_of_the_bulk_crosses_the_wan(
    house: dict[str, Endpoint], lab: Lab
) -> None:
    anna, bert = house["anna"], house["bert"]
    connect(anna, bert)
    for here, there in ((anna, bert), (bert, anna)):
        peer = here.peer(there.name)
        assert peer is not None
        assert peer["path"]["kind"] == "lan", describe(here, there)
        assert peer["path"]["remote"].startswith(there.host.ip + ":")
    before = lab.sites["shared"].wan_counters()
    sent = Transfer(anna.host, bert.host, bert.overlay_ip(), FILE_BYTES, lab.directory).finish()
    crossed = lab.sites["shared"].wan_counters().since(before).bytes
    assert sent.intact
    assert crossed < FILE_BYTES // 100, f"{crossed} bytes over the WAN"


def test_hosts_with_the_very_same_lan_address_meet_over_the_internet(house: dict[str, Endpoint]) -> None:
    carl, dora = house["carl"], house["dora"]
    assert carl.host.ip == dora.host.ip
    connect(carl, dora)
    for here, there in ((carl, dora), (dora, carl)):
        peer = here.peer(there.name)
        assert peer is not None
        assert peer["path"]["kind"] == "direct-udp", describe(here, there)
        assert peer["path"]["remote"].startswith(f"{there.host.site.wan.ip}:")
    assert carl.reaches(dora.overlay_ip(), count=2)


def test_a_neighbour_at_the_peers_lan_address_is_not_taken_for_the_peer(house: dict[str, Endpoint]) -> None:
    """erik's own LAN has a host at dora's LAN address: carl, who answers none of what is meant for dora."""
    erik, dora, carl = house["erik"], house["dora"], house["carl"]
    connect(erik, dora)
    peer = erik.peer(dora.name)
    assert peer is not None
    assert peer["path"]["kind"] == "direct-udp", describe(erik, dora)
    assert erik.reaches(dora.overlay_ip(), count=2)
    connect(erik, carl)
    beside = erik.peer(carl.name)
    assert beside is not None
    assert beside["path"]["kind"] == "lan", describe(erik, carl)


def test_a_pair_that_leaves_its_common_lan_goes_on_over_the_internet_and_back(
    house: dict[str, Endpoint], lab: Lab
) -> None:
    anna, bert = house["anna"], house["bert"]
    connect(anna, bert)
    shared, cafe = bert.host.site, lab.site("cafe", Nat.FULL_CONE)
    bert.host.move(cafe)
    await_reach(anna, bert, 15)
    await_connected(anna, bert)
    moved = anna.peer(bert.name)
    assert moved is not None
    assert moved["path"]["kind"] == "direct-udp", describe(anna, bert)
    bert.host.move(shared, 60)
    await_reach(anna, bert, 15)
