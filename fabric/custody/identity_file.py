"""DIR/identity.key: the secrets of an identity, sealed by one of the providers, and which of them that is.

The file is a line, `NAME` or `NAME PLACE`, then the provider's blob (see `provider`). Under the seal are 32 bytes each:

    root    the seed of the first identity key, and what other keys are derived from; where the identity key is in
            a token, only the latter
    storage key    seals what else is at rest
    seed    of the identity key, where it is not the first one; in a token, what names the key there

Of the sources of a passphrase the strongest that is there is used, and a key that was sealed under a weaker one moves
to it. To the TPM or a token a key moves by a person's word only: from there it can't be restored on another machine.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fabric.custody.provider import Provider, Token
from fabric.custody.providers.passphrase import (
    KEY_FILE,
    PASSPHRASE_FILE,
    SYSTEMD_CREDENTIAL,
    Passphrase,
    key_file,
    passphrase_file,
    systemd_credential,
)
from fabric.custody.wiping import replace_and_wipe
from fabric.errors import ConfigurationError

IDENTITY_FILE = "identity.key"
SECRET_BYTES = 32

AUTO, FILE, SYSTEMD, TPM2, PKCS11 = "auto", "file", "systemd", "tpm2", "pkcs11"
"""What a person may ask for; a token by its URI, "pkcs11:..."."""

IMMOVABLE = (
    "a key is made in its token and stays there: enrol anew with an empty state, and let the peers"
    " `fabric trust reset --new-key`"
)

_MAX_LINE_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where an identity is kept, and what there is to seal it under. `environment` is the process's."""

    directory: Path
    passphrase_file: Path | None
    environment: Mapping[str, str]

    @property
    def path(self) -> Path:
        return self.directory / IDENTITY_FILE

    def passphrases(self) -> list[Passphrase]:
        """Returns every source that is configured or always there, the strongest first."""
        sources = []
        if credentials := self.environment.get("CREDENTIALS_DIRECTORY"):
            sources.append(systemd_credential(Path(credentials)))
        if self.passphrase_file is not None:
            sources.append(passphrase_file(self.passphrase_file))
        return [*sources, key_file(self.directory)]


@dataclass(frozen=True, slots=True)
class Secrets:
    """`seed` makes the identity key, or says which one of `token` it is; `storage_key` seals the daemon's database; 32
    bytes each. `custody` names the provider. `root` stays when the identity key is replaced: keys for other ends follow
    from it."""

    seed: bytes = field(repr=False)
    storage_key: bytes = field(repr=False)
    custody: str
    root: bytes = field(repr=False)
    token: Token | None = field(default=None, compare=False, repr=False)

    @property
    def successor(self) -> bytes:
        """Which key of the token is the identity key: empty for the first one."""
        return self.seed if self.seed != self.root else b""


def open_identity(around: Surroundings, custody: str = AUTO) -> Secrets:
    """Returns the secrets of a directory, made now under `custody` if there are none.

    Raises `ConfigurationError`, `OSError`; also where the key that is there is under another custody than a given one.
    """
    if around.passphrase_file is not None and not around.passphrase_file.exists():
        raise ConfigurationError(f"passphrase_file: there is no {around.passphrase_file}")
    if not around.path.exists():
        return _make(around, _chosen(around, custody))
    provider, secrets = _open(around)
    if custody != AUTO and not _is_meant(provider, custody):
        raise ConfigurationError(
            f"{around.path} is under {provider.name}: `fabric custody move {custody}` moves it, if it can be moved"
        )
    if isinstance(provider, Passphrase) and custody == AUTO:
        return _moved_up(around, provider, secrets)
    return secrets


def read_identity(around: Surroundings) -> bytes | None:
    """Returns the file as it is, sealed; None where there is none."""
    try:
        return around.path.read_bytes()
    except FileNotFoundError:
        return None


def move_identity(around: Surroundings, custody: str) -> Secrets:
    """Seals the same secrets under another provider, and wipes what was. Raises `ConfigurationError`, `OSError`.

    An identity key moves neither into a token nor out of one: there it is made, and there it stays.
    """
    before, secrets = _open(around)
    after = _chosen(around, custody)
    if isinstance(before, Token) or isinstance(after, Token):
        raise ConfigurationError(IMMOVABLE)
    moved = _seal(around, after, secrets)
    _forget(before, after)
    return moved


def replace_seed(around: Surroundings, seed: bytes) -> Secrets:
    """Makes `seed` (32 bytes) the identity key's; the one before is wiped. Raises `ConfigurationError`, `OSError`.

    In a token the key is there already, and `seed` names it; the one before stays there too.
    """
    provider, secrets = _open(around)
    return _seal(around, provider, replace(secrets, seed=seed))


