"""The authority's key in the one file that a person keeps away from the service, and the journal beside it.

    FILE           the root in PEM, then the key's seed sealed under a passphrase (argon2id), in base64
    FILE.journal   one line of JSON for each thing that was signed: what the next signature is judged by

The journal tells nobody a secret. It is written, and on stable storage, before an answer leaves.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import ssl
from collections.abc import Iterable
from pathlib import Path

import msgspec

from discovery.core.signing import Entry, Journal
from fabric.crypto.aead import NONCE_BYTES
from fabric.crypto.signature import SEED_BYTES
from fabric.custody.at_rest import PASSPHRASE_COST, SALT_BYTES, Cost, decrypt_key, encrypt_key
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError
from fabric.identity.authority import Authority
from fabric.identity.root import Root, decode_root
from fabric.shell.durable import sync_directory, write_durably
from fabric.shell.exit_code import CommandError, ExitCode

MIN_PASSPHRASE_CHARS = 12
"""The file may be copied and tried at leisure: at 0.1 s and 64 MiB a guess, shorter ones fall in days."""

_BEGIN, _END = "-----BEGIN FABRIC AUTHORITY KEY-----", "-----END FABRIC AUTHORITY KEY-----"
_KEY = re.compile(f"{_BEGIN}\n(.+?)\n{_END}", re.DOTALL)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_LINE_CHARS = 64
_entries = msgspec.json.Decoder(Entry)


def write_authority(path: Path, seed: bytes, root: Root, passphrase: bytes, cost: Cost = PASSPHRASE_COST) -> None:
    """Writes the file, mode 0600, and proves that it opens. Raises `CommandError` where another authority's is there
    or the passphrase is short, `OSError`."""
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise CommandError(ExitCode.WRONG_USAGE, f"the passphrase needs {MIN_PASSPHRASE_CHARS} characters or more")
    if path.exists() and read_root(path).fingerprint != root.fingerprint:
        raise CommandError(ExitCode.NOT_SO, f"{path} holds another authority: choose another file")
    locked = encrypt_key(seed, passphrase, os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES), cost)
    text = base64.b64encode(locked).decode()
    lines = [text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS)]
    head = f'The authority of the network "{root.network}". Who has this file and its passphrase says who is in it.'
    write_durably(
        path, "\n".join((head, ssl.DER_cert_to_PEM_cert(root.der).strip(), _BEGIN, *lines, _END, "")).encode()
    )
    open_authority(path, passphrase)


def read_root(path: Path) -> Root:
    """Returns whose key is in the file, without opening it. Raises `ConfigurationError`, `OSError`."""
    found = _CERTIFICATE.search(_text(path))
    try:
        return decode_root(ssl.PEM_cert_to_DER_cert(found.group() if found else ""))
    except (ValueError, AuthenticationError, DecodeError):
        raise ConfigurationError(f"{path} holds no authority: it is made by `discoveryd authority detach`") from None


def open_authority(path: Path, passphrase: bytes) -> Authority:
    """Raises `CommandError` (NOT_PERMITTED) for a wrong passphrase, `ConfigurationError`, `OSError`."""
    return Authority(open_seed(path, passphrase), read_root(path).der)


def open_seed(path: Path, passphrase: bytes) -> bytes:
    """Returns the 32 bytes of the key in the file. Raises as `open_authority` does."""
    found = _KEY.search(_text(path))
    try:
        seed = decrypt_key(base64.b64decode(found.group(1) if found else "", validate=False), passphrase)
    except (binascii.Error, DecodeError):
        raise ConfigurationError(f"{path} is damaged: take it from a backup") from None
    except AuthenticationError:
        raise CommandError(ExitCode.NOT_PERMITTED, f"the passphrase does not open {path}") from None
    if len(seed) != SEED_BYTES:
        raise ConfigurationError(f"{path} is damaged: take it from a backup")
    return seed


def journal_path(path: Path) -> Path:
    """Returns where the journal is of the key in this file."""
    return path.with_name(f"{path.name}.journal")


def read_journal(path: Path) -> Journal:
    """Returns what was signed with the key in this file. Raises `ConfigurationError` where the journal is missing or
    damaged; a last line without its end was never answered for, and is passed over."""
    journal, beside = Journal(), journal_path(path)
    try:
        *lines, torn = beside.read_bytes().split(b"\n")
        journal.add(_entries.decode(line) for line in lines)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{beside} is missing: what was signed before must be known; it is made with {path.name} by "
            "`discoveryd authority detach`, keep the two together"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{beside} is damaged ({error}): take it from a backup") from None
    if torn:
        _cut(beside, torn)
    return journal


def write_journal(path: Path, entries: Iterable[Entry]) -> None:
    """Begins the journal anew, with what the service had signed while the key was with it."""
    write_durably(journal_path(path), _lines(entries))


def append_journal(path: Path, entries: Iterable[Entry]) -> None:
    """Adds to it; on return that is on stable storage. Raises `OSError`."""
    beside = journal_path(path)
    with beside.open("ab") as file:
        file.write(_lines(entries))
        file.flush()
        os.fsync(file.fileno())
    sync_directory(beside.parent)


def _lines(entries: Iterable[Entry]) -> bytes:
    return b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


def _cut(path: Path, torn: bytes) -> None:
    """Takes away what a crash left of a line, so that the next one begins where it should."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - len(torn))
        os.fsync(file.fileno())


def _text(path: Path) -> str:
    return path.read_text(errors="replace")
