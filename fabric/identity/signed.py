"""What intents and bundles share on the wire: a body that a signature holds together.

    +----------------+---------------------+---------------------------------------+
    | signature 64   | version u8          | body, as the page of its kind says    |
    +----------------+---------------------+---------------------------------------+

The signature is over the kind's label and everything behind the signature. Texts and instants below are written
as u16 length + UTF-8, and u64 milliseconds since 1970 (all ones: never).
"""

from __future__ import annotations

import math

from fabric.crypto.signature import SIGNATURE_BYTES, Signer, verify
from fabric.errors import DecodeError
from fabric.wire.codec import Reader, block

VERSION = 1
MAX_SIGNED_BYTES = 8192
_NEVER = 2**64 - 1


def sign_body(signer: Signer, label: bytes, body: bytes) -> bytes:
    versioned = bytes((VERSION,)) + body
    return signer.sign(label, versioned) + versioned


def open_body(data: bytes, label: bytes, public_key: bytes) -> Reader:
    """Returns a reader of the body, once the signature holds. Raises `AuthenticationError`, `DecodeError`."""
    _check_length(data)
    verify(public_key, label, data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:])
    return peek_body(data)


def peek_body(data: bytes) -> Reader:
    """As `open_body`, proving nothing."""
    _check_length(data)
    reader = Reader(data[SIGNATURE_BYTES:])
    if (version := reader.take_u8()) != VERSION:
        raise DecodeError(f"a signed message of version {version}")
    return reader


def encode_text(text: str) -> bytes:
    return block(text.encode())


def take_text(reader: Reader, limit: int) -> str:
    """Raises `DecodeError` for a text of more than `limit` bytes, or one that is no UTF-8."""
    try:
        return reader.take_block(limit).decode()
    except UnicodeDecodeError:
        raise DecodeError("a text that is not UTF-8") from None


def encode_time(unix: float) -> bytes:
    """Returns 8 bytes; what lies between two milliseconds is lost."""
    return (_NEVER if math.isinf(unix) else round(unix * 1000)).to_bytes(8)


def take_time(reader: Reader) -> float:
    milliseconds = reader.take_u64()
    return math.inf if milliseconds == _NEVER else milliseconds / 1000


def _check_length(data: bytes) -> None:
    if not SIGNATURE_BYTES < len(data) <= MAX_SIGNED_BYTES:
        raise DecodeError(f"a signed message of {len(data)} bytes")
