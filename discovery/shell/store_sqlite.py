"""DIR/discovery.db: the service's store in SQLite. Service and command line write to it side by side.

WAL with synchronous=FULL: what `change()` wrote is on stable storage when it ends, and readers in other processes
see all of it or nothing. `has_changed` tells the service that somebody else wrote.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from discovery.core.records import (
    CertificateRecord,
    EndpointRecord,
    IntentRecord,
    KeyRecord,
    OrderRecord,
    RevocationsRecord,
)
from discovery.shell import store_rows as rows
from fabric.errors import ConfigurationError, ExhaustedError

DATABASE_FILE = "discovery.db"
BUSY_S = 5.0
"""Service and command line write at the same time for moments only."""

_VERSION = 2
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE keys (
    key_id TEXT PRIMARY KEY, secret BLOB NOT NULL, created REAL NOT NULL, uses_left INTEGER, expires REAL,
    tags TEXT NOT NULL, is_ephemeral INTEGER NOT NULL, is_revoked INTEGER NOT NULL, used INTEGER NOT NULL
) STRICT;
CREATE TABLE endpoints (
    name TEXT PRIMARY KEY, public_key BLOB NOT NULL, ipv4 INTEGER NOT NULL UNIQUE, tags TEXT NOT NULL,
    is_ephemeral INTEGER NOT NULL, enrolled REAL NOT NULL, certificate BLOB NOT NULL, serial BLOB NOT NULL,
    not_after REAL NOT NULL, bundle BLOB, revoked REAL, why TEXT NOT NULL, last_seen REAL,
    sources TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE certificates (
    serial BLOB PRIMARY KEY, name TEXT NOT NULL, der BLOB NOT NULL, issued REAL NOT NULL, not_after REAL NOT NULL,
    request_digest BLOB NOT NULL, predecessor BLOB UNIQUE, key_id TEXT NOT NULL, revoked REAL,
    source TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX certificates_by_name ON certificates (name);
CREATE INDEX certificates_by_end ON certificates (not_after);
CREATE INDEX certificates_revoked ON certificates (not_after) WHERE revoked IS NOT NULL;
CREATE TABLE intents (
    sender TEXT NOT NULL, recipient TEXT NOT NULL, created REAL NOT NULL, not_before REAL NOT NULL,
    expires REAL NOT NULL, intent BLOB NOT NULL, was_introduced INTEGER NOT NULL, PRIMARY KEY (sender, recipient)
) STRICT, WITHOUT ROWID;
CREATE INDEX intents_by_recipient ON intents (recipient);
CREATE INDEX intents_by_end ON intents (expires);
CREATE TABLE revocations (
    only INTEGER PRIMARY KEY CHECK (only = 1), number INTEGER NOT NULL, issued REAL NOT NULL, der BLOB NOT NULL,
    serials BLOB NOT NULL
) STRICT;
"""
_ORDERS = """
CREATE TABLE orders (
    serial BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, public_key BLOB NOT NULL, ipv4 INTEGER NOT NULL UNIQUE,
    tags TEXT NOT NULL, is_ephemeral INTEGER NOT NULL, request BLOB NOT NULL, predecessor BLOB, key_id TEXT NOT NULL,
    source TEXT NOT NULL, created REAL NOT NULL, life_s REAL NOT NULL, fault TEXT NOT NULL
) STRICT;
"""
_SINCE_1 = """
ALTER TABLE endpoints ADD COLUMN sources TEXT NOT NULL DEFAULT '';
ALTER TABLE certificates ADD COLUMN source TEXT NOT NULL DEFAULT '';
"""

_TRANSACTION = ("BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",))
_PART = ("SAVEPOINT part", "RELEASE part", ("ROLLBACK TO part", "RELEASE part"))


