"""The identity key at rest: DIR/identity.key, sealed under a passphrase, and where that passphrase comes from.

The strongest source that is there is used:

    systemd-credential   $CREDENTIALS_DIRECTORY/fabric-passphrase: may be bound to the TPM, never on this disk
    passphrase-file      the file that the configuration names
    key-file             DIR/identity.passphrase: made here, for its owner only; no better than the file's permissions

The file is a line with the source's name and then what `custody.at_rest` makes: inside of its seal are the seed of
the identity key and the key for everything else at rest. A passphrase costs argon2id's memory and time, for people
choose them; a generated one is 32 random bytes already.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fabric.crypto.aead import NONCE_BYTES
from fabric.custody.at_rest import GENERATED_COST, PASSPHRASE_COST, SALT_BYTES, decrypt_key, encrypt_key
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError
from fabric.shell.durable import remove_durably, write_durably

IDENTITY_FILE = "identity.key"
GENERATED_FILE = "identity.passphrase"
CREDENTIAL = "fabric-passphrase"

SECRET_BYTES = 32


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
        return _seal(path, Secrets(draw(SECRET_BYTES), draw(SECRET_BYTES), strongest.custody), strongest, draw)
    source, locked = _read(path)
    secrets = _open(path, source, locked, found)
    strongest = next(iter(found.values()))
    if strongest.custody is secrets.custody:
        return secrets
    secrets = _seal(path, secrets, strongest, draw)
    if source is Custody.KEY_FILE:
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


def _read(path: Path) -> tuple[Custody, bytes]:
    source, _, locked = path.read_bytes().partition(b"\n")
    try:
        return Custody(source.decode()), locked
    except ValueError:
        raise _damaged(path) from None


def _open(path: Path, source: Custody, locked: bytes, found: Mapping[Custody, Passphrase]) -> Secrets:
    passphrase = found.get(source)
    if passphrase is None:
        raise ConfigurationError(f"{path} is sealed under a {source.value}, and there is none")
    try:
        plain = decrypt_key(locked, passphrase.secret)
    except DecodeError:
        raise _damaged(path) from None
    except AuthenticationError:
        raise ConfigurationError(f"the {source.value} does not open {path}: it is another one") from None
    if len(plain) != 2 * SECRET_BYTES:
        raise _damaged(path)
    return Secrets(plain[:SECRET_BYTES], plain[SECRET_BYTES:], source)


def _seal(path: Path, secrets: Secrets, passphrase: Passphrase, draw: Callable[[int], bytes]) -> Secrets:
    """Writes the secrets under `passphrase` and returns them, with who holds them now."""
    cost = GENERATED_COST if passphrase.custody is Custody.KEY_FILE else PASSPHRASE_COST
    plain = secrets.seed + secrets.storage_key
    locked = encrypt_key(plain, passphrase.secret, draw(SALT_BYTES), draw(NONCE_BYTES), cost)
    write_durably(path, passphrase.custody.value.encode() + b"\n" + locked)
    return Secrets(secrets.seed, secrets.storage_key, passphrase.custody)


def _damaged(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path} is damaged: restore it from a backup, or remove it and enrol again")
