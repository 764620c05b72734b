"""A new identity key is made known inside of handshakes, by the key before and the shared root, and by nothing else."""

from __future__ import annotations

import random

import msgspec
import pytest

from fabric.core.entanglement import UNMET
from fabric.core.events import IdentityReplaced
from fabric.core.status import PeerState
from fabric.crypto.signature import Ed25519Signer
from fabric.custody.memory import MemoryCustodian
from fabric.identity.certificate import decode_certificate
from fabric.identity.fingerprint import fingerprint_of
from fabric.identity.rotation import sign_rotation
from fabric.wire.rendezvous import DeliverOffer, Introduction, Renewed, ToEndpoint, Withdrawn
from tests.core.town import UNIX
from tests.core.village import House, Village

A, B = "a.home", "b.home"


@pytest.fixture
def pair() -> Village:
    village = Village(A, B)
    village.meet(A, B)
    village.run(1.0)
    return village


def rotate(village: Village, name: str, *, is_signed: bool = True) -> bytes:
    """Does what the shell does: a new key, its certificate from the authority, and the statement of the key before."""
    house, town = village.houses[name], village.town
    identity = town.identity(name)
    custodian = MemoryCustodian(random.Random(name + str(village.now)).randbytes(32))
    signer = identity.signer if is_signed else Ed25519Signer(b"x" * 32)
    statement = sign_rotation(signer, name, custodian.public_key, identity.certificate.not_before)
    certificate = town.certify_request(name, custodian.make_request(name), identity.certificate)
    identity.next_key = custodian.public_key
    house.node.handle_service_message(1, Renewed(certificate), village.now)
    village.settle(house)
    assert IdentityReplaced(certificate) in house.told
    identity.certificate = decode_certificate(certificate)
    identity.signer = identity.opener = custodian
    identity.rotations = (*identity.rotations, statement)[-3:]
    house.node.handle_rotated(village.now)
    house.node.replace_bundle(custodian.next_bundle(name, UNIX, int(village.now * 1000)), village.now)
    village.settle(house)
    return custodian.public_key


def knows(village: Village, who: str, peer: str, key: bytes) -> bool:
    return village.houses[who].records[peer].pinned_key == key


def restart(village: Village, name: str) -> House:
    return village.build(name, village.houses[name].records)


@pytest.mark.parametrize(("who", "peer"), [(A, B), (B, A)])
def test_a_peer_in_session_learns_of_it_at_once_and_the_session_goes_on(pair: Village, who: str, peer: str) -> None:
    key = rotate(pair, who)
    until = pair.now + 5.0
    while pair.now < until and not knows(pair, peer, who, key):
        pair.run(0.05)
        assert pair.are_connected(A, B)
    assert knows(pair, peer, who, key)
    assert pair.houses[A].records[B].entangled.alarm is None


@pytest.mark.parametrize(("who", "peer"), [(A, B), (B, A)])
def test_a_peer_that_was_away_learns_of_it_when_it_is_back_without_the_service(
    pair: Village, who: str, peer: str
) -> None:
    away = pair.houses.pop(peer)
    pair.run(30.0)
    key = rotate(pair, who)
    pair.run(30.0)
    again = rotate(pair, who)
    pair.is_service_up = False
    pair.houses[peer] = away
    restart(pair, peer)
    assert pair.run_until(lambda: pair.are_connected(A, B) and knows(pair, peer, who, again), 90.0)
    assert key != again


def part(village: Village, who: str, peer: str) -> None:
    """`who` takes its wish back for a while: its papers are gone at the peer, key and root are not."""
    house, other = village.houses[who], village.houses[peer]
    house.node.disable(peer, village.now)
    village.settle(house)
    village.run(1.0)
    other.node.handle_service_message(1, Withdrawn(who), village.now)
    village.settle(other)
    assert other.records[who].certificate is None
    assert other.records[who].entangled.roots


