"""BLAKE2b (RFC 7693) under our names: hashes, MACs, and the joining of fields that makes them unambiguous."""

from __future__ import annotations

import hashlib
import hmac

HASH_BYTES = 32
MAC_BYTES = 16


def join(*fields: bytes) -> bytes:
    """Returns what `||` means in the protocol: each field with its length as u32 before it.

    Two different lists of fields never join to the same bytes.
    """
    return b"".join([part for field in fields for part in (len(field).to_bytes(4), field)])


def blake2b_256(*fields: bytes, key: bytes = b"") -> bytes:
    """Returns the 32-byte digest of the joined fields, keyed when `key` (at most 64 bytes) is given."""
    return hashlib.blake2b(join(*fields), digest_size=32, key=key).digest()


def blake2b_512(*fields: bytes, key: bytes = b"") -> bytes:
    """Returns the 64-byte digest of the joined fields, keyed when `key` (at most 64 bytes) is given."""
    return hashlib.blake2b(join(*fields), digest_size=64, key=key).digest()


def mac_128(key: bytes, data: bytes) -> bytes:
    """Returns the 16-byte MAC of `data` as it is (not joined): the one MAC that is computed per datagram."""
    return hashlib.blake2b(data, digest_size=MAC_BYTES, key=key).digest()


def equal(left: bytes, right: bytes) -> bool:
    """Compares in a time that tells nothing about where the two differ."""
    return hmac.compare_digest(left, right)
