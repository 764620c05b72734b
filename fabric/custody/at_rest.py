"""A private key as it lies on a disk: sealed under a key that argon2id (RFC 9106) makes of a passphrase.

     0        4         8            12            16         32         44
    +--------+---------+------------+-------------+----------+----------+-------------------------------+
    | "FABK" | version | passes u32 | memory u32, | salt 16  | nonce 12 | ChaCha20-Poly1305: key and    |
    |        | u32     |            | KiB         |          |          | tag 16, all before as header  |
    +--------+---------+------------+-------------+----------+----------+-------------------------------+

A passphrase may come from a person, a credential or a generated file; only the first needs to cost anything.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from fabric.crypto.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Suite, open_, seal
from fabric.errors import AuthenticationError, DecodeError

SALT_BYTES = 16
MAX_KEY_BYTES = 4096
MAX_LOCKED_BYTES = MAX_KEY_BYTES + 128

_MAGIC = b"FABK"
_VERSION = 1
_HEADER = struct.Struct("!4sIII16s12s")
_MAX_PASSES = 16
_MAX_MEMORY_KIB = 1_048_576


@dataclass(frozen=True, slots=True)
class Cost:
    """What one guess costs: passes over this much memory."""

    passes: int
    memory_kib: int


PASSPHRASE_COST = Cost(passes=3, memory_kib=65_536)
"""For what a person can remember: RFC 9106's second recommendation, about 0.1 s and 64 MiB for a moment."""

GENERATED_COST = Cost(passes=1, memory_kib=8)
"""The least there is, for a passphrase of 32 random bytes: nothing could make those worth guessing."""


def encrypt_key(key: bytes, passphrase: bytes, salt: bytes, nonce: bytes, cost: Cost = PASSPHRASE_COST) -> bytes:
    """Returns `key` (any secret up to 4,096 bytes) sealed; `salt` (16) and `nonce` (12 bytes) are drawn for it.

    Raises `DecodeError` for what `decrypt_key` would refuse.
    """
    if len(key) > MAX_KEY_BYTES or len(salt) != SALT_BYTES or len(nonce) != NONCE_BYTES:
        raise DecodeError("a key, salt or nonce of a wrong length")
    _check_cost(cost)
    header = _HEADER.pack(_MAGIC, _VERSION, cost.passes, cost.memory_kib, salt, nonce)
    return header + seal(Suite.CHACHA20_POLY1305, _stretched(passphrase, salt, cost), nonce, key, header)


def decrypt_key(locked: bytes, passphrase: bytes) -> bytes:
    """Raises `DecodeError` for bytes that `encrypt_key` can't have made, `AuthenticationError` for a wrong
    passphrase or altered bytes."""
    if not _HEADER.size + TAG_BYTES <= len(locked) <= MAX_LOCKED_BYTES:
        raise DecodeError(f"a locked key of {len(locked)} bytes")
    header = locked[: _HEADER.size]
    magic, version, passes, memory_kib, salt, nonce = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION:
        raise DecodeError("not a locked key of this program")
    cost = Cost(passes, memory_kib)
    _check_cost(cost)
    key = _stretched(passphrase, salt, cost)
    try:
        return open_(Suite.CHACHA20_POLY1305, key, nonce, locked[_HEADER.size :], header)
    except AuthenticationError:
        raise AuthenticationError("the key does not open with this passphrase") from None


def _check_cost(cost: Cost) -> None:
    """A file that was tampered with must not take the machine's memory or its day."""
    if not (1 <= cost.passes <= _MAX_PASSES and 8 <= cost.memory_kib <= _MAX_MEMORY_KIB):
        raise DecodeError(f"a locked key that asks for {cost.passes} passes over {cost.memory_kib} KiB")


def _stretched(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    try:
        return argon2id.kdf(KEY_BYTES, passphrase, salt, opslimit=cost.passes, memlimit=cost.memory_kib * 1024)
    except CryptoError as error:
        raise AuthenticationError(f"argon2id failed: {error}") from None
