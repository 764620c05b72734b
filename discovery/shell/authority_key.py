"""DIR/authority.key: the seed of the authority's key, sealed under the strongest passphrase that is there.

    systemd-credential   $CREDENTIALS_DIRECTORY/discovery-passphrase: may be bound to the TPM, never on this disk
    passphrase-file      the file that the configuration names
    key-file             DIR/authority.passphrase: made here, for its owner only; no better than the file's permissions

    tpm2, pkcs11         where the configuration says so, and there alone: this machine's TPM, or a token, seals it

Where a token is configured before there is an authority, its key is made inside the token, signs there, and is never
here: the blob is empty then.

The file is a line, `NAME` or `NAME PLACE`, then the provider's blob (`fabric.custody.provider`). One that an earlier
version left as PKCS#8 in plain text is read, and sealed. Once it is under a TPM or a token, the key moves only to
another of them that is configured; `discoveryd authority detach` takes it out.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from fabric.crypto.signature import SEED_BYTES
from fabric.custody.provider import Provider, Rank, Token
from fabric.custody.providers.passphrase import KEY_FILE, PASSPHRASE_FILE, SYSTEMD_CREDENTIAL, Passphrase
from fabric.custody.wiping import remove_and_wipe, replace_and_wipe
from fabric.errors import ConfigurationError
from fabric.identity.authority import RootKey
from fabric.shell.exit_code import CommandError, ExitCode

AUTHORITY_KEY_FILE = "authority.key"
GENERATED_FILE = "authority.passphrase"
CREDENTIAL = "discovery-passphrase"

_PLAIN = b"-----BEGIN"
_HARDWARE = ("tpm2", "pkcs11")
_MAX_LINE_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Safe:
    """Where the key lies, and what there is to seal it under. `environment` is the process's; `custody` is
    `Config.authority_custody`."""

    directory: Path
    passphrase_file: str
    environment: Mapping[str, str]
    custody: str = ""

    @property
    def path(self) -> Path:
        return self.directory / AUTHORITY_KEY_FILE

    def sources(self) -> list[Passphrase]:
        """Returns those that are there, and the one that can always be made; the strongest first.

        Raises `ConfigurationError` where the file that is configured is missing: nothing weaker stands in for it.
        """
        found = []
        if credentials := self.environment.get("CREDENTIALS_DIRECTORY"):
            found.append(Passphrase(SYSTEMD_CREDENTIAL, Rank.SYSTEMD_CREDENTIAL, Path(credentials) / CREDENTIAL))
        if self.passphrase_file and not Path(self.passphrase_file).exists():
            raise ConfigurationError(f"passphrase_file: there is no {self.passphrase_file}")
        if self.passphrase_file:
            found.append(Passphrase(PASSPHRASE_FILE, Rank.PASSPHRASE_FILE, Path(self.passphrase_file)))
        generated = Passphrase(KEY_FILE, Rank.KEY_FILE, self.directory / GENERATED_FILE, is_generated=True)
        return [*(source for source in found if source.exists()), generated]


def create_key(safe: Safe) -> RootKey | bytes:
    """Returns the key of a new authority: inside of the token that is configured, else a seed, which is sealed.

    Raises `ConfigurationError`, `OSError`.
    """
    token = _configured(safe)
    if isinstance(token, Token):
        token.make_key()
        replace_and_wipe(safe.path, f"{token.name} {token.place}\n".encode())
        return _TokenKey(token)
    seed = os.urandom(SEED_BYTES)
    store_key(safe, seed)
    return seed


def open_root_key(safe: Safe) -> RootKey | bytes:
    """Returns what the authority signs with: the seed, as `open_key` does, or a token with the key in it.

    Raises as `open_key`.
    """
    token = _token_with_key(safe)
    return open_key(safe) if token is None else _TokenKey(token)


def store_key(safe: Safe, seed: bytes) -> None:
    """Seals the seed under what is configured, else under the strongest passphrase; what was there is wiped.

    Raises `ConfigurationError`, `OSError`.
    """
    provider: Provider = _configured(safe) or safe.sources()[0]
    line = f"{provider.name} {provider.place}".rstrip().encode()
    replace_and_wipe(safe.path, line + b"\n" + provider.seal(seed))


def open_key(safe: Safe) -> bytes:
    """Returns the 32-byte seed, and seals it anew where another place is configured, or a stronger passphrase there.

    Raises `ConfigurationError` where it is missing, damaged, in a token, or does not open, `OSError`.
    """
    if _token_with_key(safe) is not None:
        raise ConfigurationError(f"{safe.path}: the authority's key was made in its token and stays there")
    content = _content(safe)
    if content.startswith(_PLAIN):
        seed = _plain_seed(safe, content)
        store_key(safe, seed)
        return seed
    line, _, blob = content.partition(b"\n")
    provider = _named(safe, line[:_MAX_LINE_BYTES].decode(errors="replace"))
    seed = _unsealed(safe, provider, blob)
    if _is_to_move(safe, provider):
        store_key(safe, seed)
        if isinstance(provider, Passphrase):
            provider.forget()
    return seed


def remove_key(safe: Safe) -> None:
    """Wipes the key from this disk, as far as a program can, and a passphrase that was generated for it."""
    remove_and_wipe(safe.path)
    remove_and_wipe(safe.directory / GENERATED_FILE)


def key_pem(seed: bytes) -> bytes:
    """Returns an Ed25519 key as PKCS#8."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def seed_of(pem: bytes) -> bytes:
    """Returns the 32 bytes of the first key in it. Raises `ValueError`."""
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("the key is not Ed25519")  # noqa: TRY004 - the file's fault, as all others here
    return key.private_bytes_raw()


