"""Secrets sealed under a passphrase (argon2id): from a generated file, a named file, or a systemd credential.

    systemd-credential   $CREDENTIALS_DIRECTORY/fabric-passphrase: may be bound to the TPM, never on this disk
    passphrase-file      the file that the configuration names
    key-file             identity.passphrase beside the key: made here, for its owner only; as good as its mode

A passphrase costs argon2id's memory and time, for people choose them; a generated one is 32 random bytes already.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fabric.crypto.aead import NONCE_BYTES
from fabric.custody.at_rest import GENERATED_COST, PASSPHRASE_COST, SALT_BYTES, Cost, decrypt_key, encrypt_key
from fabric.custody.provider import Rank
from fabric.custody.wiping import remove_and_wipe
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError
from fabric.shell.durable import write_durably

GENERATED_FILE = "identity.passphrase"
CREDENTIAL = "fabric-passphrase"

KEY_FILE = "key-file"
PASSPHRASE_FILE = "passphrase-file"  # noqa: S105 a name
SYSTEMD_CREDENTIAL = "systemd-credential"


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A `Provider`. Its file is `path`; where that may be made, by `seal`, it is `is_generated`."""

    name: str
    rank: Rank
    path: Path
    is_generated: bool = False

    @property
    def place(self) -> str:
        """None: where the passphrase is, is the configuration's word and may change."""
        return ""

    def is_available(self) -> bool:
        return self.is_generated or self.path.exists()

    def exists(self) -> bool:
        return self.path.exists()

    def seal(self, secret: bytes) -> bytes:
        if self.is_generated and not self.exists():
            write_durably(self.path, os.urandom(32).hex().encode() + b"\n")
        cost: Cost = GENERATED_COST if self.is_generated else PASSPHRASE_COST
        return encrypt_key(secret, self._read(), os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES), cost)

    def unseal(self, blob: bytes) -> bytes:
        passphrase = self._read()
        try:
            return decrypt_key(blob, passphrase)
        except DecodeError:
            raise ConfigurationError("it is damaged: restore it from a backup, or remove it and enrol again") from None
        except AuthenticationError:
            raise ConfigurationError(f"the {self.name} does not open it: it is another one") from None

    def forget(self) -> None:
        """Removes a generated passphrase: what it opened is sealed under something else now."""
        if self.is_generated:
            remove_and_wipe(self.path)

    def _read(self) -> bytes:
        """Returns the file's content without the newline that an editor leaves."""
        try:
            passphrase = self.path.read_bytes().rstrip(b"\r\n")
        except FileNotFoundError:
            raise ConfigurationError(f"it is sealed under a {self.name}, and there is none: no {self.path}") from None
        if not passphrase:
            raise ConfigurationError(f"the passphrase in {self.path} is empty")
        return passphrase


def key_file(directory: Path) -> Passphrase:
    return Passphrase(KEY_FILE, Rank.KEY_FILE, directory / GENERATED_FILE, is_generated=True)


def passphrase_file(path: Path) -> Passphrase:
    return Passphrase(PASSPHRASE_FILE, Rank.PASSPHRASE_FILE, path)


def systemd_credential(credentials: Path) -> Passphrase:
    """`credentials` is the unit's $CREDENTIALS_DIRECTORY."""
    return Passphrase(SYSTEMD_CREDENTIAL, Rank.SYSTEMD_CREDENTIAL, credentials / CREDENTIAL)
