"""Says which pairs of places can ever be direct, and by what class of path a pair must end up.

`TABLE` is what was measured over UDP with two plain punchers on real kernels' NATs, every pair both ways. `derived`
gets to the same from the behaviours alone, so that it also answers for NATs that nobody measured; the two are tested
against each other, and against punching through the NATs of this world. TCP, with a listener and a connect on one
port, opens what `derived` says too. Beyond that:

    guessing      one side has one port for all, the other a new one for each destination: a hit needs luck, not more
    a forward     a port that the router forwards is open to everyone, whatever the NAT does otherwise
    relay         everybody who gets out at all
"""

from __future__ import annotations

from collections.abc import Mapping as ReadMapping
from dataclasses import dataclass

from fabric.core.status import PathKind
from tests.sim.nat import Filtering, Mapping, NatTable
from tests.sim.network import Policy, Router
from tests.sim.place import Access, Place

_BLOCKED = {Access.UDP_BLOCKED, Access.WEB_ONLY}
_DEPENDENT = {Access.SYMMETRIC, Access.SEQUENTIAL}
_CLOSED_TO_DEPENDENT = {Access.FIREWALL, Access.PORT_RESTRICTED, Access.CARRIER, *_DEPENDENT}


def _open(one: Access, other: Access) -> bool:
    if {one, other} & _BLOCKED:
        return False
    if one in _DEPENDENT:
        return other not in _CLOSED_TO_DEPENDENT
    return other not in _DEPENDENT or one not in _CLOSED_TO_DEPENDENT


TABLE: ReadMapping[tuple[Access, Access], bool] = {
    (one, other): _open(one, other) for one in Access for other in Access
}
"""For two hosts at two places of their own."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What the internet sees of a place. `holds`: one port for all; `lets_in`: also from ports never sent to."""

    holds: bool
    lets_in: bool
    policy: Policy


def expected_kind(one: Place, other: Place, *, has_relays: bool = False) -> PathKind | None:
    """Returns the class of path that `one` must find to `other`, or None where there is no way.

    A network of public addresses is no LAN, also where both are on it.
    """
    if one.realm is other.realm and one.routers == other.routers:
        return PathKind.DIRECT_UDP if one.access in (Access.PUBLIC, Access.FIREWALL) else PathKind.LAN
    if (one.ipv6 is not None and other.ipv6 is not None) or derived(one, other) or guessable(one, other):
        return PathKind.DIRECT_UDP
    if opens_by_tcp(one, other):
        return PathKind.DIRECT_TCP
    if not has_relays:
        return None
    return PathKind.RELAY_UDP if one.policy is Policy.ALL else PathKind.RELAY_TLS


def is_direct(kind: PathKind | None) -> bool:
    return kind in (PathKind.LAN, PathKind.DIRECT_UDP, PathKind.DIRECT_TCP)


def derived(one: Place, other: Place) -> bool:
    """Whether two hosts that are not on one LAN can punch to each other's reflexive addresses over UDP."""
    return one.policy is other.policy is Policy.ALL and _turns_round(one, other) and _punches(one, other)


def guessable(one: Place, other: Place) -> bool:
    """Whether it takes guesses: one port for all on one side only, and that side lets in only ports that it knows."""
    ends = outside_of(one), outside_of(other)
    return (
        all(end.policy is Policy.ALL for end in ends)
        and ends[0].holds != ends[1].holds
        and _turns_round(one, other)
        and not _punches(one, other)
    )


def opens_by_tcp(one: Place, other: Place) -> bool:
    """With a listener and a connect on one port at both sides."""
    return Policy.WEB_ONLY not in (one.policy, other.policy) and _turns_round(one, other) and _punches(one, other)


def outside_of(place: Place) -> Outside:
    """All routers of the place taken together."""
    if place.forwards_ports:
        return Outside(holds=True, lets_in=True, policy=place.policy)
    return Outside(
        holds=all(_mapping_of(router) is Mapping.ENDPOINT_INDEPENDENT for router in place.routers),
        lets_in=not any(_looks_at_ports(router) for router in place.routers),
        policy=place.policy,
    )


def _turns_round(one: Place, other: Place) -> bool:
    """Whether packets of the one get to the other's outside address, also where both have it of one router."""
    shared = [router for router in one.routers if router in other.routers]
    return not shared or shared[-1].hairpin


def _punches(one: Place, other: Place) -> bool:
    """Where both sides' addresses hold towards everyone, each opens its own filter by sending.

    A side whose mapping depends on the remote comes from a port that nobody knows: the other side must let that
    in, which it does if its filter does not look at ports, and answers to where it came from.
    """
    ends = outside_of(one), outside_of(other)
    steady = [end for end in ends if end.holds]
    return len(steady) == 2 or (len(steady) == 1 and steady[0].lets_in)


def _mapping_of(router: Router) -> Mapping:
    table = router.table
    return table.behaviour.mapping if isinstance(table, NatTable) else Mapping.ENDPOINT_INDEPENDENT


def _looks_at_ports(router: Router) -> bool:
    table = router.table
    if isinstance(table, NatTable):
        return table.behaviour.filtering is Filtering.ADDRESS_AND_PORT_DEPENDENT
    return True