def wish_again(village: Village, who: str, peer: str) -> None:
    village.houses[who].node.enable(peer, village.now)
    village.settle(village.houses[who])


@pytest.mark.parametrize(("who", "peer"), [(A, B), (B, A)])
def test_a_peer_whose_papers_are_gone_is_led_to_it_by_the_introduction(pair: Village, who: str, peer: str) -> None:
    part(pair, who, peer)
    rotate(pair, who)
    pair.run(10.0)
    key = rotate(pair, who)
    pair.drop = lambda _source, _target: True
    wish_again(pair, who, peer)
    pair.run(5.0)
    assert pair.houses[peer].records[who].certificate == pair.town.identity(who).certificate.der
    assert not knows(pair, peer, who, key), "only a handshake proves it"
    restart(pair, peer)
    pair.drop = lambda _source, _target: False
    assert pair.run_until(lambda: pair.are_connected(A, B) and knows(pair, peer, who, key), 90.0)
    assert pair.houses[peer].records[who].entangled.alarm is None


@pytest.mark.parametrize("is_signed", [True, False])
def test_nobody_is_told_where_an_endpoint_is_who_has_no_more_than_a_certificate_in_the_name_of_its_peer(
    pair: Village, *, is_signed: bool
) -> None:
    """Neither by a statement of a stranger, nor by one of the old key where no root is shared."""
    part(pair, B, A)
    if is_signed:
        pair.houses[A].node.reset_trust(B, key=False, now=pair.now)
        pair.settle(pair.houses[A])
    rotate(pair, B, is_signed=is_signed)
    wish_again(pair, B, A)
    offers: list[str] = []

    def listen(to: str, message: ToEndpoint) -> ToEndpoint:
        if isinstance(message, DeliverOffer):
            offers.append(to)
        return message

    pair.lie = listen
    pair.run(30.0)
    assert A in offers
    assert B not in offers
    assert pair.houses[A].records[B].certificate is None
    assert "--new-key" in pair.houses[A].status(B, pair.now).why


def test_a_key_that_was_revoked_names_no_other_by_an_introduction_either(pair: Village) -> None:
    part(pair, B, A)
    pair.revoke(B)
    rotate(pair, B)
    wish_again(pair, B, A)
    pair.run(30.0)
    assert pair.houses[A].records[B].certificate is None


def test_a_fingerprint_that_a_person_gave_is_of_the_key_before_or_the_next_or_nothing_is_taken(pair: Village) -> None:
    """Whoever holds the known key, and all of its state, still is not who was asked for."""
    old, wanted = pair.houses[A].records[B].pinned_key, fingerprint_of(b"another key, that is not here.....")
    pair.houses[A].node.add(B, wanted, pair.now)
    pair.settle(pair.houses[A])
    rotate(pair, B)
    part(pair, B, A)
    wish_again(pair, B, A)
    pair.run(30.0)
    record = pair.houses[A].records[B]
    assert (record.pinned_key, record.fingerprint, record.certificate) == (old, wanted, None)


def introduce(village: Village, of: str, to: str, introduction: Introduction | None = None) -> None:
    house = village.houses[to]
    message = introduction or village.introduction(of, to)
    house.node.handle_service_message(1, message, village.now)
    village.settle(house)


def publish(village: Village, name: str, serial: int) -> None:
    house, custodian = village.houses[name], village.town.identity(name).signer
    assert isinstance(custodian, MemoryCustodian)
    house.node.replace_bundle(custodian.next_bundle(name, UNIX, serial - 1), village.now)
    village.settle(house)
    village.run(1.0)


def test_the_highest_serial_that_a_stolen_key_can_claim_does_not_shut_out_the_next_key(pair: Village) -> None:
    publish(pair, B, 2**64 - 1)
    introduce(pair, B, A)
    assert pair.houses[A].records[B].bundle_serial == 2**64 - 1
    part(pair, B, A)
    key = rotate(pair, B)
    wish_again(pair, B, A)
    assert pair.run_until(lambda: pair.are_connected(A, B) and knows(pair, A, B, key), 60.0)
    assert 0 < pair.houses[A].records[B].bundle_serial < 2**64 - 1