def _make(around: Surroundings, provider: Provider) -> Secrets:
    seed, storage_key = os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES)
    token = provider if isinstance(provider, Token) else None
    if token is not None:
        token.make_key()
    return _seal(around, provider, Secrets(seed, storage_key, provider.name, seed, token))


def _chosen(around: Surroundings, custody: str) -> Provider:
    """Returns the provider that a person's word means. Raises `ConfigurationError` where it is not to be had."""
    kind, _, place = custody.partition(":")
    match kind:
        case "auto":
            return next(each for each in (_other(TPM2, "", around), *around.passphrases()) if each.is_available())
        case "file":
            files = [each for each in around.passphrases() if each.name in (PASSPHRASE_FILE, KEY_FILE)]
            return files[0]
        case "systemd":
            found = [each for each in around.passphrases() if each.name == SYSTEMD_CREDENTIAL and each.is_available()]
            if not found:
                raise ConfigurationError("there is no systemd credential fabric-passphrase: see docs/operations.md")
            return found[0]
        case "tpm2":
            return _other(TPM2, place, around)
        case "pkcs11":
            return _other(PKCS11, custody, around)
    raise ConfigurationError(f'there is no custody "{custody[:80]}": auto, file, systemd, tpm2 or pkcs11:URI')


def _other(name: str, place: str, around: Surroundings) -> Provider:
    """Returns a provider of a library of its own, which is imported no sooner. Raises `ConfigurationError`."""
    module = importlib.import_module(f"fabric.custody.providers.{name}")
    provider: Provider = module.open_provider(place, around.directory)
    return provider


def _is_meant(provider: Provider, custody: str) -> bool:
    kind, _, place = custody.partition(":")
    names = {FILE: (KEY_FILE, PASSPHRASE_FILE), SYSTEMD: (SYSTEMD_CREDENTIAL,), TPM2: (TPM2,), PKCS11: (PKCS11,)}
    return provider.name in names.get(kind, ()) and (not place or provider.place in (place, custody))


def _open(around: Surroundings) -> tuple[Provider, Secrets]:
    line, _, blob = around.path.read_bytes().partition(b"\n")
    provider = _named(line, around)
    try:
        plain = provider.unseal(blob)
    except ConfigurationError as error:
        raise ConfigurationError(f"{around.path}: {error}") from None
    if len(plain) not in (2 * SECRET_BYTES, 3 * SECRET_BYTES):
        raise _damaged(around)
    token = provider if isinstance(provider, Token) else None
    root, storage_key = plain[:SECRET_BYTES], plain[SECRET_BYTES : 2 * SECRET_BYTES]
    return provider, Secrets(plain[2 * SECRET_BYTES :] or root, storage_key, provider.name, root, token)


def _named(line: bytes, around: Surroundings) -> Provider:
    """Returns the provider that the first line of the file means."""
    name, _, place = line[:_MAX_LINE_BYTES].decode(errors="replace").partition(" ")
    if name in (TPM2, PKCS11):
        return _other(name, place, around)
    if name not in (SYSTEMD_CREDENTIAL, PASSPHRASE_FILE, KEY_FILE):
        raise _damaged(around)
    source = next((each for each in around.passphrases() if each.name == name and each.exists()), None)
    if source is None:
        raise ConfigurationError(f"{around.path} is sealed under a {name}, and there is none")
    return source


def _moved_up(around: Surroundings, provider: Passphrase, secrets: Secrets) -> Secrets:
    """Moves to the strongest passphrase that is there."""
    for each in around.passphrases():
        if each.rank <= provider.rank:
            return secrets
        if each.exists():
            moved = _seal(around, each, secrets)
            _forget(provider, each)
            return moved
    return secrets


def _seal(around: Surroundings, provider: Provider, secrets: Secrets) -> Secrets:
    """Writes the secrets under `provider` and returns them, with who holds them now."""
    rotated = secrets.seed if secrets.seed != secrets.root else b""
    blob = provider.seal(secrets.root + secrets.storage_key + rotated)
    line = f"{provider.name} {provider.place}".rstrip().encode()
    replace_and_wipe(around.path, line + b"\n" + blob)
    return replace(secrets, custody=provider.name)


def _forget(before: Provider, after: Provider) -> None:
    if isinstance(before, Passphrase) and before.name != after.name:
        before.forget()


def _damaged(around: Surroundings) -> ConfigurationError:
    return ConfigurationError(f"{around.path} is damaged: restore it from a backup, or remove it and enrol again")
