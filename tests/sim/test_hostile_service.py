"""A discovery service that lies: it may keep two apart that have never met, and can do nothing else."""

from __future__ import annotations

import msgspec
import pytest

from fabric.core.status import PeerState
from fabric.crypto.signature import Ed25519Signer
from fabric.wire.rendezvous import (
    DeliverOffer,
    Introduction,
    Revocations,
    ToEndpoint,
    Withdrawn,
)
from tests.sim.disk import Disk
from tests.sim.endpoint import Endpoint
from tests.sim.office import NETWORK, Office
from tests.sim.place import Access
from tests.sim.witness import Witness
from tests.sim.world import World

APART_S = 30.0


def introductions(world: World, **changed: object) -> None:
    """Changes these fields in every introduction to alpha of beta."""

    def rewrite(message: ToEndpoint) -> ToEndpoint:
        if isinstance(message, Introduction) and message.peer == f"beta.{NETWORK}":
            return msgspec.structs.replace(message, **changed)
        return message

    world.site.rewrite = rewrite


def say(world: World, to: Endpoint, message: ToEndpoint) -> None:
    world.introducer.say(to.name, message)
    world.site.settle()


def impostor(world: World, office: Office, access: Access = Access.PUBLIC) -> Endpoint:
    """An endpoint with another key under beta's name, certified by `office`, with a witness of its own."""
    seed, name = world.draw(32), f"beta.{NETWORK}"
    certificate = office.enrol(name, Ed25519Signer(seed).public_key, world.unix)
    disk = Disk(seed, certificate.der, office.authority.root_der, office.crl, world.stun_names)
    host = world.network.make_host("impostor")
    endpoint = Endpoint(host, disk, world.site, Witness(), world.schedule, world.draw)
    endpoint.sit(world.atlas.make(access))
    return endpoint


def wishing(world: World) -> tuple[Endpoint, Endpoint, Endpoint]:
    """alpha and beta wish to meet; mallory is enrolled, wishes to meet alpha, and works with the service."""
    mallory = world.endpoint("mallory", Access.PUBLIC)
    mallory.add(f"alpha.{NETWORK}")
    world.run_for(2.0)
    alpha, beta = world.endpoint("alpha", Access.PUBLIC), world.endpoint("beta", Access.PUBLIC)
    return alpha, beta, mallory


def test_another_members_papers_under_the_peers_name_are_refused(hostile_world: World) -> None:
    alpha, beta, mallory = wishing(hostile_world)
    hoard = hostile_world.introducer.hoard
    introductions(
        hostile_world,
        certificate=hoard.certificates[mallory.name][-1],
        intent=hoard.intents[mallory.name, alpha.name][-1],
        bundle=hoard.bundles[mallory.name][-1],
    )
    alpha.add(beta.name)
    beta.add(alpha.name)
    hostile_world.stays_apart(alpha, beta, APART_S)
    assert alpha.state_of(beta) is PeerState.PENDING
    assert hostile_world.witness.handshakes.total() == 0


@pytest.mark.parametrize("field", ["certificate", "bundle"])
def test_one_exchanged_paper_is_enough_to_refuse_all(hostile_world: World, field: str) -> None:
    alpha, beta, mallory = wishing(hostile_world)
    hoard = hostile_world.introducer.hoard
    papers = {"certificate": hoard.certificates, "bundle": hoard.bundles}[field]
    introductions(hostile_world, **{field: papers[mallory.name][-1]})
    alpha.add(beta.name)
    beta.add(alpha.name)
    hostile_world.stays_apart(alpha, beta, APART_S)
    assert alpha.state_of(beta) is PeerState.PENDING


def test_a_foreign_authority_certifies_nobody(hostile_world: World) -> None:
    foreign = Office(hostile_world.draw, hostile_world.unix, "discovery.example")
    alpha, beta, _ = wishing(hostile_world)
    certificate = foreign.enrol(beta.name, Ed25519Signer(beta.disk.seed).public_key, hostile_world.unix)
    introductions(hostile_world, certificate=certificate.der)
    alpha.add(beta.name)
    beta.add(alpha.name)
    hostile_world.stays_apart(alpha, beta, APART_S)
    assert alpha.state_of(beta) is PeerState.PENDING


