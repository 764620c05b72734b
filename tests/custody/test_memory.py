"""The custodian in memory, and the key as it lies on a disk."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.sealing import seal_to
from fabric.crypto.signature import LABEL_INTENT, Ed25519Signer, verify
from fabric.custody.at_rest import GENERATED_COST, PASSPHRASE_COST, Cost, decrypt_key, encrypt_key
from fabric.custody.contract import Custodian
from fabric.custody.memory import MemoryCustodian
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.bundle import DAY_S, BundleSecrets, open_bundle
from fabric.identity.request import decode_request

SEED = b"e" * 32
SALT, NONCE = b"s" * 16, b"n" * 12
LOCKED = encrypt_key(SEED, b"passphrase", SALT, NONCE, GENERATED_COST)
NOW = 1_800_000_000.0


def test_a_key_opens_with_its_passphrase_only() -> None:
    assert decrypt_key(LOCKED, b"passphrase") == SEED
    assert SEED not in LOCKED
    for wrong in (b"", b"Passphrase", b"passphrase "):
        with pytest.raises(AuthenticationError):
            decrypt_key(LOCKED, wrong)


def test_a_key_locked_for_people_opens_too() -> None:
    assert decrypt_key(encrypt_key(SEED, b"passphrase", SALT, NONCE, PASSPHRASE_COST), b"passphrase") == SEED


def test_any_byte_turned_in_a_locked_key_is_noticed() -> None:
    for at in range(len(LOCKED)):
        if 8 <= at < 16:
            continue  # the cost: a turned byte there may ask for a minute's work, see below
        with pytest.raises((AuthenticationError, DecodeError)):
            decrypt_key(LOCKED[:at] + bytes((LOCKED[at] ^ 1,)) + LOCKED[at + 1 :], b"passphrase")


@pytest.mark.parametrize("cost", [(0, 8), (17, 8), (1, 7), (1, 2**20 + 1), (2**32 - 1, 2**32 - 1)])
def test_a_file_cannot_ask_for_all_the_memory_or_all_day(cost: tuple[int, int]) -> None:
    with pytest.raises(DecodeError):
        decrypt_key(LOCKED[:8] + struct.pack("!II", *cost) + LOCKED[16:], b"passphrase")
    with pytest.raises(DecodeError):
        encrypt_key(SEED, b"passphrase", SALT, NONCE, Cost(*cost))


def test_another_cost_than_the_one_sealed_with_does_not_open() -> None:
    with pytest.raises(AuthenticationError):
        decrypt_key(LOCKED[:8] + struct.pack("!II", 2, 8) + LOCKED[16:], b"passphrase")


@given(st.binary(max_size=200))
def test_any_bytes_as_a_locked_key_raise_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decrypt_key(data, b"passphrase")


def test_wrong_lengths_are_refused() -> None:
    for key, salt, nonce in ((bytes(4097), SALT, NONCE), (SEED, SALT[1:], NONCE), (SEED, SALT, NONCE[1:])):
        with pytest.raises(DecodeError):
            encrypt_key(key, b"", salt, nonce, GENERATED_COST)
    with pytest.raises(DecodeError):
        decrypt_key(LOCKED + bytes(5000), b"passphrase")


def test_the_custodian_signs_and_requests_with_one_key() -> None:
    custodian: Custodian = MemoryCustodian(SEED)
    verify(custodian.public_key, LABEL_INTENT, custodian.sign(LABEL_INTENT, b"a", b"b"), b"a", b"b")
    assert custodian.public_key == Ed25519Signer(SEED).public_key
    assert decode_request(custodian.make_request("web-1")).public_key == custodian.public_key


def test_the_custodian_comes_back_from_the_disk() -> None:
    custodian = MemoryCustodian(SEED)
    custodian.next_bundle("web-1.home", NOW)
    stored = [held.encode() for held in custodian.secrets]
    locked = custodian.lock(b"pass", SALT, NONCE, GENERATED_COST)
    back = MemoryCustodian.unlock(locked, b"pass", map(BundleSecrets.decode, stored))
    assert back.public_key == custodian.public_key
    assert [held.encode() for held in back.secrets] == stored
    assert repr(SEED) not in repr(back)
    assert SEED.hex() not in repr(back)


def test_serials_of_bundles_go_up_and_old_offers_still_open() -> None:
    custodian = MemoryCustodian(SEED)
    first = open_bundle(custodian.next_bundle("web-1.home", NOW), custodian.public_key)
    second = open_bundle(custodian.next_bundle("web-1.home", NOW + 6 * DAY_S), custodian.public_key)
    assert (first.serial, second.serial) == (1, 2)
    newest, oldest = custodian.secrets
    assert (newest.serial, oldest.serial) == (2, 1)
    assert oldest.offer.open(seal_to(first.offer_key, b"", b"text"), b"") == b"text"


def test_offer_keys_are_deleted_a_week_after_their_end() -> None:
    custodian = MemoryCustodian(SEED)
    custodian.next_bundle("web-1.home", NOW)
    custodian.next_bundle("web-1.home", NOW + 6 * DAY_S)
    assert not custodian.forget_secrets(NOW + 14 * DAY_S - 1)
    assert custodian.forget_secrets(NOW + 14 * DAY_S)
    assert [held.serial for held in custodian.secrets] == [2]


def test_a_host_that_was_off_for_long_keeps_its_mail_key_and_its_serial() -> None:
    custodian = MemoryCustodian(SEED)
    first = open_bundle(custodian.next_bundle("web-1.home", NOW), custodian.public_key)
    (before,) = custodian.secrets
    assert custodian.forget_secrets(NOW + 100 * DAY_S)
    assert not custodian.forget_secrets(NOW + 101 * DAY_S)
    (left,) = custodian.secrets
    assert before.offer.secret_bytes not in left.encode()
    assert left.mail.open(seal_to(first.mail_key, b"", b"text"), b"") == b"text"
    later = open_bundle(custodian.next_bundle("web-1.home", NOW + 102 * DAY_S), custodian.public_key)
    assert later.serial == 2


def test_a_replaced_mail_key_serves_the_longest_life_of_an_envelope_and_then_goes() -> None:
    custodian = MemoryCustodian(SEED)
    custodian.next_bundle("web-1.home", NOW)
    custodian.next_bundle("web-1.home", NOW + 250 * DAY_S)
    custodian.forget_secrets(NOW + 700 * DAY_S)
    assert [held.serial for held in custodian.secrets] == [2, 1]
    custodian.forget_secrets(NOW + (400 + 366) * DAY_S)
    assert [held.serial for held in custodian.secrets] == [2]
