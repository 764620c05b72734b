"""Everything secret or hard-won that a daemon keeps: peer records, key bundles, its port.

Records are opaque here and sealed as a whole under the storage key, for gate shares are in them; only a peer's name
and whether it is wanted stand in clear, so that `fabric add` and the like work beside a stopped daemon.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

from fabric.core.records import PeerRecord, decode_record, encode_record
from fabric.crypto.aead import Suite, open_, seal
from fabric.crypto.digest import blake2b_256
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.bundle import BundleSecrets
from fabric.shell.database import open_database, transaction

SALT_BYTES = 16
_NONCE = bytes(12)
"""Constant: every seal has a key of its own, by a new salt."""

_PEERS, _BUNDLES, _MAIL = b"peers", b"bundles", b"mail"
_SERIAL = "bundle_serial"


class Keystore:
    """DIR/state.db. Every method that changes something returns when the change is on stable storage."""

    def __init__(self, directory: Path, storage_key: bytes, draw: Callable[[int], bytes]) -> None:
        self._database = open_database(directory)
        self._storage_key = storage_key
        self._draw = draw

    def __enter__(self) -> Keystore:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def load_records(self) -> tuple[list[PeerRecord], list[str]]:
        """Returns the records, and the names of those that can't be read: damaged, or sealed by another identity."""
        records, unreadable = [], []
        for name, sealed in self._database.execute("SELECT name, sealed FROM peers ORDER BY name"):
            try:
                records.append(decode_record(self._open(_PEERS, name.encode(), sealed)))
            except (AuthenticationError, DecodeError):
                unreadable.append(name)
        return records, unreadable

    def change_records(self, changes: Iterable[PeerRecord | str]) -> None:
        """Stores each record and forgets each name, in this order, all of them or none."""
        with transaction(self._database) as database:
            for change in changes:
                if isinstance(change, str):
                    database.execute("DELETE FROM peers WHERE name = ?", (change,))
                else:
                    self._store(database, change)

    def load_bundles(self, unix: float) -> tuple[bytes | None, tuple[BundleSecrets, ...]]:
        """Returns the newest signed bundle and the secrets whose offer key is still to be kept, the newest first.

        Those past their time are deleted now. Secrets that can't be read count as lost: new ones are due then.
        """
        self._purge(unix)
        newest, secrets = None, []
        for serial, bundle, sealed in self._database.execute(
            "SELECT serial, bundle, sealed FROM bundles ORDER BY serial DESC"
        ):
            try:
                secrets.append(BundleSecrets.decode(self._open(_BUNDLES, str(serial).encode(), sealed)))
            except (AuthenticationError, DecodeError):
                continue
            newest = newest or bundle
        return newest, tuple(secrets)

    def store_bundle(self, bundle: bytes, secrets: BundleSecrets, unix: float) -> None:
        """Keeps the offer key until its time is over, and the mail key, which outlives many bundles, until its own."""
        mail = secrets.mail
        with transaction(self._database) as database:
            database.execute(
                "INSERT OR REPLACE INTO bundles VALUES (?, ?, ?, ?)",
                (
                    secrets.serial,
                    bundle,
                    secrets.offer_deletion,
                    self._seal(_BUNDLES, str(secrets.serial).encode(), secrets.encode()),
                ),
            )
            _note(database, _SERIAL, str(max(secrets.serial, self.highest_serial())))
            database.execute(
                "INSERT OR IGNORE INTO mail_keys VALUES (?, ?, ?)",
                (mail.public, secrets.mail_deletion, self._seal(_MAIL, mail.public, mail.secret_bytes)),
            )
        self._purge(unix)

    def highest_serial(self) -> int:
        """Returns the serial of the newest bundle ever stored, 0 before the first; it outlives the bundle."""
        return int(self.fact(_SERIAL) or 0)

    def fact(self, name: str) -> str | None:
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def note_fact(self, name: str, value: str) -> None:
        """Keeps something small that is no secret, such as the port that was drawn."""
        if self.fact(name) != value:
            _note(self._database, name, value)

    def _store(self, database: sqlite3.Connection, record: PeerRecord) -> None:
        sealed = self._seal(_PEERS, record.name.encode(), encode_record(record))
        database.execute("INSERT OR REPLACE INTO peers VALUES (?, ?, ?)", (record.name, not record.removed, sealed))

    def _purge(self, unix: float) -> None:
        with transaction(self._database) as database:
            database.execute("DELETE FROM bundles WHERE deletion <= ?", (unix,))
            database.execute("DELETE FROM mail_keys WHERE deletion <= ?", (unix,))

    def _seal(self, table: bytes, row: bytes, plain: bytes) -> bytes:
        salt = self._draw(SALT_BYTES)
        return salt + seal(Suite.CHACHA20_POLY1305, self._row_key(table, row, salt), _NONCE, plain, b"")

    def _open(self, table: bytes, row: bytes, sealed: bytes) -> bytes:
        """Raises `AuthenticationError`: altered, moved to another row, or sealed under another storage key."""
        salt, body = sealed[:SALT_BYTES], sealed[SALT_BYTES:]
        return open_(Suite.CHACHA20_POLY1305, self._row_key(table, row, salt), _NONCE, body, b"")

    def _row_key(self, table: bytes, row: bytes, salt: bytes) -> bytes:
        return blake2b_256(b"fabric/1 at rest", table, row, salt, key=self._storage_key)


def _note(database: sqlite3.Connection, name: str, value: str) -> None:
    database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
