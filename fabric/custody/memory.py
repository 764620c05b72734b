"""The custodian that lives in the daemon's own process and keeps the keys in its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from fabric.crypto.signature import Ed25519Signer
from fabric.custody.at_rest import PASSPHRASE_COST, Cost, decrypt_key, encrypt_key
from fabric.identity.bundle import BundleSecrets, make_bundle
from fabric.identity.request import make_request


class MemoryCustodian:
    """A `Custodian` made from the identity key's 32-byte seed and what there is of bundle secrets."""

    __slots__ = ("_secrets", "_seed", "_signer")

    def __init__(self, seed: bytes, secrets: Iterable[BundleSecrets] = ()) -> None:
        self._seed = seed
        self._signer = Ed25519Signer(seed)
        self._secrets = tuple(sorted(secrets, key=lambda held: held.serial, reverse=True))

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
        return self._secrets

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        return self._signer.sign(label, *fields)

    def make_request(self, name: str) -> bytes:
        return make_request(self._seed, name)

    def next_bundle(self, name: str, draw: Callable[[int], bytes], unix: float, above: int = 0) -> bytes:
        previous = self._secrets[0] if self._secrets else None
        bundle, secrets = make_bundle(self._signer, name, draw, unix, previous, above)
        self._secrets = (secrets, *self._secrets)
        return bundle

    def forget_secrets(self, draw: Callable[[int], bytes], unix: float) -> bool:
        kept = tuple(self._kept(draw, unix))
        is_changed = kept != self._secrets
        self._secrets = kept
        return is_changed

    def _kept(self, draw: Callable[[int], bytes], unix: float) -> Iterator[BundleSecrets]:
        newer: BundleSecrets | None = None
        for held in self._secrets:
            # the newest always stays: the next serial follows from it
            is_mail_needed = newer is None or (held.mail.public != newer.mail.public and unix < held.mail_deletion)
            if unix < held.offer_deletion:
                yield held
            elif is_mail_needed:
                yield held if held.has_no_offer else held.without_offer(draw)
            newer = held
