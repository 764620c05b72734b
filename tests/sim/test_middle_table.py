"""What each party in the middle can do, and what it cannot: the lines of docs/security.md, "The hostile middle"."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from fabric.core.status import PeerState
from fabric.identity.bundle import peek_bundle
from fabric.identity.certificate import decode_certificate
from fabric.wire.rendezvous import DeliverOffer, Introduction, Revocations, ToEndpoint, Welcome, Withdrawn
from tests.sim.endpoint import Endpoint
from tests.sim.hostile_discovery import HostileDesk
from tests.sim.hostile_network import HostileNetwork
from tests.sim.hostile_relay import HostileRelay
from tests.sim.place import Access
from tests.sim.seed import seed_of
from tests.sim.test_hostile_middle import impostor
from tests.sim.theft import alarms_of
from tests.sim.world import World, are_connected

APART_S = 60.0
AGAIN_S = 90.0
"""After the mischief is over, with the backed-off retries of both ends."""


def never_alarmed(*endpoints: Endpoint) -> bool:
    return not [alarm for endpoint in endpoints for alarm in alarms_of(endpoint)]


def exchange_frames(world: World, one: Endpoint, other: Endpoint, for_s: float) -> float:
    """Sends ten frames a second each way; returns the share that came out. The witness looks at each of them."""
    seen, ends, sent = len(world.witness.deliveries), world.now + for_s, 0
    while world.now < ends:
        one.send_frame(other)
        other.send_frame(one)
        sent += 2
        world.run_for(0.1)
    world.run_for(0.5)
    return (len(world.witness.deliveries) - seen) / sent


# the service alone


def test_a_service_that_says_nothing_can_refuse_its_service(world: World) -> None:
    alpha, beta = world.endpoint("alpha", Access.PUBLIC), world.endpoint("beta", Access.PUBLIC)
    world.run_for(5.0)
    world.site.rewrite = lambda message: None
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.stays_apart(alpha, beta, APART_S)
    assert world.witness.handshakes.total() == 0


@pytest.mark.slow
def test_a_service_that_says_nothing_ends_no_session_and_keeps_no_pair_apart_that_has_met(world: World) -> None:
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_frames_pass(alpha, beta)
    world.site.rewrite = lambda message: None
    assert exchange_frames(world, alpha, beta, 150.0) == 1.0
    beta.kill()
    beta.start()
    world.until_frames_pass(alpha, beta, within_s=30.0)


@pytest.mark.slow
def test_a_revocation_can_be_held_back_until_the_certificate_ends(
    request: pytest.FixtureRequest, watched: Callable[[World], World]
) -> None:
    world = watched(World(seed_of(request.node.nodeid), certificate_life_s=240.0))
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_frames_pass(alpha, beta)
    old = world.office.crl

    def hold_back(message: ToEndpoint) -> ToEndpoint | None:
        match message:
            case Revocations() | Withdrawn():
                return None
            case Welcome():
                return msgspec.structs.replace(message, revocations=old)
            case _:
                return message

    world.site.rewrite = hold_back
    ends = decode_certificate(beta.disk.certificate).not_after - world.unix
    world.revoke(beta)
    world.run_for(ends - 10.0)
    assert are_connected(alpha, beta)
    world.run_for(11.0)
    assert alpha.path_to(beta) is None
    world.stays_apart(alpha, beta, 10.0)


def test_papers_and_offers_of_the_dead_make_nobody_of_them(world: World) -> None:
    """The service goes on to speak for one that is off, to one that waits for it."""
    desk = HostileDesk(world)
    alpha, beta = world.pair(Access.PORT_RESTRICTED, Access.PUBLIC)
    world.until_frames_pass(alpha, beta)
    beta.kill()
    world.run_for(60.0)
    made = world.witness.handshakes.total()
    for _ in range(60):
        for name, message in list(desk.kept.told):
            if name == alpha.name and isinstance(message, Introduction | DeliverOffer):
                desk.tell(name, message)
        world.run_for(1.0)
    assert world.witness.handshakes.total() == made
    assert alpha.state_of(beta) is not PeerState.CONNECTED
    beta.start()
    world.until_frames_pass(alpha, beta, within_s=30.0)
    assert never_alarmed(alpha, beta)


@pytest.mark.parametrize("told", ["alpha", "beta"])
def test_a_split_view_lasts_no_longer_than_the_lie(world: World, told: str) -> None:
    """One of the two is told, again and again, that the other has taken back its wish."""
    desk = HostileDesk(world)
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_frames_pass(alpha, beta)
    one, other = (alpha, beta) if told == "alpha" else (beta, alpha)
    for _ in range(30):
        desk.tell(one.name, Withdrawn(other.name))
        world.run_for(1.0)
        assert are_connected(alpha, beta)
    other.kill()
    for _ in range(30):
        desk.tell(one.name, Withdrawn(other.name))
        world.run_for(1.0)
    other.start()
    world.until_frames_pass(alpha, beta, within_s=AGAIN_S)
    assert never_alarmed(alpha, beta)


def test_old_papers_bring_nothing_old_back(request: pytest.FixtureRequest, watched: Callable[[World], World]) -> None:
    """Certificate, intent and bundle of the beginning, for one that has had others since; over a restart, too."""
    world = watched(World(seed_of(request.node.nodeid), certificate_life_s=900.0))
    desk = HostileDesk(world)
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_frames_pass(alpha, beta)
    (old, *_) = [told for name, told in desk.kept.told if name == alpha.name and isinstance(told, Introduction)]
    secrets = list(beta.disk.secrets)
    beta.disk.secrets = []  # lost: a new bundle is due at the next start
    beta.disk.bundle = None
    beta.kill()
    beta.disk.secrets = secrets
    world.run_for(1.0)
    beta.start()
    world.until_frames_pass(alpha, beta, within_s=30.0)
    world.run_for(700.0)
    newer = alpha.disk.load_records()[0]
    assert newer.certificate is not None
    assert decode_certificate(newer.certificate).not_before > decode_certificate(old.certificate).not_before
    for _ in range(2):
        for _ in range(10):
            desk.tell(alpha.name, old)
            world.run_for(1.0)
        now = alpha.disk.load_records()[0]
        assert now.certificate is not None
        assert now.bundle_serial >= newer.bundle_serial >= peek_bundle(old.bundle).serial
        assert decode_certificate(now.certificate).not_before >= decode_certificate(newer.certificate).not_before
        alpha.kill()
        alpha.start()
        world.until_frames_pass(alpha, beta, within_s=30.0)


# relays, and the network between


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_hostile_relay_delivers_less_and_nothing_wrong(
    request: pytest.FixtureRequest, watched: Callable[[World], World], rate: float
) -> None:
    """Two pairs that can meet by nothing but relays, all of which are hostile and work together."""
    world = watched(World(seed_of(request.node.nodeid), relays=2, relay_kind=HostileRelay))
    alpha, beta = world.pair(Access.SYMMETRIC, Access.SYMMETRIC)
    gamma = world.endpoint("gamma", Access.SYMMETRIC)
    for one, other in ((alpha, gamma), (gamma, alpha)):
        one.add(other.name)
    world.until_connected((alpha, beta), (alpha, gamma))
    relays = [relay for relay in world.relays if isinstance(relay, HostileRelay)]
    for relay in relays:
        relay.turn(world, rate)
    assert exchange_frames(world, alpha, beta, 60.0) < 1.0
    assert sum(relay.did.total() for relay in relays) > 20
    for relay in relays:
        relay.turn(world, 0.0)
    world.until_frames_pass(alpha, beta, within_s=AGAIN_S)
    world.until_frames_pass(alpha, gamma, within_s=AGAIN_S)
    assert never_alarmed(alpha, beta, gamma)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_hostile_network_delivers_less_and_nothing_wrong(world: World, rate: float) -> None:
    alpha, beta = world.pair(Access.PUBLIC, Access.PORT_RESTRICTED)
    world.until_connected((alpha, beta))
    network = HostileNetwork(world, rate)
    assert 0.1 < exchange_frames(world, alpha, beta, 60.0) < 1.0
    assert network.did.total() > 100
    network.rate = 0.0
    world.until_frames_pass(alpha, beta, within_s=AGAIN_S)
    assert never_alarmed(alpha, beta)


@pytest.mark.slow
def test_handshakes_through_a_hostile_network_succeed_or_leave_nothing(world: World) -> None:
    """Restart after restart, while half of what they say is spoiled: the root is never of two minds."""
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_connected((alpha, beta))
    network = HostileNetwork(world, 0.5)
    for _ in range(20):
        endpoint = world.chance.choice((alpha, beta))
        endpoint.kill()
        world.run_for(world.chance.random())
        endpoint.start()
        world.run_for(world.chance.random() * 20.0)
    network.rate = 0.0
    world.until_frames_pass(alpha, beta, within_s=AGAIN_S)
    assert never_alarmed(alpha, beta)


# the service together with the authority's key


@pytest.mark.parametrize("robbed", ["alpha", "beta"])
def test_with_the_authoritys_key_it_can_pass_as_one_whom_nobody_has_met(hostile_world: World, robbed: str) -> None:
    """Either side. The real one, when it comes, is refused, and its peer says that the key is another."""
    world = hostile_world
    alpha, beta = world.endpoint("alpha", Access.PUBLIC), world.endpoint("beta", Access.PUBLIC)
    victim, peer = (alpha, beta) if robbed == "alpha" else (beta, alpha)
    victim.kill()
    false_one = impostor(world, victim, [peer.name])
    peer.add(victim.name)
    world.until(lambda: are_connected(false_one, peer), APART_S)
    assert false_one.seen_by.shares_a_key_with(world.witness)
    false_one.kill()
    victim.start()
    victim.add(peer.name)
    world.stays_apart(victim, peer, APART_S)
    assert "key" in peer.status()[victim.name].why
    assert never_alarmed(alpha, beta)


@pytest.mark.parametrize("robbed", ["alpha", "beta"])
@pytest.mark.parametrize("is_reset", [False, True], ids=["as they met", "after a reset of the root"])
def test_with_the_authoritys_key_it_can_not_pass_as_one_who_was_met(
    hostile_world: World, robbed: str, is_reset: bool
) -> None:
    world = hostile_world
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_connected((alpha, beta))
    victim, peer = (alpha, beta) if robbed == "alpha" else (beta, alpha)
    victim.kill()
    if is_reset:
        peer.reset_trust(victim.name)
    false_one = impostor(world, victim, [peer.name])
    world.run_for(APART_S)
    assert not false_one.seen_by.shares_a_key_with(world.witness)
    assert peer.path_to(victim) is None
    false_one.kill()
    victim.start()
    if is_reset:
        victim.reset_trust(peer.name)
    world.until_frames_pass(alpha, beta, within_s=AGAIN_S)
    assert never_alarmed(alpha, beta)


def test_with_the_authoritys_key_it_can_revoke_and_so_refuse_its_service_to_all(hostile_world: World) -> None:
    """The authority's word ends every session. It makes nobody else of anybody."""
    world = hostile_world
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_connected((alpha, beta))
    crl = world.office.revoke_all_of(world.office)
    for name in (alpha.name, beta.name):
        world.introducer.say(name, Revocations(crl))
    world.site.settle()
    world.run_for(1.0)
    assert not are_connected(alpha, beta)
    assert "was revoked" in alpha.status()[beta.name].why
    false_beta = impostor(world, beta, [alpha.name])
    world.run_for(APART_S)
    assert not false_beta.seen_by.shares_a_key_with(world.witness)
    assert "another key than the one known under this name" in alpha.status()[beta.name].why
