"""Each primitive against a vector of its standard, and against what a hostile input can be."""

from __future__ import annotations

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto import aead, digest, exchange, sealing, signature
from fabric.crypto.aead import Suite
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError

SEALED_TO = sealing.SealingPair(bytes(range(96)))


def test_hashes_are_blake2b_over_fields_joined_with_their_lengths() -> None:
    joined = b"\0\0\0\2ab\0\0\0\0\0\0\0\1c"
    assert digest.join(b"ab", b"", b"c") == joined
    assert digest.blake2b_256(b"ab", b"", b"c", key=b"k") == hashlib.blake2b(joined, digest_size=32, key=b"k").digest()
    assert digest.blake2b_512(b"ab", b"", b"c") == hashlib.blake2b(joined, digest_size=64).digest()
    assert digest.mac_128(b"k", b"data") == hashlib.blake2b(b"data", digest_size=16, key=b"k").digest()
    assert digest.equal(b"same", b"same")
    assert not digest.equal(b"same", b"sane")


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_different_fields_never_join_alike(left: list[bytes], right: list[bytes]) -> None:
    assert (digest.join(*left) == digest.join(*right)) == (left == right)


def test_chacha20_poly1305_is_that_of_rfc_8439() -> None:
    key = bytes(range(0x80, 0xA0))
    nonce = bytes.fromhex("070000004041424344454647")
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = aead.seal(Suite.CHACHA20_POLY1305, key, nonce, text, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert sealed[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


def test_aes_256_gcm_is_that_of_its_specification() -> None:
    sealed = aead.seal(Suite.AES_256_GCM, bytes(32), bytes(12), bytes(16), b"")  # test case 14 of McGrew and Viega
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"


@pytest.mark.parametrize("suite", list(Suite))
def test_what_was_altered_does_not_open(suite: Suite) -> None:
    key, nonce = os.urandom(32), os.urandom(12)
    sealed = aead.seal(suite, key, nonce, b"text", b"header")
    assert aead.open_(suite, key, nonce, sealed, b"header") == b"text"
    for at in range(len(sealed)):
        altered = sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :]
        with pytest.raises(AuthenticationError):
            aead.open_(suite, key, nonce, altered, b"header")
    for args in ((sealed[:-1], b"header"), (b"", b"header"), (sealed, b"Header")):
        with pytest.raises(AuthenticationError):
            aead.open_(suite, key, nonce, *args)


def test_suites_are_offered_as_the_setting_says() -> None:
    assert aead.offered_suites("chacha20-poly1305") == (Suite.CHACHA20_POLY1305,)
    assert aead.offered_suites("aes-256-gcm") == (Suite.AES_256_GCM,)
    offered = aead.offered_suites("auto")
    assert (Suite.AES_256_GCM in offered) == aead.hardware_has_aes()
    assert Suite.CHACHA20_POLY1305 in offered
    with pytest.raises(ConfigurationError, match="des"):
        aead.offered_suites("des")


def test_low_order_and_short_exchange_keys_are_refused() -> None:
    pair = exchange.kx_pair(os.urandom(32))
    for bad in (bytes(32), b"\1" + bytes(31), b"", bytes(31), bytes(33)):
        with pytest.raises(AuthenticationError):
            exchange.base_keys_as_client(pair, bad)
        with pytest.raises(AuthenticationError):
            exchange.base_keys_as_server(pair, bad)


def test_kem_gives_both_ends_one_secret_and_each_time_another() -> None:
    pair = exchange.KemPair(os.urandom(64))
    assert len(pair.public) == exchange.KEM_PUBLIC_BYTES
    one, other = exchange.encapsulate(pair.public), exchange.encapsulate(pair.public)
    assert one != other
    for ciphertext, secret in (one, other):
        assert len(ciphertext) == exchange.KEM_CIPHERTEXT_BYTES
        assert pair.decapsulate(ciphertext) == secret


def test_kem_refuses_wrong_sizes_and_turns_forgeries_into_another_secret() -> None:
    pair = exchange.KemPair(os.urandom(64))
    ciphertext, secret = exchange.encapsulate(pair.public)
    assert pair.decapsulate(ciphertext[:-1] + bytes((ciphertext[-1] ^ 1,))) != secret
    for bad in (b"", ciphertext[:-1], ciphertext + b"\0"):
        with pytest.raises(DecodeError):
            pair.decapsulate(bad)
    for bad in (b"", pair.public[:-1], b"\xff" * exchange.KEM_PUBLIC_BYTES):
        with pytest.raises(DecodeError):
            exchange.encapsulate(bad)


def test_ed25519_is_that_of_rfc_8032() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    signer = signature.Ed25519Signer(seed)
    assert signer.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    of_nothing = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )
    signature.verify_raw(signer.public_key, of_nothing, b"")
    assert seed.hex() not in repr(signer)
    assert repr(seed) not in repr(signer)


