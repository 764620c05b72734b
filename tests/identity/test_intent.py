"""Intents and key bundles: signed by one key, read by nobody who does not check it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.signature import LABEL_INTENT, Ed25519Signer
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.bundle import (
    DAY_S,
    BundleSecrets,
    KeyBundle,
    bundle_of,
    make_bundle,
    open_bundle,
    peek_bundle,
    sign_bundle,
)
from fabric.identity.intent import NO_END, Intent, open_intent, peek_intent, sign_intent
from fabric.identity.signed import sign_body

SIGNER = Ed25519Signer(b"e" * 32)
OTHER = Ed25519Signer(b"o" * 32)
INTENT = Intent("home", "web-1.home", "web-2.home", 1000.25, 1000.0, NO_END, (("pin", "abcd"),))
NOW = 1_800_000_000.0


def seeded(seed: int) -> Callable[[int], bytes]:
    counter = itertools.count(seed)
    return lambda count: bytes((next(counter) * 7 + at) % 256 for at in range(count))


BUNDLE, SECRETS = make_bundle(SIGNER, "web-1.home", seeded(0), NOW, None)

systems = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
times = st.integers(0, 2**45).map(lambda milliseconds: milliseconds / 1000)


@given(st.lists(systems, min_size=2, max_size=2, unique=True), times, times, st.floats(1, 1e9) | st.just(NO_END))
def test_an_intent_comes_back_signed(names: list[str], created: float, begin: float, life: float) -> None:
    expires = NO_END if life == NO_END else round((begin + life) * 1000) / 1000
    intent = Intent("home", f"{names[0]}.home", f"{names[1]}.home", created, begin, expires)
    signed = sign_intent(SIGNER, intent)
    assert open_intent(signed, SIGNER.public_key) == peek_intent(signed) == intent


def test_an_intent_keeps_its_options_and_knows_its_life() -> None:
    assert open_intent(sign_intent(SIGNER, INTENT), SIGNER.public_key) == INTENT
    assert [INTENT.holds(unix) for unix in (999.9, 1000.0, 1e12)] == [False, True, True]


def test_nothing_signed_opens_with_another_key_or_as_something_else() -> None:
    signed = sign_intent(SIGNER, INTENT)
    with pytest.raises(AuthenticationError):
        open_intent(signed, OTHER.public_key)
    with pytest.raises(AuthenticationError):
        open_bundle(signed, SIGNER.public_key)
    with pytest.raises(AuthenticationError):
        open_intent(BUNDLE, SIGNER.public_key)


@pytest.mark.parametrize("signed", [sign_intent(SIGNER, INTENT), BUNDLE], ids=["intent", "bundle"])
def test_any_byte_turned_breaks_the_signature_before_anything_is_parsed(signed: bytes) -> None:
    for at in range(len(signed)):
        altered = signed[:at] + bytes((signed[at] ^ 1,)) + signed[at + 1 :]
        for open_signed in (open_intent, open_bundle):
            with pytest.raises(AuthenticationError):
                open_signed(altered, SIGNER.public_key)


@given(st.binary(max_size=300))
def test_any_bytes_signed_or_not_raise_what_decoders_raise(data: bytes) -> None:
    for peek in (peek_intent, peek_bundle):
        with pytest.raises(DecodeError):
            peek(data)
    with pytest.raises((DecodeError, AuthenticationError)):
        open_intent(data, SIGNER.public_key)
    with pytest.raises(DecodeError):
        open_intent(sign_body(SIGNER, LABEL_INTENT, data), SIGNER.public_key)


def test_truncated_and_oversized_ones_are_refused() -> None:
    signed = sign_intent(SIGNER, INTENT)
    for length in range(len(signed)):
        with pytest.raises(DecodeError):
            peek_intent(signed[:length])
    with pytest.raises(DecodeError):
        peek_intent(signed + bytes(9000))


@pytest.mark.parametrize(
    "bad",
    [
        Intent("home", "web-1.home", "web-1.home", 0, 0, 1),
        Intent("home", "web-1.work", "web-2.home", 0, 0, 1),
        Intent("work", "web-1.home", "web-2.home", 0, 0, 1),
        Intent("home", "web-1", "web-2.home", 0, 0, 1),
        Intent("home", "web-1.home", "Web-2.home", 0, 0, 1),
        Intent("home", "web-1.home", "web-2.home", 0, 1, 1),
        Intent("home", "web-1.home", "web-2.home", 0, 0, 1, (("a", "b"),) * 17),
    ],
)
def test_an_intent_that_makes_no_sense_is_not_signed(bad: Intent) -> None:
    with pytest.raises(DecodeError):
        sign_intent(SIGNER, bad)


def test_a_bundle_comes_back_signed() -> None:
    bundle = open_bundle(BUNDLE, SIGNER.public_key)
    assert bundle == peek_bundle(BUNDLE) == bundle_of("web-1.home", SECRETS)
    assert (bundle.name, bundle.serial) == ("web-1.home", 1)
    assert bundle.offer_expires == NOW + 7 * DAY_S
    assert bundle.mail_expires == NOW + 400 * DAY_S
    assert bundle.offer_key == SECRETS.offer.public != SECRETS.mail.public == bundle.mail_key


def test_a_bundle_with_a_short_key_is_not_signed() -> None:
    with pytest.raises(DecodeError):
        sign_bundle(SIGNER, KeyBundle("web-1.home", 1, b"", NOW, b"", NOW))


def test_each_bundle_has_a_new_offer_key_and_the_mail_key_of_half_a_life() -> None:
    _, second = make_bundle(SIGNER, "web-1.home", seeded(1), NOW + 6 * DAY_S, SECRETS)
    assert second.serial == 2
    assert second.offer.public != SECRETS.offer.public
    assert second.mail.public == SECRETS.mail.public
    assert second.mail_expires == SECRETS.mail_expires
    _, later = make_bundle(SIGNER, "web-1.home", seeded(2), NOW + 200 * DAY_S, second)
    assert later.mail.public != second.mail.public
    assert later.mail_expires == NOW + 600 * DAY_S


def test_secrets_come_back_from_their_bytes_and_show_nothing() -> None:
    data = SECRETS.encode()
    assert BundleSecrets.decode(data).encode() == data
    assert BundleSecrets.decode(data).offer.public == SECRETS.offer.public
    assert repr(SECRETS.offer.secret_bytes) not in repr(SECRETS)
    for bad in (b"", data[:-1], b"\2" + data[1:]):
        with pytest.raises(DecodeError):
            BundleSecrets.decode(bad)


def test_a_deleted_offer_key_opens_nothing_and_leaves_the_mail_key() -> None:
    left = BundleSecrets.decode(SECRETS.without_offer(seeded(9)).encode())
    assert left.has_no_offer
    assert not SECRETS.has_no_offer
    assert left.offer.public != SECRETS.offer.public
    assert left.mail.public == SECRETS.mail.public
    assert SECRETS.offer.secret_bytes not in left.encode()
