"""Every pair of NATs that two plain punchers can open is opened, whichever side leads the handshake.

                     ( internet )----[discovery]
        |         |          |           |            |          |
     public   firewall   full cone   address-r.   port-r.   NAT < carrier        (and two symmetric ones)
        |         |          |           |            |          |
    a-public  a-firewall  a-full...                             ...              one endpoint each, and
    b-public  b-firewall  b-full...                             ...              the same again as b

An `a` has the lower name, so it is the client of the handshake: a x b covers every pair both ways. Which pairs open
is what was measured with plain sockets on the same rules; symmetric against port-restricted needs guessing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest

from fabric.lab import Endpoint, Filtering, Lab, Nat, Overlay, Site
from fabric.lab.overlay import describe, introduce, side_by_side

INDEPENDENT = (
    Nat.PUBLIC,
    Nat.FIREWALL,
    Nat.FULL_CONE,
    Nat.ADDRESS_RESTRICTED,
    Nat.PORT_RESTRICTED,
    Nat.CARRIER,
)
OPEN_TO_SYMMETRIC = (Nat.PUBLIC, Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED)
PAIRS = [
    *((left, right) for left in INDEPENDENT for right in INDEPENDENT),
    *((Nat.SYMMETRIC, kind) for kind in OPEN_TO_SYMMETRIC),
    *((kind, Nat.SYMMETRIC) for kind in OPEN_TO_SYMMETRIC),
]

pytestmark = pytest.mark.timeout(240)


@dataclass
class Town:
    endpoints: dict[str, Endpoint]

    def pair(self, left: Nat, right: Nat) -> tuple[Endpoint, Endpoint]:
        return self.endpoints[name("a", left)], self.endpoints[name("b", right)]


def name(side: str, kind: Nat) -> str:
    return f"{side}-{kind.name.lower().replace('_', '')[:8]}"


def site_name(side: str, kind: Nat) -> str:
    return f"s{name(side, kind)}"[:10]


@pytest.fixture(scope="module")
def town(lab: Lab, overlay: Overlay) -> Town:
    """All endpoints started, and intent stated on both sides of all pairs at once."""
    kinds = (*INDEPENDENT, Nat.SYMMETRIC)
    places = {name(side, kind): lab.site(site_name(side, kind), kind) for side in "ab" for kind in kinds}
    made = Town(overlay.endpoints(places))
    side_by_side([partial(introduce, *made.pair(left, right)) for left, right in PAIRS])
    return made


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=lambda kind: kind.name)
def test_a_pair_that_can_be_opened_is_opened(town: Town, left: Nat, right: Nat) -> None:
    one, other = town.pair(left, right)
    waits = side_by_side([partial(one.wait, other.name), partial(other.wait, one.name)])
    assert [waited.code for waited in waits] == [0, 0], describe(one, other)
    for here, there in ((one, other), (other, one)):
        assert_direct(here, there)
    assert one.reaches(other.overlay_ip(), count=2), describe(one, other)


def assert_direct(here: Endpoint, there: Endpoint) -> None:
    """The path leads to the address that the other's router shows to the world, and to no other."""
    peer = here.peer(there.name)
    assert peer is not None
    assert peer["state"] == "connected"
    assert peer["path"]["kind"] == "direct-udp"
    assert ip_of(peer["path"]["remote"]) == outside_ip(there.host.site, there)


def ip_of(remote: str) -> str:
    return remote.rpartition(":")[0].strip("[]")


def outside_ip(site: Site, endpoint: Endpoint) -> str:
    return str(site.wan.ip) if site.kind.translates else endpoint.host.ip


def test_what_the_oracle_says_of_each_kind_is_why_its_pairs_open() -> None:
    """Guards the table above: an endpoint-dependent mapping opens only where the other side lets any port in."""
    for left, right in PAIRS:
        for kind, facing in ((left, right), (right, left)):
            if kind is Nat.SYMMETRIC:
                assert facing.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT


def test_ipv6_opens_what_two_symmetric_ipv4_nats_keep_shut(lab: Lab, overlay: Overlay) -> None:
    """Both routers filter IPv6 statefully but translate nothing; IPv4 alone would need a relay."""
    places = {side: lab.site(f"six-{side}", Nat.SYMMETRIC, ipv6=True) for side in ("six-one", "six-two")}
    one, other = overlay.endpoints(places).values()
    introduce(one, other)
    assert one.wait(other.name).code == 0, describe(one, other)
    peer = one.peer(other.name)
    assert peer is not None
    assert other.host.address_6 is not None
    assert ip_of(peer["path"]["remote"]) == str(other.host.address_6.ip)
    assert one.reaches(other.overlay_ip(), count=2)