def test_an_intent_towards_somebody_else_does_not_count(hostile_world: World) -> None:
    """beta wishes to meet mallory, and the service shows that to alpha as a wish to meet alpha."""
    alpha, beta, mallory = wishing(hostile_world)
    beta.add(mallory.name)
    alpha.add(beta.name)
    hostile_world.run_for(3.0)
    hoard = hostile_world.introducer.hoard
    say(
        hostile_world,
        alpha,
        Introduction(
            beta.name,
            hoard.certificates[beta.name][-1],
            hoard.intents[beta.name, mallory.name][-1],
            hoard.bundles[beta.name][-1],
        ),
    )
    hostile_world.stays_apart(alpha, beta, APART_S)
    assert alpha.state_of(beta) is PeerState.PENDING


def test_a_wish_that_was_taken_back_makes_no_session(hostile_world: World) -> None:
    alpha, beta = hostile_world.pair(Access.PUBLIC, Access.PUBLIC)
    hostile_world.until_connected((alpha, beta))
    beta.remove(alpha.name)
    hostile_world.run_for(1.0)
    before = hostile_world.witness.handshakes.total()
    for _ in range(10):
        hostile_world.introducer.introduce(alpha.name, beta.name)
        hostile_world.introducer.introduce(beta.name, alpha.name)
        for envelope in hostile_world.introducer.hoard.envelopes.get((beta.name, alpha.name), []):
            hostile_world.introducer.say(alpha.name, DeliverOffer(beta.name, envelope))
        hostile_world.site.settle()
        hostile_world.run_for(3.0)
    assert hostile_world.witness.handshakes.total() == before
    assert beta.status() == {}


def test_a_stolen_authority_can_not_touch_a_pair_that_has_met(hostile_world: World) -> None:
    """The service holds the authority's key, certifies an impostor under beta's name, and beta is offline."""
    alpha, beta = hostile_world.pair(Access.PUBLIC, Access.PUBLIC)
    hostile_world.until_connected((alpha, beta))
    beta.kill()
    hostile_world.run_for(30.0)
    false_beta = impostor(hostile_world, hostile_world.office)
    false_beta.start()
    false_beta.add(alpha.name)
    before = hostile_world.witness.handshakes[alpha.name, beta.name]
    hostile_world.run_for(60.0)
    assert hostile_world.witness.handshakes[alpha.name, beta.name] == before
    assert alpha.state_of(beta) is not PeerState.CONNECTED
    false_beta.kill()
    beta.start()
    hostile_world.until_frames_pass(alpha, beta, within_s=20.0)


def test_a_stolen_authority_can_not_pass_a_pinned_fingerprint(hostile_world: World) -> None:
    alpha, beta = hostile_world.endpoint("alpha", Access.PUBLIC), hostile_world.endpoint("beta", Access.PUBLIC)
    fingerprint = hostile_world.office.issued_to(beta.name).fingerprint
    beta.kill()
    false_beta = impostor(hostile_world, hostile_world.office)
    false_beta.start()
    false_beta.add(alpha.name)
    alpha.add(beta.name, fingerprint)
    hostile_world.stays_apart(alpha, beta, APART_S)
    assert hostile_world.witness.handshakes.total() == 0
    assert "fingerprint" in alpha.status()[beta.name].why


def test_offers_of_one_peer_are_not_taken_for_anothers(hostile_world: World) -> None:
    alpha, beta = hostile_world.pair(Access.PORT_RESTRICTED, Access.FULL_CONE)
    gamma = hostile_world.endpoint("gamma", Access.PUBLIC)
    alpha.add(gamma.name)
    gamma.add(alpha.name)

    def swap(message: ToEndpoint) -> ToEndpoint:
        if isinstance(message, DeliverOffer):
            other = {beta.name: gamma.name, gamma.name: beta.name}.get(message.sender, message.sender)
            return DeliverOffer(other, message.envelope)
        return message

    hostile_world.site.rewrite = swap
    hostile_world.run_for(APART_S)
    assert hostile_world.witness.handshakes[alpha.name, beta.name] == 0
    hostile_world.site.rewrite = lambda message: message
    hostile_world.until_connected((alpha, beta), (alpha, gamma), within_s=90.0)


