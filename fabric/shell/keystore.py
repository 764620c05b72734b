"""Everything secret or hard-won that a daemon keeps, beside its keys: peer records, its port.

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
from fabric.shell.database import open_database, transaction

SALT_BYTES = 16
_NONCE = bytes(12)
"""Constant: every seal has a key of its own, by a new salt."""

_PEERS = b"peers"
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

    def note_serial(self, serial: int) -> None:
        """Keeps the serial of a key bundle that is to be published, unless a higher one is kept."""
        self.note_fact(_SERIAL, str(max(serial, self.highest_serial())))

    def highest_serial(self) -> int:
        """Returns the serial of the newest key bundle ever made, 0 before the first; it outlives the bundle's keys."""
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
        database.execute("INSERT OR REPLACE INTO peers VALUES (?, ?, ?)", (record.name, record.is_wanted, sealed))

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
