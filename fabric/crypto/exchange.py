"""The two key agreements of a handshake: X25519 in libsodium's `crypto_kx` form, and ML-KEM-768 (FIPS 203).

    rx || tx = BLAKE2b-512(X25519(own secret, other's public) || client's public || server's public)

rx and tx as the client sees them; the server has them the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from nacl.bindings import crypto_kx_client_session_keys, crypto_kx_seed_keypair, crypto_kx_server_session_keys
from nacl.exceptions import CryptoError

from fabric.errors import AuthenticationError, DecodeError

KX_PUBLIC_BYTES = 32
KX_SEED_BYTES = 32
KEM_SEED_BYTES = 64
KEM_PUBLIC_BYTES = 1184
KEM_CIPHERTEXT_BYTES = 1088
KEM_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class KxPair:
    """An X25519 key pair for one handshake."""

    public: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BaseKeys:
    """What both ends share after `crypto_kx`, 32 bytes a direction."""

    client_to_server: bytes = field(repr=False)
    server_to_client: bytes = field(repr=False)


def kx_pair(seed: bytes) -> KxPair:
    """Returns the pair that libsodium's `crypto_kx_seed_keypair` makes from 32 random bytes."""
    return KxPair(*crypto_kx_seed_keypair(seed))


def base_keys_as_client(pair: KxPair, server_public: bytes) -> BaseKeys:
    """Raises `AuthenticationError` for a public key of low order or of a wrong size."""
    try:
        rx, tx = crypto_kx_client_session_keys(pair.public, pair.secret, server_public)
    except (CryptoError, TypeError):
        raise AuthenticationError("the server's exchange key is not acceptable") from None
    return BaseKeys(client_to_server=tx, server_to_client=rx)


def base_keys_as_server(pair: KxPair, client_public: bytes) -> BaseKeys:
    """Raises `AuthenticationError` for a public key of low order or of a wrong size."""
    try:
        rx, tx = crypto_kx_server_session_keys(pair.public, pair.secret, client_public)
    except (CryptoError, TypeError):
        raise AuthenticationError("the client's exchange key is not acceptable") from None
    return BaseKeys(client_to_server=rx, server_to_client=tx)


class KemPair:
    """An ML-KEM-768 key pair for one handshake, made from 64 random bytes (d || z of FIPS 203)."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = MLKEM768PrivateKey.from_seed_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()
        """1,184 bytes."""

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Returns the 32-byte secret; for a forged ciphertext a random-looking one, as FIPS 203 wants.

        Raises `DecodeError` for anything but 1,088 bytes.
        """
        try:
            return self._key.decapsulate(ciphertext)
        except ValueError as error:
            raise DecodeError(str(error)) from None


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """Returns (ciphertext, 32-byte secret), fresh from the system's entropy at each call.

    Raises `DecodeError` for bytes that are no ML-KEM-768 public key.
    """
    try:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
    except ValueError as error:
        raise DecodeError(str(error)) from None
    return ciphertext, secret