def test_old_offers_change_nothing(hostile_world: World) -> None:
    """Every offer of beta since the beginning is said again, after each of its moves."""
    alpha, beta = hostile_world.pair(Access.PORT_RESTRICTED, Access.FULL_CONE)
    hostile_world.until_connected((alpha, beta))
    for _ in range(3):
        beta.sit(hostile_world.atlas.make(Access.FULL_CONE))
        hostile_world.until_frames_pass(alpha, beta)
        for envelope in list(hostile_world.introducer.hoard.envelopes.get((beta.name, alpha.name), [])):
            say(hostile_world, alpha, DeliverOffer(beta.name, envelope))
        hostile_world.until_frames_pass(alpha, beta, within_s=1.0)


def test_a_session_outlives_every_lie_about_the_other_side(hostile_world: World) -> None:
    alpha, beta, mallory = wishing(hostile_world)
    alpha.add(beta.name)
    beta.add(alpha.name)
    hostile_world.until_connected((alpha, beta))
    hoard = hostile_world.introducer.hoard
    hour_old_crl = hostile_world.office.crl
    lies: list[ToEndpoint] = [
        Withdrawn(beta.name),
        Revocations(hour_old_crl),
        Revocations(
            Office(hostile_world.draw, hostile_world.unix, "discovery.example").revoke_all_of(hostile_world.office)
        ),
        Revocations(b"nonsense"),
        Introduction(beta.name, hoard.certificates[mallory.name][-1], b"", b""),
        Introduction(beta.name, b"", b"", b""),
        Introduction(alpha.name, hoard.certificates[alpha.name][-1], b"", b""),
        DeliverOffer(beta.name, b""),
        DeliverOffer(beta.name, hostile_world.draw(900)),
        DeliverOffer(alpha.name, hoard.envelopes[alpha.name, beta.name][-1]),
    ]
    for lie in lies:
        say(hostile_world, alpha, lie)
        hostile_world.until_frames_pass(alpha, beta, within_s=1.0)
    assert alpha.path_to(beta) is not None


@pytest.mark.parametrize("attempt", range(5))
def test_papers_with_flipped_bits_change_nothing(hostile_world: World, attempt: int) -> None:
    alpha, beta = hostile_world.pair(Access.PUBLIC, Access.FIREWALL)
    hostile_world.until_connected((alpha, beta))
    hostile_world.run_for(20.0)
    hoard = hostile_world.introducer.hoard
    good = Introduction(
        beta.name,
        hoard.certificates[beta.name][-1],
        hoard.intents[beta.name, alpha.name][-1],
        hoard.bundles[beta.name][-1],
    )
    offers = hoard.envelopes[beta.name, alpha.name]
    record = alpha.disk.records[beta.name]
    for _ in range(40):
        field = hostile_world.chance.choice(("certificate", "intent", "bundle"))
        flipped = bytearray(getattr(good, field))
        flipped[hostile_world.chance.randrange(len(flipped))] ^= 1 << hostile_world.chance.randrange(8)
        say(hostile_world, alpha, msgspec.structs.replace(good, **{field: bytes(flipped)}))
        envelope = bytearray(hostile_world.chance.choice(offers))
        envelope[hostile_world.chance.randrange(len(envelope))] ^= 1 << hostile_world.chance.randrange(8)
        say(hostile_world, alpha, DeliverOffer(beta.name, bytes(envelope)))
    hostile_world.run_for(1.0)
    assert alpha.disk.records[beta.name] == record
    hostile_world.until_frames_pass(alpha, beta, within_s=1.0)


def test_a_service_that_can_not_prove_itself_hears_nothing(hostile_world: World) -> None:
    """Somebody in the way has a certificate of the authority for the service's name, but not the service's key."""
    hostile_world.introducer.office.service_signer = Ed25519Signer(hostile_world.draw(32))
    alpha, beta = hostile_world.pair(Access.PUBLIC, Access.PUBLIC)
    hostile_world.stays_apart(alpha, beta, APART_S)
    assert hostile_world.introducer.hoard.intents == {}
    assert hostile_world.introducer.hoard.bundles == {}