def test_a_signature_holds_for_its_label_and_its_fields_only() -> None:
    signer = signature.Ed25519Signer(bytes(32))
    made = signer.sign(signature.LABEL_INTENT, b"ab", b"c")
    signature.verify(signer.public_key, signature.LABEL_INTENT, made, b"ab", b"c")
    wrong: list[tuple[bytes, bytes, bytes, tuple[bytes, ...]]] = [
        (signer.public_key, signature.LABEL_BUNDLE, made, (b"ab", b"c")),
        (signer.public_key, signature.LABEL_INTENT, made, (b"a", b"bc")),
        (signer.public_key, signature.LABEL_INTENT, made[:-1], (b"ab", b"c")),
        (signer.public_key, signature.LABEL_INTENT, b"", (b"ab", b"c")),
        (signature.Ed25519Signer(b"1" * 32).public_key, signature.LABEL_INTENT, made, (b"ab", b"c")),
        (bytes(32), signature.LABEL_INTENT, made, (b"ab", b"c")),
        (b"", signature.LABEL_INTENT, made, (b"ab", b"c")),
    ]
    for public_key, label, mark, fields in wrong:
        with pytest.raises(AuthenticationError):
            signature.verify(public_key, label, mark, *fields)


def test_labels_all_differ() -> None:
    labels = [value for name, value in vars(signature).items() if name.startswith("LABEL_")]
    assert len(labels) == 10
    assert len(set(labels)) == 10


def test_sealed_opens_with_its_key_and_its_info_only() -> None:
    sealed = sealing.seal_to(SEALED_TO.public, b"info", b"text")
    assert len(sealed) == 4 + sealing.SEALING_OVERHEAD_BYTES
    assert len(SEALED_TO.public) == sealing.SEALING_PUBLIC_BYTES
    assert sealing.SealingPair(SEALED_TO.secret_bytes).open(sealed, b"info") == b"text"
    for pair, data, info in (
        (SEALED_TO, sealed, b"Info"),
        (SEALED_TO, sealed[:-1], b"info"),
        (SEALED_TO, b"", b"info"),
        (sealing.SealingPair.generate(os.urandom), sealed, b"info"),
    ):
        with pytest.raises(AuthenticationError):
            pair.open(data, info)


@pytest.mark.parametrize("at", [0, 1000, 1087, 1088, 1119, 1120, 1130])
def test_sealed_with_one_bit_turned_does_not_open(at: int) -> None:
    sealed = sealing.seal_to(SEALED_TO.public, b"info", b"text")
    with pytest.raises(AuthenticationError):
        SEALED_TO.open(sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :], b"info")


@given(st.binary(max_size=1300))
def test_anything_may_be_offered_to_a_sealing_pair(data: bytes) -> None:
    with pytest.raises(AuthenticationError):
        SEALED_TO.open(data, b"info")


def test_a_public_sealing_key_that_is_none_is_refused() -> None:
    low_order = SEALED_TO.public[:1184] + bytes(32)
    for bad in (b"", SEALED_TO.public[:-1], b"\xff" * 1216, low_order):
        with pytest.raises(DecodeError):
            sealing.seal_to(bad, b"", b"")
    with pytest.raises(DecodeError):
        sealing.SealingPair(bytes(95))


def test_a_sealing_pair_shows_no_secret() -> None:
    assert repr(SEALED_TO.secret_bytes) not in repr(SEALED_TO)
    assert SEALED_TO.secret_bytes.hex() not in repr(SEALED_TO)
