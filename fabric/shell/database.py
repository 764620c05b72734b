"""DIR/state.db: SQLite, in WAL with every commit on stable storage before it returns."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fabric.errors import ConfigurationError
from fabric.shell.durable import PRIVATE

DATABASE_FILE = "state.db"
BUSY_S = 5.0
"""Daemon and command line write at the same time for moments only."""

_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS peers (name TEXT PRIMARY KEY, wanted INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
-- The secrets of the key bundles were here in version 1; the custodian keeps them.
DROP TABLE IF EXISTS bundles;
DROP TABLE IF EXISTS mail_keys;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS wishes (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT, verb TEXT NOT NULL, peer TEXT NOT NULL, fingerprint TEXT
) STRICT;
"""


def open_database(directory: Path) -> sqlite3.Connection:
    """Returns a connection in autocommit mode: `with connection` does not begin, `transaction` does.

    Raises `ConfigurationError` for a file that is no database of this program, `OSError` where it may not be opened.
    """
    path = directory / DATABASE_FILE
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE))
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        _prepare(connection)
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{path} can't be used: {error}") from None
    except BaseException:
        connection.close()
        raise
    return connection


class transaction:  # noqa: N801 reads as the statement that it is
    """Commits at the end of the block, or leaves everything as it was. Takes the write lock at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, _error: object, _trace: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise ConfigurationError(f"{DATABASE_FILE} is from a later version of this program: update it")
    if version < _VERSION:
        connection.executescript(f"BEGIN IMMEDIATE;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
