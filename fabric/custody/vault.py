"""The custodian over a state directory: everything private of one endpoint, in one process and in two files.

    identity.key   the secrets that all else follows from (`identity_file`)
    sealing.keys   salt 16 | sealed under a key that follows from them: name, newest bundle, secrets of all bundles,
                   the next identity key

It signs statements in one name, the first that it was asked to begin with. What `sealing.keys` holds and can't be read
counts as lost: new keys are made then, under a higher serial.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from fabric.crypto.aead import NONCE_BYTES, Suite, open_, seal
from fabric.crypto.digest import blake2b_256, join
from fabric.crypto.signature import Ed25519Signer, Signer
from fabric.custody.identity_file import (
    AUTO,
    Secrets,
    Surroundings,
    move_identity,
    open_identity,
    read_identity,
    replace_seed,
)
from fabric.custody.next_key import NextKey, make_next_key, make_next_key_in, require_next
from fabric.custody.provider import Token
from fabric.custody.statements import Speaker, check_statement
from fabric.custody.wiping import replace_and_wipe
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError, PolicyError
from fabric.identity.bundle import BundleSecrets
from fabric.identity.bundle_keys import BundleKeys
from fabric.identity.name import parse_name, system_of

SEALING_FILE = "sealing.keys"
SALT_BYTES = 16

_NONCE = bytes(NONCE_BYTES)
"""Constant: every seal has a key of its own, by a new salt."""


class Vault:
    """A `Custodian` that keeps what it holds in `around.directory`; every change is durable on return.

    All of it may raise `ConfigurationError` and `OSError`, for the files and what they are sealed under.
    """

    def __init__(self, around: Surroundings, custody: str = AUTO) -> None:
        self._around = around
        self._secrets = open_identity(around, custody)
        self._file = read_identity(around)
        self._signer = _signer(self._secrets)
        kept = _load(around.directory, self._secrets.root)
        self._name = kept.name
        self._next = NextKey(kept.next_seed, kept.rotation, kept.former) if kept.next_seed else None
        self._bundle = kept.bundle or None
        self._keys = BundleKeys(map(BundleSecrets.decode, kept.secrets), os.urandom)

    def __repr__(self) -> str:
        return f"Vault({self._name or 'nobody yet'}, public_key={self.public_key.hex()})"

    @property
    def public_key(self) -> bytes:
        return self._signer.public_key

    @property
    def name(self) -> str:
        """In whose name it signs; empty before anybody said."""
        return self._name

    @property
    def custody(self) -> str:
        return self._secrets.custody

    @property
    def storage_key(self) -> bytes:
        return self._secrets.storage_key

    @property
    def bundle(self) -> bytes | None:
        return self._bundle

    @property
    def keys(self) -> BundleKeys:
        return self._keys

    def begin(self, name: str) -> None:
        """Takes the full name that all statements are in from now on. Raises `PolicyError` for a second one."""
        parse_name(name, None)
        if self._name not in ("", name):
            raise PolicyError(f"this identity key is {self._name}'s: another name wants a state directory of its own")
        if not self._name:
            self._name = name
            self._store()

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        """Raises `PolicyError` and `DecodeError` as `check_statement` does."""
        check_statement(Speaker(self._said_name(), self.public_key, self._keys.held), label, fields)
        return self._signer.sign(label, *fields)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        return self._keys.open(sealed, info)

    def make_request(self, name: str, nonce: bytes = b"", *, by_next: bool = False) -> bytes:
        """Raises `PolicyError` for another name than the own, where that is known."""
        from fabric.identity import request  # here, because X.509 takes as long to load as all the rest

        if self._name and name not in (self._name, system_of(self._name)):
            raise PolicyError(f"this identity key is {self._name}'s: another name wants a state directory of its own")
        token = self._secrets.token
        if token is not None:
            who = require_next(self._next).seed if by_next else self._secrets.successor
            return request.make_request_with(token.public_key(who), lambda said: token.sign_raw(said, who), name, nonce)
        return request.make_request(require_next(self._next).seed if by_next else self._secrets.seed, name, nonce)

    def rotate(self, name: str, unix: float) -> bytes:
        self.begin(name)
        if self._next is None:
            self._next = self._make_next(name, unix)
            self._store()
        return self._next.statement

    def take_over(self, public_key: bytes) -> str:
        """First the identity is durable under the next key, then the one before is gone, then this is no longer the
        next one. A crash in between is mended when it is asked for again."""
        if public_key != self.public_key:
            self._secrets = replace_seed(self._around, require_next(self._next, public_key).seed)
            self._file = read_identity(self._around)
            self._signer = _signer(self._secrets)
        if self._next is None or self._next.public_key != public_key:
            return ""
        left = self._destroy(self._next)
        self._next = None
        self._bundle = None  # it was signed by the key before
        self._store()
        return left

    def next_bundle(self, name: str, unix: float, above: int = 0) -> bytes:
        self.begin(name)
        bundle = self._keys.next_bundle(self._signer, name, unix, above)
        self._bundle = bundle
        self._store()
        return bundle

    def forget_secrets(self, unix: float) -> bool:
        if not self._keys.forget(unix):
            return False
        if self._keys.held[0].has_no_offer:
            self._bundle = None
        self._store()
        return True

    def is_current(self) -> bool:
        """Whether the file still holds what was opened: a person may have taken it away, or brought another."""
        return read_identity(self._around) == self._file

    def check_custody(self, custody: str) -> None:
        """Raises `ConfigurationError` where a person wished for another custody than the one that it is in."""
        if custody != AUTO:
            open_identity(self._around, custody)

    def move(self, custody: str) -> None:
        """Has the secrets sealed otherwise, see `move_identity`."""
        self._secrets = move_identity(self._around, custody)
        self._file = read_identity(self._around)

    def _make_next(self, name: str, unix: float) -> NextKey:
        secrets = self._secrets
        if secrets.token is None:
            return make_next_key(self._signer, name, os.urandom, unix)
        try:
            return make_next_key_in(secrets.token, secrets.successor, self._signer, secrets.root, name, unix)
        except ConfigurationError as error:
            raise ConfigurationError(f"the identity key stays as it is: {error}") from None

    def _destroy(self, over: NextKey) -> str:
        """Destroys the key before `over`, if it is in a token; returns what to say where the token keeps it."""
        token = self._secrets.token
        if token is None or token.destroy_key(over.former_key, over.former):
            return ""
        return f"the {token.name} token keeps the identity key that was in use before: nothing asks for it any more"

    def _said_name(self) -> str:
        if not self._name:
            raise PolicyError("whoever has not said its name says nothing")
        return self._name

    def _store(self) -> None:
        upcoming = self._next or NextKey(b"", b"")
        secrets = tuple(held.encode() for held in self._keys.held)
        kept = _Kept(self._name, self._bundle or b"", secrets, upcoming.seed, upcoming.statement, upcoming.former)
        salt = os.urandom(SALT_BYTES)
        plain = msgspec.msgpack.encode(kept)
        sealed = seal(Suite.CHACHA20_POLY1305, _file_key(self._secrets.root, salt), _NONCE, plain, b"")
        replace_and_wipe(self._around.directory / SEALING_FILE, salt + sealed)


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    name: str = ""
    bundle: bytes = b""
    secrets: tuple[bytes, ...] = ()
    next_seed: bytes = b""
    rotation: bytes = b""
    former: bytes = b""

    def __repr__(self) -> str:
        return f"_Kept({self.name})"


class _TokenSigner:
    """A signer whose key is in a token."""

    def __init__(self, token: Token, successor: bytes) -> None:
        self._token = token
        self._successor = successor
        self.public_key = token.public_key(successor)

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        return self._token.sign_raw(join(label, *fields), self._successor)


def _signer(secrets: Secrets) -> Signer:
    if secrets.token is None:
        return Ed25519Signer(secrets.seed)
    return _TokenSigner(secrets.token, secrets.successor)


def _load(directory: Path, root: bytes) -> _Kept:
    try:
        content = (directory / SEALING_FILE).read_bytes()
        salt, sealed = content[:SALT_BYTES], content[SALT_BYTES:]
        plain = open_(Suite.CHACHA20_POLY1305, _file_key(root, salt), _NONCE, sealed, b"")
        kept = msgspec.msgpack.decode(plain, type=_Kept)
        for each in kept.secrets:
            BundleSecrets.decode(each)
    except (FileNotFoundError, AuthenticationError, DecodeError, msgspec.DecodeError, UnicodeDecodeError):
        return _Kept()
    return kept


def _file_key(root: bytes, salt: bytes) -> bytes:
    return blake2b_256(b"fabric/1 sealing keys at rest", salt, key=root)
