"""The control channel: nothing is believed, and nothing but the proof is said, before the service has proven itself."""

from __future__ import annotations

import random

import pytest

from fabric.core.machine import drain
from fabric.core.rendezvous import Channel, ChannelState
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_CONTROL_SERVER, Ed25519Signer, verify
from fabric.errors import AuthenticationError
from fabric.wire.rendezvous import Authenticate, Challenge, IntentNoted, Welcome, WithdrawIntent
from tests.core.town import Town

NONCE = b"n" * 32


def greet(town: Town, channel: Channel) -> Authenticate:
    channel.handle_connected(town.tls_certificate)
    channel.handle_message_untrusted(Challenge(NONCE))
    (message,) = drain(channel.poll_message)
    assert isinstance(message, Authenticate)
    return message


def fields(town: Town, message: Authenticate, tls: bytes | None = None) -> tuple[bytes, ...]:
    certificate = tls if tls is not None else town.tls_certificate
    return (b"home", NONCE, message.nonce, blake2b_256(certificate), blake2b_256(message.certificate))


def welcome(town: Town, message: Authenticate, signer: Ed25519Signer, tls: bytes | None = None) -> Welcome:
    signature = signer.sign(LABEL_CONTROL_SERVER, *fields(town, message, tls))
    return Welcome(signature, (), b"", 0.0)


@pytest.fixture
def town() -> Town:
    return Town()


@pytest.fixture
def channel(town: Town) -> Channel:
    return Channel(town.identity("a.home"), random.Random(7).randbytes)


def test_both_sides_prove_themselves_over_this_certificate(town: Town, channel: Channel) -> None:
    message = greet(town, channel)
    own = town.identity("a.home").signer.public_key
    verify(own, LABEL_CONTROL_CLIENT, message.signature, *fields(town, message))
    said = welcome(town, message, town.service_signer)
    assert channel.handle_message_untrusted(said) == said
    assert channel.is_up


def test_a_service_without_its_key_is_refused(town: Town, channel: Channel) -> None:
    message = greet(town, channel)
    with pytest.raises(AuthenticationError):
        channel.handle_message_untrusted(welcome(town, message, Ed25519Signer(b"z" * 32)))
    assert not channel.is_up


def test_a_proof_over_another_certificate_is_refused(town: Town, channel: Channel) -> None:
    message = greet(town, channel)
    with pytest.raises(AuthenticationError):
        channel.handle_message_untrusted(welcome(town, message, town.service_signer, tls=b"another"))


def test_a_replayed_welcome_is_refused_on_the_next_channel(town: Town, channel: Channel) -> None:
    first = welcome(town, greet(town, channel), town.service_signer)
    channel.handle_message_untrusted(first)
    channel.handle_lost()
    greet(town, channel)
    with pytest.raises(AuthenticationError):
        channel.handle_message_untrusted(first)


def test_nothing_is_believed_before_the_welcome(town: Town, channel: Channel) -> None:
    channel.handle_connected(town.tls_certificate)
    with pytest.raises(AuthenticationError):
        channel.handle_message_untrusted(IntentNoted("b.home"))


def test_a_second_challenge_on_an_open_channel_is_refused(town: Town, channel: Channel) -> None:
    message = greet(town, channel)
    channel.handle_message_untrusted(welcome(town, message, town.service_signer))
    with pytest.raises(AuthenticationError):
        channel.handle_message_untrusted(Challenge(NONCE))


def test_nothing_is_said_or_kept_before_the_channel_is_up(town: Town, channel: Channel) -> None:
    assert not channel.say(WithdrawIntent("b.home"))
    greet(town, channel)
    assert not channel.say(WithdrawIntent("b.home"))
    assert list(drain(channel.poll_message)) == []
    assert channel.state is ChannelState.EXPECTING_WELCOME