def test_while_the_next_key_is_introduced_no_old_bundle_of_the_one_before_is_taken(pair: Village) -> None:
    old = pair.introduction(B, A)
    publish(pair, B, 10**12)
    introduce(pair, B, A)
    part(pair, B, A)
    rotate(pair, B)
    pair.drop = lambda _source, _target: True
    wish_again(pair, B, A)
    pair.run(5.0)
    before = pair.houses[A].records[B]
    assert before.certificate == pair.town.identity(B).certificate.der
    introduce(pair, B, A, old)
    assert pair.houses[A].records[B] == before


def test_the_next_key_is_no_longer_believed_where_a_person_takes_back_the_root(pair: Village) -> None:
    part(pair, B, A)
    rotate(pair, B)
    pair.drop = lambda _source, _target: True
    wish_again(pair, B, A)
    pair.run(5.0)
    pair.houses[A].node.reset_trust(B, key=False, now=pair.now)
    pair.settle(pair.houses[A])
    assert pair.houses[A].records[B].certificate is None


def test_a_record_without_the_serial_number_of_the_known_key_is_given_it(pair: Village) -> None:
    house = pair.houses[A]
    serial = house.records[B].pinned_serial
    assert serial is not None
    house.records[B] = msgspec.structs.replace(house.records[B], pinned_serial=None)
    pair.drop = lambda _source, _target: True
    restart(pair, A)
    pair.run(1.0)
    assert pair.houses[A].records[B].pinned_serial == serial


def test_it_is_shown_as_the_key_of_the_peer(pair: Village) -> None:
    before = pair.houses[A].node.trust()[0]
    rotate(pair, B)
    pair.run(5.0)
    after = pair.houses[A].node.trust()[0]
    assert after.fingerprint != before.fingerprint
    assert after.safety_number == pair.houses[B].node.trust()[0].safety_number != before.safety_number


def test_a_pinned_fingerprint_goes_with_it(pair: Village) -> None:
    house = pair.houses[A]
    house.node.add(B, pair.town.identity(B).certificate.fingerprint, pair.now)
    pair.settle(house)
    key = rotate(pair, B)
    assert pair.run_until(lambda: knows(pair, A, B, key))
    assert house.records[B].fingerprint == pair.town.identity(B).certificate.fingerprint
    restart(pair, A)
    assert pair.run_until(lambda: pair.are_connected(A, B))


def test_a_new_key_that_the_one_before_did_not_sign_is_refused(pair: Village) -> None:
    old = pair.houses[A].records[B].pinned_key
    rotate(pair, B, is_signed=False)
    restart(pair, B)
    pair.run(30.0)
    assert pair.houses[A].records[B].pinned_key == old
    assert not pair.are_connected(A, B)


def test_a_new_key_without_the_shared_state_is_refused(pair: Village) -> None:
    old = pair.houses[A].records[B].pinned_key
    for house, peer in ((pair.houses[A], B), (pair.houses[B], A)):
        house.node.reset_trust(peer, key=False, now=pair.now)
        pair.settle(house)
    pair.drop = lambda _source, _target: True
    pair.run(1.0)
    rotate(pair, B)
    pair.drop = lambda _source, _target: False
    pair.run(30.0)
    assert pair.houses[A].records[B].pinned_key == old
    assert pair.houses[A].records[B].entangled == UNMET
    assert "--new-key" in pair.houses[A].status(B, pair.now).why


def test_a_key_that_was_revoked_names_no_other(pair: Village) -> None:
    old = pair.houses[A].records[B].pinned_key
    pair.revoke(B)
    pair.run(1.0)
    rotate(pair, B)
    pair.run(30.0)
    assert pair.houses[A].records[B].pinned_key == old
    assert pair.houses[A].status(B, pair.now).state is not PeerState.CONNECTED
