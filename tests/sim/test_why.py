"""The sentence in `why`, told by endpoints that have found out by themselves, against what the world knows of them."""

from __future__ import annotations

import itertools

import pytest

from fabric.core.status import PathKind
from tests.sim.endpoint import Endpoint
from tests.sim.place import Access
from tests.sim.world import World

pytestmark = pytest.mark.slow

LOOKS_S = (3.0, 10.0, 30.0, 90.0)
"""Before the NATs are known, while a better path is looked for, and when nothing more comes of it."""

CHANGING = {Access.SYMMETRIC, Access.SEQUENTIAL}
BARRED = {Access.UDP_BLOCKED, Access.WEB_ONLY}


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(Access, 2)))
def test_no_sentence_is_wrong_about_the_world(relayed_world: World, one: Access, other: Access) -> None:
    world, begun = relayed_world, relayed_world.now
    alpha, beta = world.pair(one, other)
    for at in LOOKS_S:
        world.run_for(begun + at - world.now)
        check(alpha, one, beta, other)
        check(beta, other, alpha, one)
    if alpha.path_to(beta) is not PathKind.DIRECT_UDP:
        assert "because" in why(alpha, beta)


def check(teller: Endpoint, here: Access, peer: Endpoint, there: Access) -> None:
    sentence = why(teller, peer)
    of_peer = f"of {peer.name}"
    claims = {
        "directly over UDP": teller.path_to(peer) is PathKind.DIRECT_UDP,
        "directly over TCP": teller.path_to(peer) is PathKind.DIRECT_TCP,
        "over the relay": teller.path_to(peer) in (PathKind.RELAY_UDP, PathKind.RELAY_TLS),
        "both NATs give every destination": here in CHANGING and there in CHANGING,
        "NAT here gives every destination": here in CHANGING,
        f"NAT {of_peer} gives every destination": there in CHANGING,
        "network here lets no UDP out": here in BARRED,
        f"network {of_peer} lets no UDP out": there in BARRED,
        "neither network lets UDP out": here in BARRED and there in BARRED,
        "let UDP out of the network here": here in BARRED,
        f"let UDP out of the network {of_peer}": there in BARRED,
        "to this host": here not in BARRED and there not in BARRED and here.is_nat,
        f"to {peer.name}": here not in BARRED and there not in BARRED and there.is_nat,
        "firewall": Access.FIREWALL in (here, there),
    }
    wrong = [claim for claim, holds in claims.items() if claim in sentence and not holds]
    assert not wrong, f"{here.value} of {there.value}: {sentence}"


def why(teller: Endpoint, peer: Endpoint) -> str:
    return teller.status()[peer.name].why


def test_two_that_can_only_be_relayed_know_it_once_forwarded_ports_were_tried(relayed_world: World) -> None:
    alpha, beta = relayed_world.pair(Access.SYMMETRIC, Access.SYMMETRIC)
    relayed_world.run_for(25.0)
    for teller, peer in ((alpha, beta), (beta, alpha)):
        assert "because both NATs give every destination its own port; forward UDP" in why(teller, peer)
