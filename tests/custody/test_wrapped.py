"""Secrets under a key that hardware keeps: the form on the disk, with hardware that is a dictionary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.custody.wrapped import MAX_SECRET_BYTES, MAX_WRAPPED_KEY_BYTES, open_wrapped, seal_wrapped
from fabric.errors import AuthenticationError, DecodeError

KIND = b"TEST"
MASK = 0xA5


def wrap(key: bytes) -> bytes:
    return bytes(byte ^ MASK for byte in key)


SECRET = b"seed" * 16
BLOB = seal_wrapped(KIND, SECRET, wrap)


@pytest.mark.parametrize("length", [0, 1, 64, MAX_SECRET_BYTES])
def test_a_secret_of_any_length_comes_back(length: int) -> None:
    assert open_wrapped(KIND, seal_wrapped(KIND, bytes(length), wrap), wrap) == bytes(length)


def test_neither_the_secret_nor_its_key_lies_in_the_blob() -> None:
    keys: list[bytes] = []

    def noted(key: bytes) -> bytes:
        keys.append(key)
        return wrap(key)

    blob = seal_wrapped(KIND, SECRET, noted)
    assert SECRET not in blob
    assert keys[0] not in blob


def test_the_same_secret_never_gives_the_same_blob() -> None:
    assert seal_wrapped(KIND, SECRET, wrap)[14:] != BLOB[14:]


def test_any_byte_turned_is_noticed() -> None:
    for at in range(len(BLOB)):
        with pytest.raises((AuthenticationError, DecodeError)):
            open_wrapped(KIND, BLOB[:at] + bytes((BLOB[at] ^ 1,)) + BLOB[at + 1 :], wrap)


def test_a_blob_of_another_kind_is_refused_before_any_hardware_is_asked() -> None:
    def ask(_: bytes) -> bytes:
        raise AssertionError("it was asked")

    for kind, blob in ((b"OTHR", BLOB), (KIND, BLOB[:40]), (KIND, BLOB + bytes(8192))):
        with pytest.raises(DecodeError):
            open_wrapped(kind, blob, ask)


def test_what_hardware_returns_in_another_length_is_no_key() -> None:
    with pytest.raises(AuthenticationError):
        open_wrapped(KIND, BLOB, lambda _: bytes(31))


@given(st.binary(max_size=300))
def test_any_bytes_raise_a_decode_error(blob: bytes) -> None:
    with pytest.raises(DecodeError):
        open_wrapped(KIND, blob, wrap)


@pytest.mark.parametrize(
    ("kind", "secret", "wrapped"),
    [(KIND, bytes(MAX_SECRET_BYTES + 1), b""), (KIND, b"", bytes(MAX_WRAPPED_KEY_BYTES + 1)), (b"KIND5", b"", b"")],
)
def test_what_could_not_be_opened_again_is_not_sealed(kind: bytes, secret: bytes, wrapped: bytes) -> None:
    with pytest.raises(DecodeError):
        seal_wrapped(kind, secret, lambda _: wrapped)
