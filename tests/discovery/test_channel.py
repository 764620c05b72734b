"""The control channel against liars: nobody gets in by another's words, and nobody holds what isn't his."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discovery.core import events
from discovery.core.settings import DAY_S, Settings
from fabric.core.machine import drain
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_CONTROL_SERVER
from fabric.identity.authority import Authority, draw_serial
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.request import Request
from fabric.wire.rendezvous import (
    Authenticate,
    Challenge,
    IntentNoted,
    Introduction,
    Refused,
    Renewed,
    StateIntent,
    Welcome,
)
from tests.discovery.conftest import MakeTown
from tests.discovery.town import NETWORK, UNIX, Resident, Town


def refused(resident: Resident, message: Authenticate) -> bool:
    """Whether the message got nothing but the end of the channel."""
    resident.say(message)
    return resident.is_closed and resident.hear() == []


def test_both_sides_prove_themselves(town: Town) -> None:
    ada = town.resident("ada")
    welcome = ada.connect()
    assert welcome.stun == ("service.example:3478",)
    assert welcome.unix_time == town.unix
    assert town.service.connected() == {"ada.home"}


def test_a_proof_from_another_channel_is_worth_nothing(town: Town) -> None:
    ada = town.resident("ada")
    old = ada.proof(ada.open())
    ada.open()
    assert refused(ada, old)


def test_a_proof_over_another_tls_certificate_is_worth_nothing(town: Town) -> None:
    """Somebody in the middle who holds a certificate of his own can't pass on what he is told."""
    ada = town.resident("ada")
    challenge = ada.open()
    town.identity = town.new_identity()
    assert refused(ada, ada.proof(challenge))


def test_a_channel_stays_bound_to_the_certificate_it_was_opened_over(town: Town) -> None:
    ada = town.resident("ada")
    challenge = ada.open()
    town.service.replace_identity(town.new_identity())
    ada.say(ada.proof(challenge))
    assert not ada.is_closed


def test_a_signature_for_the_other_direction_can_not_be_reflected(town: Town) -> None:
    ada = town.resident("ada")
    challenge = ada.open()
    message = ada.proof(challenge)
    fields = ada.fields(challenge.nonce, message.nonce)
    assert refused(ada, replace_signature(message, ada.signer.sign(LABEL_CONTROL_SERVER, *fields)))


def replace_signature(message: Authenticate, signature: bytes) -> Authenticate:
    return Authenticate(message.certificate, message.nonce, signature)


def test_anothers_certificate_without_its_key_opens_nothing(town: Town) -> None:
    ada, eve = town.resident("ada"), town.resident("eve")
    thief = Resident(town, "ada", eve.seed, ada.certificate)
    assert refused(thief, thief.proof(thief.open()))


def test_ones_own_proof_does_not_carry_anothers_certificate(town: Town) -> None:
    ada, eve = town.resident("ada"), town.resident("eve")
    message = eve.proof(eve.open())
    assert refused(eve, Authenticate(ada.certificate.der, message.nonce, message.signature))


def test_a_certificate_of_another_authority_or_one_never_issued_here_is_refused(town: Town) -> None:
    ada = town.resident("ada")
    foreign = Authority.create(
        NETWORK, seed=town.draw(32), serial=draw_serial(town.draw), not_before=UNIX - 1, not_after=UNIX + DAY_S
    )
    for authority in (foreign, town.authority):
        der = authority.issue_endpoint(
            Request("ada.home", ada.certificate.public_key),
            "ada.home",
            addresses=(ada.certificate.ipv4, ipv6_of(ula_prefix(authority.fingerprint), ada.certificate.ipv4)),
            tags=(),
            serial=draw_serial(town.draw),
            not_before=UNIX - 1,
            not_after=UNIX + DAY_S / 2,
        )
        liar = Resident(town, "ada", ada.seed, replace(ada.certificate, der=der))
        assert refused(liar, liar.proof(liar.open()))


def test_a_revoked_endpoint_is_not_let_in_and_learns_only_that_it_is_revoked(town: Town) -> None:
    eve = town.resident("eve")
    town.service.revoke("eve.home", "test", town.now)
    eve.say(eve.proof(eve.open()))
    assert eve.is_closed
    assert [type(message) for message in eve.hear()] == [Welcome, Refused]
    assert town.service.connected() == frozenset()
    eve.publish()
    eve.state_intent("bob.home")
    assert eve.hear() == []
    assert town.store.count_intents("eve.home") == 0


@pytest.mark.parametrize("certificate", [b"", b"\x30\x82\xff\xff", b"\0" * 16_000])
def test_garbage_for_a_certificate_ends_the_channel(town: Town, certificate: bytes) -> None:
    ada = town.resident("ada")
    ada.open()
    assert refused(ada, Authenticate(certificate, bytes(32), bytes(64)))


def test_nothing_is_done_for_who_has_not_proven_himself(town: Town) -> None:
    ada = town.resident("ada")
    ada.open()
    ada.say(StateIntent(ada.intent("bob.home")))
    assert ada.is_closed
    assert town.store.intent("ada.home", "bob.home") is None