class SqliteStore:
    """`discovery.core.store.Store`, and the few facts that `discoveryd init` settled."""

    def __init__(self, directory: Path) -> None:
        """Raises `ConfigurationError` for a file that is no database of this program, `OSError` where it may not be
        opened."""
        path = directory / DATABASE_FILE
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        self._depth = 0
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._connection.close()
            raise ConfigurationError(f"{path} can't be used: {error}") from None
        except BaseException:
            self._connection.close()
            raise
        self._seen_version = self._version()

    def close(self) -> None:
        self._connection.close()

    def has_changed(self) -> bool:
        """Returns whether another connection has committed anything since this was last asked; a few microseconds."""
        version = self._version()
        is_new, self._seen_version = version != self._seen_version, version
        return is_new

    @contextmanager
    def change(self) -> Iterator[None]:
        """One transaction, that takes the write lock at once; inside of another, a part of it that can fail alone."""
        begin, commit, rollback = _TRANSACTION if self._depth == 0 else _PART
        self._connection.execute(begin)
        self._depth += 1
        try:
            yield
        except BaseException:
            for statement in rollback:
                self._connection.execute(statement)
            raise
        else:
            self._connection.execute(commit)
        finally:
            self._depth -= 1

    def fact(self, name: str) -> str | None:
        row = self._one("SELECT value FROM facts WHERE name = ?", name)
        return None if row is None else str(row[0])

    def put_fact(self, name: str, value: str) -> None:
        self._write("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)

    # enrolment keys

    def key(self, key_id: str) -> KeyRecord | None:
        row = self._one("SELECT * FROM keys WHERE key_id = ?", key_id)
        return None if row is None else rows.key(row)

    def keys(self) -> list[KeyRecord]:
        return [rows.key(row) for row in self._all("SELECT * FROM keys ORDER BY created, key_id")]

    def put_key(self, record: KeyRecord) -> None:
        self._write(
            "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            record.key_id,
            record.secret,
            record.created,
            record.uses_left,
            record.expires,
            " ".join(record.tags),
            record.is_ephemeral,
            record.is_revoked,
            record.used,
        )

    # endpoints

    def endpoint(self, name: str) -> EndpointRecord | None:
        row = self._one("SELECT * FROM endpoints WHERE name = ?", name)
        return None if row is None else rows.endpoint(row)

    def endpoints(self) -> list[EndpointRecord]:
        return [rows.endpoint(row) for row in self._all("SELECT * FROM endpoints ORDER BY name")]

    def put_endpoint(self, record: EndpointRecord) -> None:
        try:
            self._write(
                "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET"
                " public_key = excluded.public_key, ipv4 = excluded.ipv4, tags = excluded.tags,"
                " is_ephemeral = excluded.is_ephemeral, enrolled = excluded.enrolled,"
                " certificate = excluded.certificate, serial = excluded.serial, not_after = excluded.not_after,"
                " bundle = excluded.bundle, revoked = excluded.revoked, why = excluded.why,"
                " last_seen = excluded.last_seen, sources = excluded.sources",
                record.name,
                record.public_key,
                int(record.ipv4),
                " ".join(record.tags),
                record.is_ephemeral,
                record.enrolled,
                record.certificate,
                rows.packed(record.serial),
                record.not_after,
                record.bundle,
                record.revoked,
                record.why,
                record.last_seen,
                " ".join(record.sources),
            )
        except sqlite3.IntegrityError:
            raise ExhaustedError(f"The address {record.ipv4} was given to another at this moment") from None

    def delete_endpoint(self, name: str) -> None:
        self._write("DELETE FROM endpoints WHERE name = ?", name)
        self._write("DELETE FROM intents WHERE sender = ?", name)

    def is_taken(self, ipv4: int) -> bool:
        query = "SELECT 1 FROM endpoints WHERE ipv4 = ? UNION ALL SELECT 1 FROM orders WHERE ipv4 = ?"
        return self._one(query, ipv4, ipv4) is not None

    def highest_ipv4(self) -> int | None:
        found = (self._one(f"SELECT max(ipv4) FROM {table}") for table in ("endpoints", "orders"))  # noqa: S608
        return max((int(row[0]) for row in found if row is not None and row[0] is not None), default=None)

    # certificates

    def certificate(self, serial: int) -> CertificateRecord | None:
        if serial.bit_length() > 8 * rows.SERIAL_BYTES:
            return None
        row = self._one("SELECT * FROM certificates WHERE serial = ?", rows.packed(serial))
        return None if row is None else rows.certificate(row)

    def successor(self, serial: int) -> CertificateRecord | None:
        row = self._one("SELECT * FROM certificates WHERE predecessor = ?", rows.packed(serial))
        return None if row is None else rows.certificate(row)

    def certificates_of(self, name: str) -> list[CertificateRecord]:
        return [rows.certificate(row) for row in self._all("SELECT * FROM certificates WHERE name = ?", name)]

    def revoked_certificates(self, unix: float) -> list[CertificateRecord]:
        query = "SELECT * FROM certificates WHERE revoked IS NOT NULL AND not_after > ?"
        return [rows.certificate(row) for row in self._all(query, unix)]

    def put_certificate(self, record: CertificateRecord) -> None:
        self._write(
            "INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (serial) DO UPDATE SET revoked = excluded.revoked",
            rows.packed(record.serial),
            record.name,
            record.der,
            record.issued,
            record.not_after,
            record.request_digest,
            None if record.predecessor is None else rows.packed(record.predecessor),
            record.key_id,
            record.revoked,
            record.source,
        )

    def delete_certificates(self, ended_before: float) -> None:
        self._write("DELETE FROM certificates WHERE not_after < ?", ended_before)

    # what waits for the authority

    def order(self, serial: int) -> OrderRecord | None:
        row = self._one("SELECT * FROM orders WHERE serial = ?", rows.packed(serial))
        return None if row is None else rows.order(row)

    def order_of(self, name: str) -> OrderRecord | None:
        row = self._one("SELECT * FROM orders WHERE name = ?", name)
        return None if row is None else rows.order(row)

    def orders(self) -> list[OrderRecord]:
        return [rows.order(row) for row in self._all("SELECT * FROM orders ORDER BY created, serial")]

    def count_enrolments(self, key_id: str | None) -> int:
        query = "SELECT count(*) FROM orders WHERE key_id != '' AND (? IS NULL OR key_id = ?)"
        row = self._one(query, key_id, key_id)
        return 0 if row is None else int(row[0])

    def put_order(self, record: OrderRecord) -> None:
        self._write(
            "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows.packed(record.serial),
            record.name,
            record.public_key,
            int(record.ipv4),
            " ".join(record.tags),
            record.is_ephemeral,
            record.request,
            None if record.predecessor is None else rows.packed(record.predecessor),
            record.key_id,
            record.source,
            record.created,
            record.life_s,
            record.fault,
        )

    def delete_order(self, serial: int) -> None:
        self._write("DELETE FROM orders WHERE serial = ?", rows.packed(serial))

    # intents

    def intent(self, sender: str, recipient: str) -> IntentRecord | None:
        row = self._one("SELECT * FROM intents WHERE sender = ? AND recipient = ?", sender, recipient)
        return None if row is None else rows.intent(row)

    def intents_from(self, sender: str) -> list[IntentRecord]:
        return [rows.intent(row) for row in self._all("SELECT * FROM intents WHERE sender = ?", sender)]

    def intents_towards(self, recipient: str) -> list[IntentRecord]:
        return [rows.intent(row) for row in self._all("SELECT * FROM intents WHERE recipient = ?", recipient)]

    def count_intents(self, sender: str) -> int:
        row = self._one("SELECT count(*) FROM intents WHERE sender = ?", sender)
        return 0 if row is None else int(row[0])

    def expired_intents(self, unix: float) -> list[IntentRecord]:
        return [rows.intent(row) for row in self._all("SELECT * FROM intents WHERE expires <= ?", unix)]

    def put_intent(self, record: IntentRecord) -> None:
        self._write(
            "INSERT OR REPLACE INTO intents VALUES (?, ?, ?, ?, ?, ?, ?)",
            record.sender,
            record.recipient,
            record.created,
            record.not_before,
            record.expires,
            record.intent,
            record.was_introduced,
        )

    def delete_intent(self, sender: str, recipient: str) -> None:
        self._write("DELETE FROM intents WHERE sender = ? AND recipient = ?", sender, recipient)

    # revocations

    def revocations(self) -> RevocationsRecord | None:
        row = self._one("SELECT number, issued, der, serials FROM revocations")
        if row is None:
            return None
        number, issued, der, packed = row
        serials = (packed[at : at + rows.SERIAL_BYTES] for at in range(0, len(packed), rows.SERIAL_BYTES))
        return RevocationsRecord(number, issued, der, frozenset(int.from_bytes(serial) for serial in serials))

    def put_revocations(self, record: RevocationsRecord) -> None:
        serials = b"".join(rows.packed(serial) for serial in sorted(record.serials))
        self._write(
            "INSERT OR REPLACE INTO revocations VALUES (1, ?, ?, ?, ?)",
            record.number,
            record.issued,
            record.der,
            serials,
        )

    # SQL

    def _one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return row

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    def _write(self, statement: str, *values: object) -> None:
        self._connection.execute(statement, values)

    def _version(self) -> int:
        row = self._one("PRAGMA data_version")
        assert row is not None  # noqa: S101 - SQLite's promise
        return int(row[0])

    def _prepare(self) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        if self._schema_version() < _VERSION:
            with self.change():
                # Read again: nobody else was faster, perhaps.
                for statement in {0: _SCHEMA + _ORDERS, 1: _SINCE_1 + _ORDERS}.get(self._schema_version(), "").split(
                    ";"
                ):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {max(_VERSION, self._schema_version())}")
        if self._schema_version() > _VERSION:
            raise ConfigurationError(f"{DATABASE_FILE} is from a later version of this program: update it")

    def _schema_version(self) -> int:
        row = self._one("PRAGMA user_version")
        return 0 if row is None else int(row[0])
