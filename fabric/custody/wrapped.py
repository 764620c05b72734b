"""A secret as it lies on a disk: sealed under a key of its own, which hardware keeps sealed in its turn.

     0        4         8        12           14
    +--------+---------+--------+------------+-------------+---------------------------------------+
    | "FABW" | version | kind 4 | length u16 | wrapped key | ChaCha20-Poly1305: secret and tag 16, |
    |        | u32     |        |            |             | all before as header                  |
    +--------+---------+--------+------------+-------------+---------------------------------------+

Hardware seals little at a time (a TPM 128 bytes), and slowly; so it gets 32 bytes, whatever the secret's length. `kind`
tells whose form the wrapped key has. The key seals once and is drawn anew each time: the nonce may be constant.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from fabric.crypto.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES, Suite, open_, seal
from fabric.errors import AuthenticationError, DecodeError

KIND_BYTES = 4
MAX_SECRET_BYTES = 4096
MAX_WRAPPED_KEY_BYTES = 1024
"""A key in a TPM's form takes some 280."""

_MAGIC = b"FABW"
_VERSION = 1
_HEADER = struct.Struct("!4sI4sH")
_NONCE = bytes(NONCE_BYTES)
_MAX_BYTES = _HEADER.size + MAX_WRAPPED_KEY_BYTES + MAX_SECRET_BYTES + TAG_BYTES


def seal_wrapped(kind: bytes, secret: bytes, wrap: Callable[[bytes], bytes]) -> bytes:
    """Returns `secret` (up to 4,096 bytes) sealed; `wrap` takes the 32-byte key and returns it as hardware keeps it.

    Raises `DecodeError` for what `open_wrapped` would refuse, and what `wrap` raises.
    """
    key = os.urandom(KEY_BYTES)
    wrapped = wrap(key)
    if len(secret) > MAX_SECRET_BYTES or len(wrapped) > MAX_WRAPPED_KEY_BYTES or len(kind) != KIND_BYTES:
        raise DecodeError("a secret, key or kind of a wrong length")
    header = _HEADER.pack(_MAGIC, _VERSION, kind, len(wrapped)) + wrapped
    return header + seal(Suite.CHACHA20_POLY1305, key, _NONCE, secret, header)


def open_wrapped(kind: bytes, blob: bytes, unwrap: Callable[[bytes], bytes]) -> bytes:
    """Returns the secret. Raises `DecodeError` for bytes that `seal_wrapped` can't have made with this kind,
    `AuthenticationError` for altered ones, and what `unwrap` raises."""
    if not _HEADER.size + TAG_BYTES <= len(blob) <= _MAX_BYTES:
        raise DecodeError(f"a wrapped secret of {len(blob)} bytes")
    magic, version, found, length = _HEADER.unpack_from(blob)
    if (magic, version, found) != (_MAGIC, _VERSION, kind):
        raise DecodeError("not a secret that was wrapped so")
    end = _HEADER.size + length
    if length > MAX_WRAPPED_KEY_BYTES or len(blob) < end + TAG_BYTES:
        raise DecodeError(f"a wrapped key of {length} bytes")
    key = unwrap(blob[_HEADER.size : end])
    if len(key) != KEY_BYTES:
        raise AuthenticationError("what was wrapped is no key")
    return open_(Suite.CHACHA20_POLY1305, key, _NONCE, blob[end:], blob[:end])
