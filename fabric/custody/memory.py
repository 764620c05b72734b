"""The custodian that lives in the process of whoever asks, and keeps the keys in its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from fabric.crypto.signature import Ed25519Signer
from fabric.custody.at_rest import PASSPHRASE_COST, Cost, decrypt_key, encrypt_key
from fabric.custody.next_key import NextKey, make_next_key, require_next
from fabric.identity.bundle import BundleSecrets
from fabric.identity.bundle_keys import BundleKeys
from fabric.identity.request import make_request


class MemoryCustodian:
    """A `Custodian` made from the identity key's 32-byte seed and what there is of bundle secrets.

    `draw` returns as many random bytes as it is asked for.
    """

    __slots__ = ("_bundle", "_draw", "_keys", "_next", "_seed", "_signer")

    def __init__(
        self, seed: bytes, secrets: Iterable[BundleSecrets] = (), draw: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._seed = seed
        self._signer = Ed25519Signer(seed)
        self._draw = draw
        self._next: NextKey | None = None
        self._keys = BundleKeys(secrets, draw)
        self._bundle: bytes | None = None

    @classmethod
    def unlock(cls, locked: bytes, passphrase: bytes, secrets: Iterable[BundleSecrets] = ()) -> MemoryCustodian:
        """Opens what `lock` made. Raises `AuthenticationError` for a wrong passphrase, `DecodeError` for a bad file."""
        return cls(decrypt_key(locked, passphrase), secrets)

    def lock(self, passphrase: bytes, salt: bytes, nonce: bytes, cost: Cost = PASSPHRASE_COST) -> bytes:
        """Returns the identity key as it may lie on a disk; `salt` (16) and `nonce` (12 bytes) must be fresh."""
        return encrypt_key(self._seed, passphrase, salt, nonce, cost)

    def __repr__(self) -> str:
        return f"MemoryCustodian(public_key={self.public_key.hex()})"

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key

    @property
    def secrets(self) -> tuple[BundleSecrets, ...]:
        """Those that may still open something, the newest first."""
        return self._keys.held

    @property
    def bundle(self) -> bytes | None:
        return self._bundle

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        return self._signer.sign(label, *fields)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        return self._keys.open(sealed, info)

    def make_request(self, name: str, nonce: bytes = b"", *, by_next: bool = False) -> bytes:
        return make_request(require_next(self._next).seed if by_next else self._seed, name, nonce)

    def rotate(self, name: str, unix: float) -> bytes:
        if self._next is None:
            self._next = make_next_key(self._signer, name, self._draw, unix)
        return self._next.statement

    def take_over(self, public_key: bytes) -> str:
        if public_key != self.public_key:
            self._seed = require_next(self._next, public_key).seed
            self._signer, self._next, self._bundle = Ed25519Signer(self._seed), None, None
        return ""

    def next_bundle(self, name: str, unix: float, above: int = 0) -> bytes:
        self._bundle = self._keys.next_bundle(self._signer, name, unix, above)
        return self._bundle

    def forget_secrets(self, unix: float) -> bool:
        return self._keys.forget(unix)