def test_who_begins_again_on_an_open_channel_is_closed(town: Town) -> None:
    ada = town.resident("ada")
    challenge = ada.open()
    message = ada.proof(challenge)
    ada.say(message)
    ada.say(message)
    assert ada.is_closed


def test_a_stranger_who_says_nothing_is_closed_in_time(town: Town) -> None:
    ada = town.resident("ada")
    ada.open()
    town.pass_time(town.settings.authentication_s - 1)
    assert not ada.is_closed
    town.pass_time(1)
    assert ada.is_closed


def test_an_endpoint_may_have_two_channels_and_a_third_closes_the_oldest(town: Town) -> None:
    ada = town.online("ada")
    oldest = ada.connection
    ada.connect()
    assert town.closed == set()
    ada.connect()
    assert town.closed == {oldest}
    town.service.handle_lost(oldest, town.now)
    ada.state_intent("bob.home")
    assert ada.hear() == [IntentNoted("bob.home")]
    assert town.service.connected() == {"ada.home"}


def happened(town: Town, kind: type[events.Event]) -> int:
    return sum(isinstance(event, kind) for event in drain(town.service.poll_event))


def test_what_is_said_to_an_endpoint_is_said_on_each_of_its_channels(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name)
    first = ada.connection
    ada.connect()
    ada.hear()
    heard = len(town.inbox[first])
    bob.state_intent(ada.name)
    assert [type(message) for message in ada.hear()] == [Introduction]
    assert [type(message) for message in town.inbox[first][heard:]] == [Introduction]


def test_an_endpoint_is_gone_with_the_last_of_its_channels(town: Town) -> None:
    ada = town.online("ada")
    first = ada.connection
    ada.connect()
    assert happened(town, events.EndpointConnected) == 1
    town.service.handle_lost(first, town.now)
    assert happened(town, events.EndpointLost) == 0
    assert town.service.connected() == {"ada.home"}
    ada.disconnect()
    assert happened(town, events.EndpointLost) == 1
    assert town.service.connected() == set()


def test_a_revocation_closes_each_channel(town: Town) -> None:
    ada = town.online("ada")
    first = ada.connection
    ada.connect()
    town.service.revoke(ada.name, "", town.now)
    town.drain()
    assert {first, ada.connection} <= town.closed


def test_after_a_renewal_the_other_channel_is_let_go_once_the_certificate_has_arrived(town: Town) -> None:
    """It was proven by the old certificate: a renewal over it would look like one by a copy of the host."""
    ada = town.online("ada")
    other = ada.connection
    town.pass_time(5 * DAY_S)
    ada.connect()
    ada.renew()
    (renewed,) = ada.hear()
    assert isinstance(renewed, Renewed)
    assert other not in town.closed
    town.pass_time(town.settings.authentication_s)
    assert other in town.closed
    assert not ada.is_closed


def test_a_channel_that_has_renewed_too_stays(town: Town) -> None:
    ada = town.online("ada")
    town.pass_time(5 * DAY_S)
    first = ada.connection
    ada.connect()
    ada.renew()
    second, ada.connection = ada.connection, first
    ada.renew()
    town.pass_time(town.settings.authentication_s)
    assert not {first, second} & town.closed


def test_open_channels_are_bounded_per_source_and_overall(make_town: MakeTown) -> None:
    town = make_town(Settings(max_channels_per_source=2, max_channels=3))
    for connection, source in enumerate(("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3")):
        town.service.handle_connected(connection, town.now, source)
    town.drain()
    assert town.closed == {2, 4}
    town.service.handle_lost(0, town.now)
    town.service.handle_connected(9, town.now, "192.0.2.1")
    town.drain()
    assert 9 not in town.closed


def test_new_channels_are_limited_by_source(make_town: MakeTown) -> None:
    town = make_town(Settings(channel_burst=5, channel_rate=1))
    for connection in range(50):
        town.service.handle_connected(connection, town.now, "192.0.2.1")
        town.service.handle_lost(connection, town.now)
    town.drain()
    assert len(town.closed) == 45
    assert isinstance(town.inbox[0][0], Challenge)


def test_who_says_too_much_is_slowed_down(make_town: MakeTown) -> None:
    town = make_town(Settings(message_rate=10, message_burst=20))
    ada = town.online("ada")
    intent = ada.intent("bob.home")
    for _ in range(18):
        ada.say(StateIntent(intent))
    assert town.service.may_read(ada.connection) <= town.now
    for _ in range(10):
        ada.say(StateIntent(intent))
    assert town.service.may_read(ada.connection) == pytest.approx(town.now + 1.0)


def test_what_was_rejected_is_told_to_the_log_and_nothing_is_told_to_the_stranger(town: Town) -> None:
    ada = town.resident("ada")
    ada.open(source="198.51.100.9")
    ada.say(Authenticate(ada.certificate.der, bytes(32), bytes(64)))
    rejected = None
    while (event := town.service.poll_event()) is not None:
        if isinstance(event, events.ChannelRejected):
            rejected = event
    assert rejected is not None
    assert rejected.source == "198.51.100.9"
    assert ada.hear() == []


def test_the_labels_of_both_directions_differ() -> None:
    assert LABEL_CONTROL_CLIENT != LABEL_CONTROL_SERVER