class _TokenKey:
    """A `RootKey` in a token. One that is away when something is to be signed may be back at the next start."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def public_key(self) -> bytes:
        return self._token.public_key()

    def sign_raw(self, message: bytes) -> bytes:
        try:
            return self._token.sign_raw(message)
        except ConfigurationError as error:
            raise CommandError(ExitCode.UNREACHABLE, f"the authority can't sign: {error}") from None


def _content(safe: Safe) -> bytes:
    try:
        return safe.path.read_bytes()
    except FileNotFoundError:
        raise ConfigurationError(f"{safe.path} is missing: put it back from a backup") from None


def _token_with_key(safe: Safe) -> Token | None:
    """Returns the token that the key itself is in; None where there is a seed."""
    line, _, blob = _content(safe).partition(b"\n")
    if blob:
        return None
    provider = _named(safe, line[:_MAX_LINE_BYTES].decode(errors="replace"))
    return provider if isinstance(provider, Token) else None


def _configured(safe: Safe) -> Provider | None:
    """Returns the TPM or token that the configuration names, None where it names none. Raises `ConfigurationError`."""
    if not safe.custody:
        return None
    name, _, place = safe.custody.partition(":")
    if name not in _HARDWARE:
        raise ConfigurationError(f'authority_custody = "{safe.custody[:80]}" is none of tpm2, tpm2:TCTI, pkcs11:URI')
    return _hardware(name, safe.custody if name == "pkcs11" else place, safe)


def _named(safe: Safe, line: str) -> Provider:
    """Returns what the first line of the file says. Raises `ConfigurationError` where it is not to be had."""
    name, _, place = line.partition(" ")
    if name in _HARDWARE:
        return _hardware(name, place, safe)
    for source in safe.sources():
        if source.name == line:
            return source
    raise ConfigurationError(f"{safe.path} is sealed under a {name[:40]}, and there is none")


def _hardware(name: str, place: str, safe: Safe) -> Provider:
    """Each has a library of its own, which is imported here and no sooner."""
    provider: Provider = importlib.import_module(f"fabric.custody.providers.{name}").open_provider(
        place, safe.directory
    )
    return provider


def _is_to_move(safe: Safe, provider: Provider) -> bool:
    wanted = _configured(safe)
    if wanted is not None:
        return (wanted.name, wanted.place) != (provider.name, provider.place)
    return isinstance(provider, Passphrase) and safe.sources()[0].rank > provider.rank


def _plain_seed(safe: Safe, pem: bytes) -> bytes:
    try:
        return seed_of(pem)
    except ValueError as error:
        raise ConfigurationError(f"{safe.path} can't be used: {error}") from None


def _unsealed(safe: Safe, provider: Provider, blob: bytes) -> bytes:
    try:
        seed = provider.unseal(blob)
    except ConfigurationError as error:
        raise ConfigurationError(f"{safe.path}: {error}") from None
    if len(seed) != SEED_BYTES:
        raise ConfigurationError(f"{safe.path} holds no key: put it back from a backup")
    return seed
