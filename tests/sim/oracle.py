"""Says which pairs of places can ever be direct over UDP with plain punching, and by what kind of path.

`TABLE` is what was measured with two plain punchers on real kernels' NATs, every pair both ways. `derived` gets
to the same from the behaviours alone, so that it also answers for NATs that nobody measured; the two are tested
against each other, and against punching through the NATs of this world.
"""

from __future__ import annotations

from collections.abc import Mapping as ReadMapping

from fabric.core.status import PathKind
from tests.sim.nat import Filtering, Mapping, NatTable
from tests.sim.network import Router
from tests.sim.place import Access, Place

_CLOSED_TO_SYMMETRIC = {Access.FIREWALL, Access.PORT_RESTRICTED, Access.CARRIER, Access.SYMMETRIC}


def _open(one: Access, other: Access) -> bool:
    if one is Access.SYMMETRIC:
        return other not in _CLOSED_TO_SYMMETRIC
    return other is not Access.SYMMETRIC or one not in _CLOSED_TO_SYMMETRIC


TABLE: ReadMapping[tuple[Access, Access], bool] = {
    (one, other): _open(one, other) for one in Access for other in Access
}
"""For two hosts at two places of their own."""


def expected_kind(one: Place, other: Place) -> PathKind | None:
    """Returns the class of path that the pair must find, or None where it can find none without a relay.

    A network of public addresses is no LAN, also where both are on it.
    """
    if one.realm is other.realm and one.routers == other.routers:
        return PathKind.DIRECT_UDP if one.access in (Access.PUBLIC, Access.FIREWALL) else PathKind.LAN
    return PathKind.DIRECT_UDP if derived(one, other) else None


def derived(one: Place, other: Place) -> bool:
    """Whether two hosts that are not on one LAN can punch to each other's reflexive addresses."""
    shared = [router for router in one.routers if router in other.routers]
    if shared:
        return shared[-1].hairpin and _punches(one.routers, other.routers)
    return _punches(one.routers, other.routers)


def _punches(one: tuple[Router, ...], other: tuple[Router, ...]) -> bool:
    """Where both sides' addresses hold towards everyone, each opens its own filter by sending.

    A side whose mapping depends on the remote comes from a port that nobody knows: the other side must let that
    in, which it does if its filter does not look at ports, and answers to where it came from.
    """
    if _holds(one) and _holds(other):
        return True
    if _holds(one) == _holds(other):
        return False
    steady = one if _holds(one) else other
    return not any(_looks_at_ports(router) for router in steady)


def _holds(routers: tuple[Router, ...]) -> bool:
    return all(_behaviour_mapping(router) is Mapping.ENDPOINT_INDEPENDENT for router in routers)


def _behaviour_mapping(router: Router) -> Mapping:
    table = router.table
    return table.behaviour.mapping if isinstance(table, NatTable) else Mapping.ENDPOINT_INDEPENDENT


def _looks_at_ports(router: Router) -> bool:
    table = router.table
    if isinstance(table, NatTable):
        return table.behaviour.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT
    return True
