"""Ed25519 signatures (RFC 8032) over labelled, joined fields: one made for one use proves nothing in another."""

from __future__ import annotations

from typing import Protocol

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from fabric.crypto.digest import join
from fabric.errors import AuthenticationError

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

LABEL_INTENT = b"fabric/1 intent"
LABEL_BUNDLE = b"fabric/1 bundle"
LABEL_ENVELOPE = b"fabric/1 envelope"
LABEL_ROTATION = b"fabric/1 rotation"
LABEL_HANDSHAKE_CLIENT = b"fabric/1 handshake client"
LABEL_HANDSHAKE_SERVER = b"fabric/1 handshake server"
LABEL_CONTROL_CLIENT = b"fabric/1 control client"
LABEL_CONTROL_SERVER = b"fabric/1 control server"
LABEL_RELAY = b"fabric/1 relay"
LABEL_GRANT = b"fabric/1 grant"


class Signer(Protocol):
    """Signs with a key that it need not show: in this process, in the custodian's, or in hardware."""

    @property
    def public_key(self) -> bytes: ...

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        """Returns the 64-byte signature of the label and the fields, joined."""
        ...


class Ed25519Signer:
    """A signer that holds its key in memory, made from the 32-byte seed of RFC 8032."""

    __slots__ = ("_public_key", "_secret_key")

    def __init__(self, seed: bytes) -> None:
        self._public_key, self._secret_key = crypto_sign_seed_keypair(seed)

    def __repr__(self) -> str:
        return f"Ed25519Signer(public_key={self._public_key.hex()})"

    @property
    def public_key(self) -> bytes:
        return self._public_key

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        return crypto_sign(join(label, *fields), self._secret_key)[:SIGNATURE_BYTES]


def verify(public_key: bytes, label: bytes, signature: bytes, *fields: bytes) -> None:
    """Raises `AuthenticationError` unless `signature` was made with this label, over these fields, by this key."""
    verify_raw(public_key, signature, join(label, *fields))


def verify_raw(public_key: bytes, signature: bytes, message: bytes) -> None:
    """As `verify`, over bytes as they are: for X.509, whose signatures carry no label of ours."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        raise AuthenticationError("the signature or its key has a wrong length")
    try:
        crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        raise AuthenticationError("the signature does not hold") from None
