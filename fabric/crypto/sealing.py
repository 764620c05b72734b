"""Sealing to a peer that is not there: HPKE base mode (RFC 9180), KEM MLKEM768-X25519.

KDF HKDF-SHA256, AEAD ChaCha20-Poly1305. An eavesdropper must break both ML-KEM-768 and X25519.

    secret   64 ML-KEM seed (d || z) | 32 X25519 scalar                              96
    public   1,184 ML-KEM            | 32 X25519                                  1,216
    sealed   1,088 ML-KEM ciphertext | 32 X25519 | ciphertext | 16 tag       1,136 + n
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from fabric.errors import AuthenticationError, DecodeError

SEALING_SECRET_BYTES = 96
SEALING_PUBLIC_BYTES = 1216
SEALING_OVERHEAD_BYTES = 1136

_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class SealingPair:
    """A key pair that others seal to. Made from its 96 secret bytes; raises `DecodeError` for another number."""

    __slots__ = ("_key", "public", "secret_bytes")

    def __init__(self, secret_bytes: bytes) -> None:
        if len(secret_bytes) != SEALING_SECRET_BYTES:
            raise DecodeError(f"a sealing key of {len(secret_bytes)} bytes")
        self.secret_bytes = secret_bytes
        mlkem = MLKEM768PrivateKey.from_seed_bytes(secret_bytes[:_MLKEM_SEED_BYTES])
        x25519 = X25519PrivateKey.from_private_bytes(secret_bytes[_MLKEM_SEED_BYTES:])
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
        """1,216 bytes."""

    def __repr__(self) -> str:
        return f"SealingPair(public={self.public[-8:].hex()})"

    @classmethod
    def generate(cls, draw: Callable[[int], bytes]) -> SealingPair:
        """Makes a new pair; `draw` returns as many random bytes as it is asked for."""
        return cls(draw(SEALING_SECRET_BYTES))

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Raises `AuthenticationError` unless it was sealed to this key with this `info`."""
        try:
            return _SUITE.decrypt(sealed, self._key, info)
        except (InvalidTag, ValueError):
            raise AuthenticationError("the sealed message does not open with this key") from None


def seal_to(public: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Returns `plaintext` sealed to a public key, bound to `info`. Raises `DecodeError` for bytes that are no key."""
    if len(public) != SEALING_PUBLIC_BYTES:
        raise DecodeError(f"a public sealing key of {len(public)} bytes")
    try:
        mlkem = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
        x25519 = X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:])
        return _SUITE.encrypt(plaintext, MLKEM768X25519PublicKey(mlkem, x25519), info)
    except ValueError as error:
        raise DecodeError(str(error)) from None
