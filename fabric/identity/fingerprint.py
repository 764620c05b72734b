"""Keys in a form that people copy, compare and read to each other."""

from __future__ import annotations

import base64
import re

from fabric.crypto.digest import blake2b_256, blake2b_512
from fabric.errors import DecodeError

FINGERPRINT_BYTES = 20
"""160 bits: enough against anyone who looks for a second key with the same fingerprint; 32 characters to type."""

_SAFETY_GROUPS = 6
_PRINTED = re.compile(r"[a-z2-7]{32}")


def fingerprint_of(public_key: bytes) -> str:
    """Returns eight groups of four characters (RFC 4648 base32, lower case) of BLAKE2b-256(public key)."""
    return _grouped(base64.b32encode(key_hash(public_key)[:FINGERPRINT_BYTES]).decode().lower())


def key_hash(public_key: bytes) -> bytes:
    """Returns the whole 32 bytes that a fingerprint begins."""
    return blake2b_256(public_key)


def parse_fingerprint(text: str) -> str:
    """Returns a typed fingerprint as `fingerprint_of` prints it; case, spaces and hyphens don't matter.

    Raises `DecodeError`.
    """
    squeezed = re.sub(r"[\s-]", "", text).lower()
    if not _PRINTED.fullmatch(squeezed):
        raise DecodeError("a fingerprint is 32 characters of a-z and 2-7, in groups of four")
    return _grouped(squeezed)


def safety_number(network: str, one_key: bytes, other_key: bytes) -> str:
    """Returns 30 digits that are the same seen from both ends, for two people to compare aloud."""
    low, high = sorted((one_key, other_key))
    digest = blake2b_512(b"fabric/1 safety number", network.encode(), low, high)
    groups = (int.from_bytes(digest[8 * at : 8 * at + 8]) % 100_000 for at in range(_SAFETY_GROUPS))
    return " ".join(f"{group:05}" for group in groups)


def _grouped(text: str) -> str:
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))
