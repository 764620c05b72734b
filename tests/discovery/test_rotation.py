"""A key hands over to the next at the authority: by its own word, once, and the answer may get lost."""

from __future__ import annotations

import pytest

from discovery.core import events
from fabric.crypto.signature import Ed25519Signer
from fabric.identity.certificate import decode_certificate
from fabric.identity.request import NONCE_BYTES, make_request
from fabric.identity.rotation import sign_rotation
from fabric.wire.rendezvous import Refused, Renew, Renewed, Revocations
from tests.discovery.town import Resident, Town

NEXT_SEED = b"n" * 32
NEXT_KEY = Ed25519Signer(NEXT_SEED).public_key


def rotation(resident: Resident, *, seed: bytes = NEXT_SEED, signer: Ed25519Signer | None = None) -> Renew:
    key = Ed25519Signer(seed).public_key
    statement = sign_rotation(signer or resident.signer, resident.name, key, resident.town.unix)
    return Renew(make_request(seed, resident.name, b"r" * NONCE_BYTES), statement)


def answer(resident: Resident) -> Renewed | Refused:
    (message,) = [message for message in resident.hear() if isinstance(message, Renewed | Refused)]
    return message


def taken_over(resident: Resident, renewed: Renewed | Refused) -> Resident:
    """The same host, with the next key and its certificate."""
    assert isinstance(renewed, Renewed), renewed
    return Resident(resident.town, resident.name.partition(".")[0], NEXT_SEED, decode_certificate(renewed.certificate))


def is_revoked(town: Town, name: str) -> bool:
    record = town.store.endpoint(name)
    return record is not None and record.revoked is not None


def test_the_next_key_gets_a_certificate_at_once_and_everything_else_stays(town: Town) -> None:
    ada = town.online("ada")
    town.pass_time(60)
    ada.say(rotation(ada))
    after = taken_over(ada, answer(ada))
    assert after.certificate.public_key == NEXT_KEY
    assert after.certificate.addresses == ada.certificate.addresses
    assert after.certificate.tags == ada.certificate.tags
    assert ada.is_closed
    after.connect()
    assert not after.is_closed
    after.publish()
    assert not [message for message in after.hear() if isinstance(message, Refused)]
    assert not is_revoked(town, "ada.home")


def test_an_answer_that_got_lost_is_given_again_to_the_old_key_and_nothing_else_is(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    town.pass_time(60)
    asked = rotation(ada)
    ada.say(asked)
    first = answer(ada)
    town.start_service()
    ada.connect()
    ada.state_intent(bob.name)
    assert isinstance(answer(ada), Refused)
    ada.say(asked)
    assert answer(ada) == first


@pytest.mark.parametrize("is_rotated", [True, False])
def test_who_has_the_old_key_and_asks_for_anything_else_is_found_out(town: Town, is_rotated: bool) -> None:
    ada = town.online("ada")
    town.pass_time(60)
    ada.say(rotation(ada))
    answer(ada)
    thief = Resident(town, "ada", ada.seed, ada.certificate)
    thief.connect(source="198.51.100.66")
    thief.say(rotation(thief, seed=b"t" * 32) if is_rotated else Renew(make_request(thief.seed, thief.name, b"t" * 16)))
    found = []
    while (event := town.service.poll_event()) is not None:
        found.append(event)
    assert events.RenewalAlarm("ada.home", ("192.0.2.1", "198.51.100.66")) in found
    assert is_revoked(town, "ada.home")


def test_nobody_else_can_name_the_next_key(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    town.pass_time(60)
    for signer in (bob.signer, Ed25519Signer(NEXT_SEED)):
        statement = sign_rotation(signer, ada.name, Ed25519Signer(b"m" * 32).public_key, town.unix)
        ada.say(Renew(make_request(b"m" * 32, ada.name, b"r" * NONCE_BYTES), statement))
        assert isinstance(answer(ada), Refused)
    bob.say(rotation(ada))
    assert isinstance(answer(bob), Refused)
    ada.say(Renew(make_request(NEXT_SEED, ada.name, b"r" * NONCE_BYTES)))
    assert isinstance(answer(ada), Refused)
    record = town.store.endpoint("ada.home")
    assert record is not None
    assert record.public_key == ada.signer.public_key


def test_keys_do_not_rotate_in_a_loop(town: Town) -> None:
    ada = town.online("ada")
    ada.say(rotation(ada))
    assert isinstance(answer(ada), Refused)


def test_those_who_are_introduced_hear_of_the_new_key_once_it_states_its_wish(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name)
    bob.state_intent(ada.name)
    town.pass_time(60)
    ada.say(rotation(ada))
    after = taken_over(ada, answer(ada))
    bob.hear()
    after.connect()
    after.publish()
    after.state_intent(bob.name)
    heard = [message for message in bob.hear() if not isinstance(message, Revocations)]
    assert [type(message).__name__ for message in heard if "Withdrawn" in type(message).__name__] == []
    introductions = [message for message in heard if type(message).__name__ == "Introduction"]
    assert introductions
    assert introductions[-1].certificate == after.certificate.der  # type: ignore[union-attr]
