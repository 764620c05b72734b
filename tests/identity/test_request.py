"""Requests for certificates, over a key at hand and over one that only signs."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.request import decode_request, make_request, make_request_with

SEED = b"q" * 32
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC_KEY = KEY.public_key().public_bytes_raw()


@pytest.mark.parametrize("name", ["web-1", "web-1.home", "a", "a" * 63 + "." + "b" * 63])
def test_a_key_that_only_signs_makes_the_request_that_the_key_at_hand_makes(name: str) -> None:
    assert make_request_with(PUBLIC_KEY, KEY.sign, name) == make_request(SEED, name)


def test_the_request_of_a_key_that_only_signs_is_read_by_others_and_proves_the_key() -> None:
    der = make_request_with(PUBLIC_KEY, KEY.sign, "web-1.home")
    assert x509.load_der_x509_csr(der).is_signature_valid
    read = decode_request(der)
    assert (read.name, read.public_key) == ("web-1.home", PUBLIC_KEY)


def test_a_request_with_the_signature_of_another_key_is_refused() -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
    with pytest.raises(AuthenticationError):
        decode_request(make_request_with(PUBLIC_KEY, other.sign, "web-1.home"))


def test_no_request_is_made_for_what_is_no_name() -> None:
    with pytest.raises(DecodeError):
        make_request_with(PUBLIC_KEY, KEY.sign, "no name")
