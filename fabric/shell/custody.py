"""The identity key at rest: DIR/identity.key, sealed under a passphrase, and where that passphrase comes from.

The strongest source that is there is used:

    systemd-credential   $CREDENTIALS_DIRECTORY/fabric-passphrase: may be bound to the TPM, never on this disk
    passphrase-file      the file that the configuration names
    key-file             DIR/identity.passphrase: made here, for its owner only; no better than the file's permissions

A passphrase goes through argon2id (RFC 9106), for people choose them; a generated one is 32 random bytes already.
The file is JSON; inside of the seal are the seed of the identity key and the key for everything else at rest.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from nacl.pwhash import argon2id

from fabric.crypto.aead import Suite, open_, seal
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import Ed25519Signer
from fabric.errors import AuthenticationError, ConfigurationError
from fabric.shell.durable import remove_durably, write_durably

IDENTITY_FILE = "identity.key"
GENERATED_FILE = "identity.passphrase"
CREDENTIAL = "fabric-passphrase"

ARGON2_PASSES = 3
ARGON2_BYTES = 64 * 1024 * 1024
"""RFC 9106 section 4, the second recommended choice: for machines that can't spare 2 GiB."""

_NONCE = bytes(12)
"""Constant: each seal draws a new salt, and so has a key of its own."""


class Custody(enum.Enum):
    """Who holds what opens the identity key; `fabric status` shows the value."""

    SYSTEMD_CREDENTIAL = "systemd-credential"
    PASSPHRASE_FILE = "passphrase-file"  # noqa: S105 a name
    KEY_FILE = "key-file"


@dataclass(frozen=True, slots=True)
class Passphrase:
    custody: Custody
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secrets:
    """`seed` makes the identity key, `storage_key` seals what else is at rest; 32 bytes each."""

    seed: bytes = field(repr=False)
    storage_key: bytes = field(repr=False)
    custody: Custody


class _SealedIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    custody: str
    public_key: str
    passes: int
    memory_bytes: int
    salt: bytes
    sealed: bytes


_FORMAT = "fabric identity 1"


def open_identity(
    directory: Path, passphrase_file: str | None, environment: Mapping[str, str], draw: Callable[[int], bytes]
) -> Secrets:
    """Returns the secrets of `directory`, made now if there are none. Raises `ConfigurationError`, `OSError`.

    A key that was sealed under a weaker source moves to the strongest one that is there.
    """
    path = directory / IDENTITY_FILE
    found = {p.custody: p for p in _find(directory, passphrase_file, environment)}
    if not path.exists():
        strongest = next(iter(found.values()), None) or _generate(directory, draw)
        return _seal(path, Secrets(draw(32), draw(32), strongest.custody), strongest, draw)
    stored = _read(path)
    secrets = _open(path, stored, found)
    strongest = next(iter(found.values()))
    if strongest.custody is secrets.custody:
        return secrets
    secrets = _seal(path, secrets, strongest, draw)
    if stored.custody == Custody.KEY_FILE.value:
        remove_durably(directory / GENERATED_FILE)
    return secrets


def _find(directory: Path, passphrase_file: str | None, environment: Mapping[str, str]) -> list[Passphrase]:
    """Returns the passphrases that are there, the strongest first."""
    places = []
    if credentials := environment.get("CREDENTIALS_DIRECTORY"):
        places.append((Custody.SYSTEMD_CREDENTIAL, Path(credentials) / CREDENTIAL, False))
    if passphrase_file:
        places.append((Custody.PASSPHRASE_FILE, Path(passphrase_file), True))
    places.append((Custody.KEY_FILE, directory / GENERATED_FILE, False))
    found = ((custody, _read_passphrase(path, is_required=required)) for custody, path, required in places)
    return [Passphrase(custody, secret) for custody, secret in found if secret]


def _read_passphrase(path: Path, *, is_required: bool) -> bytes:
    """Returns the file's content without the newline that an editor leaves; empty where there is none."""
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except FileNotFoundError:
        if is_required:
            raise ConfigurationError(f"passphrase_file: there is no {path}") from None
        return b""
    if not secret:
        raise ConfigurationError(f"the passphrase in {path} is empty")
    return secret


def _generate(directory: Path, draw: Callable[[int], bytes]) -> Passphrase:
    secret = draw(32).hex().encode()
    write_durably(directory / GENERATED_FILE, secret + b"\n")
    return Passphrase(Custody.KEY_FILE, secret)


def _read(path: Path) -> _SealedIdentity:
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_SealedIdentity)
    except msgspec.DecodeError:
        raise ConfigurationError(f"{path} is damaged: restore it from a backup, or remove it and enrol again") from None
    if stored.format != _FORMAT:
        raise ConfigurationError(f'{path} has the format "{stored.format}", this program knows "{_FORMAT}"')
    return stored


def _open(path: Path, stored: _SealedIdentity, found: Mapping[Custody, Passphrase]) -> Secrets:
    passphrase = next((p for p in found.values() if p.custody.value == stored.custody), None)
    if passphrase is None:
        raise ConfigurationError(f"{path} is sealed under a {stored.custody}, and there is none")
    try:
        key = _derive(passphrase, stored.salt, stored.passes, stored.memory_bytes)
        plain = open_(Suite.CHACHA20_POLY1305, key, _NONCE, stored.sealed, _header(stored))
    except (AuthenticationError, ValueError):
        raise ConfigurationError(f"the {stored.custody} does not open {path}: it is another one") from None
    return Secrets(plain[:32], plain[32:], passphrase.custody)


def _seal(path: Path, secrets: Secrets, passphrase: Passphrase, draw: Callable[[int], bytes]) -> Secrets:
    """Writes the secrets under `passphrase` and returns them, with who holds them now."""
    public_key = Ed25519Signer(secrets.seed).public_key.hex()
    is_argon2 = passphrase.custody is not Custody.KEY_FILE
    passes, memory_bytes = (ARGON2_PASSES, ARGON2_BYTES) if is_argon2 else (0, 0)
    bare = _SealedIdentity(_FORMAT, passphrase.custody.value, public_key, passes, memory_bytes, draw(16), b"")
    key = _derive(passphrase, bare.salt, passes, memory_bytes)
    sealed = seal(Suite.CHACHA20_POLY1305, key, _NONCE, secrets.seed + secrets.storage_key, _header(bare))
    write_durably(path, msgspec.json.encode(msgspec.structs.replace(bare, sealed=sealed)) + b"\n")
    return Secrets(secrets.seed, secrets.storage_key, passphrase.custody)


def _derive(passphrase: Passphrase, salt: bytes, passes: int, memory_bytes: int) -> bytes:
    if passphrase.custody is Custody.KEY_FILE:
        return blake2b_256(b"fabric/1 identity at rest", salt, key=passphrase.secret)
    return argon2id.kdf(32, passphrase.secret, salt, opslimit=passes, memlimit=memory_bytes)


def _header(stored: _SealedIdentity) -> bytes:
    """Returns what the seal also covers: everything in the file that is not sealed."""
    return msgspec.json.encode(msgspec.structs.replace(stored, sealed=b""))
