"""A rotation is believed from the key before it, for its own name, and over as many steps as were taken."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.signature import Ed25519Signer
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.intent import MAX_OPTIONS, Intent, open_intent, sign_intent
from fabric.identity.rotation import MAX_ROTATIONS, as_option, decode_options, leads, open_rotation, sign_rotation
from fabric.wire.handshake import MAX_EXTENSION_BYTES

NAME = "a.home"
KEYS = [Ed25519Signer(bytes((number,)) * 32) for number in range(5)]


def step(number: int, name: str = NAME) -> bytes:
    return sign_rotation(KEYS[number], name, KEYS[number + 1].public_key, 1_800_000_000.0)


def led(statements: list[bytes], start: int, end: int, name: str = NAME) -> bool:
    return leads(statements, name, KEYS[start].public_key, KEYS[end].public_key)


def test_it_reads_back() -> None:
    rotation = open_rotation(step(0))
    assert (rotation.name, rotation.network, rotation.created) == (NAME, "home", 1_800_000_000.0)
    assert (rotation.old_key, rotation.new_key) == (KEYS[0].public_key, KEYS[1].public_key)


def test_it_leads_from_one_key_to_the_next_and_not_back() -> None:
    assert led([step(0)], 0, 1)
    assert not led([step(0)], 1, 0)
    assert not led([step(0)], 0, 2)
    assert not led([], 0, 1)


def test_who_missed_some_is_led_over_all_of_them_in_any_order() -> None:
    assert led([step(0), step(1), step(2)], 0, 3)
    assert led([step(2), step(0), step(1)], 0, 3)
    assert led([step(0), step(1), step(2)], 1, 3)
    assert not led([step(0), step(2)], 0, 3)


def test_another_names_rotation_leads_nowhere() -> None:
    assert not led([step(0, "b.home")], 0, 1)
    assert not led([step(0)], 0, 1, "b.home")


def test_more_than_are_allowed_are_not_looked_at() -> None:
    noise = [b"noise"] * MAX_ROTATIONS
    assert not led([*noise, step(0)], 0, 1)


def test_all_that_are_allowed_fit_into_a_handshake() -> None:
    longest = ".".join(["a" * 63, "b" * 63])
    statements = [sign_rotation(KEYS[0], longest, KEYS[1].public_key, 0.0)] * MAX_ROTATIONS
    assert sum(len(statement) + 4 for statement in statements) <= MAX_EXTENSION_BYTES


def test_an_intent_carries_all_that_are_allowed_and_they_read_back() -> None:
    statements = (step(0), step(1), step(2))
    options = tuple(as_option(statement) for statement in statements)
    assert MAX_ROTATIONS < MAX_OPTIONS
    intent = Intent("home", NAME, "b.home", 0.0, 0.0, 1.0, (("other", "word"), *options))
    carried = open_intent(sign_intent(KEYS[3], intent), KEYS[3].public_key).options
    assert decode_options(carried, NAME, KEYS[3].public_key) == statements
    assert led(list(decode_options(carried, NAME, KEYS[3].public_key)), 0, 3)


def test_options_that_were_made_for_another_key_or_name_lead_nowhere() -> None:
    options = [as_option(step(0))]
    assert not led(list(decode_options(options, NAME, KEYS[2].public_key)), 0, 2)
    assert not led(list(decode_options(options, "b.home", KEYS[1].public_key)), 0, 1, "b.home")
    assert decode_options([("other", "word")], NAME, KEYS[1].public_key) == ()


@pytest.mark.parametrize("value", ["", "no Base64!", "YQ=="])
def test_an_option_that_is_no_rotation_is_refused(value: str) -> None:
    with pytest.raises(DecodeError):
        decode_options([("rotation", value)], NAME, KEYS[1].public_key)


def test_an_option_of_a_time_that_no_clock_shows_leads_nowhere() -> None:
    short = bytes(64) + KEYS[0].public_key + b"\xff" * 7 + b"\xfe"
    statements = decode_options([("rotation", base64.b64encode(short).decode())], NAME, KEYS[1].public_key)
    assert len(statements) == 1
    assert not led(list(statements), 0, 1)


@given(at=st.integers(0, len(step(0)) - 1), bit=st.integers(0, 7))
def test_a_changed_bit_is_refused(at: int, bit: int) -> None:
    edited = bytearray(step(0))
    edited[at] ^= 1 << bit
    with pytest.raises((AuthenticationError, DecodeError)):
        open_rotation(bytes(edited))
    assert not led([bytes(edited)], 0, 1)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_rotation_or_refused(data: bytes) -> None:
    with pytest.raises((AuthenticationError, DecodeError)):
        open_rotation(data)


def test_a_rotation_to_the_same_key_is_none() -> None:
    with pytest.raises(DecodeError):
        sign_rotation(KEYS[0], NAME, KEYS[0].public_key, 0.0)
