"""What the keystore has confirmed is there after any crash; what is secret in it is not readable."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from fabric.core.records import PeerRecord
from fabric.errors import ConfigurationError
from fabric.shell.database import DATABASE_FILE
from fabric.shell.keystore import Keystore

KEY = bytes(range(32))
SHARE = b"the gate share of 32 bytes here!"


def keystore(directory: Path, key: bytes = KEY) -> Keystore:
    return Keystore(directory, key, os.urandom)


def record(name: str, **fields: object) -> PeerRecord:
    return PeerRecord(name=name, gate_index=7, gate_share=SHARE, **fields)  # type: ignore[arg-type]


def test_records_come_back_as_they_were_stored(tmp_path: Path) -> None:
    with keystore(tmp_path) as store:
        store.change_records([record("a.home"), record("b.home"), record("a.home", enabled=False), "b.home"])
    with keystore(tmp_path) as store:
        assert store.load_records() == ([record("a.home", enabled=False)], [])


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    with keystore(tmp_path) as store:
        store.change_records([record("a.home")])
        with pytest.raises(AttributeError):
            store.change_records(["a.home", None])  # type: ignore[list-item]
        assert store.load_records() == ([record("a.home")], [])


def test_no_secret_lies_in_the_files(tmp_path: Path) -> None:
    with keystore(tmp_path) as store:
        store.change_records([record("a.home")])
        content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SHARE not in content
    assert (tmp_path / DATABASE_FILE).stat().st_mode & 0o777 == 0o600


def test_records_of_another_identity_are_named_and_left_alone(tmp_path: Path) -> None:
    with keystore(tmp_path) as store:
        store.change_records([record("a.home")])
    with keystore(tmp_path, bytes(32)) as store:
        assert store.load_records() == ([], ["a.home"])
    with keystore(tmp_path) as store:
        assert store.load_records() == ([record("a.home")], [])


def test_a_sealed_record_can_not_stand_in_for_another_peers(tmp_path: Path) -> None:
    with keystore(tmp_path) as store:
        store.change_records([record("a.home"), record("b.home")])
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as database, database:
        database.execute("UPDATE peers SET sealed = (SELECT sealed FROM peers WHERE name = 'a.home')")
    with keystore(tmp_path) as store:
        assert store.load_records() == ([record("a.home")], ["b.home"])


def test_the_highest_serial_of_a_bundle_never_goes_down(tmp_path: Path) -> None:
    with keystore(tmp_path) as store:
        assert store.highest_serial() == 0
        store.note_serial(7)
        store.note_serial(5)
    with keystore(tmp_path) as store:
        assert store.highest_serial() == 7


def test_bundle_secrets_of_an_earlier_version_are_gone_from_the_file(tmp_path: Path) -> None:
    secret = os.urandom(64)
    keystore(tmp_path).__exit__()
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as database, database:
        database.execute("CREATE TABLE bundles (serial INTEGER, bundle BLOB, deletion REAL, sealed BLOB)")
        database.execute("INSERT INTO bundles VALUES (1, ?, 1.0, ?)", (secret, secret))
        database.execute("INSERT OR REPLACE INTO facts VALUES ('bundle_serial', '1')")
        database.execute("PRAGMA user_version = 1")
    assert secret in b"".join(path.read_bytes() for path in tmp_path.iterdir())
    with keystore(tmp_path) as store:
        assert store.highest_serial() == 1
        assert secret not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_facts_are_kept(tmp_path: Path) -> None:
    with keystore(tmp_path) as store:
        assert store.fact("port") is None
        store.note_fact("port", "4711")
    with keystore(tmp_path) as store:
        assert store.fact("port") == "4711"


def test_a_file_that_is_no_database_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"this is not a database" * 100)
    with pytest.raises(ConfigurationError, match="can't be used"):
        keystore(tmp_path)


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    keystore(tmp_path).__exit__()
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigurationError, match="later version"):
        keystore(tmp_path)


WRITER = """
import os, sys
from pathlib import Path
from fabric.core.records import PeerRecord
from fabric.shell.keystore import Keystore
with Keystore(Path(sys.argv[1]), bytes(range(32)), os.urandom) as store:
    for number in range(1_000_000):
        store.change_records([PeerRecord(name=f"{letter}.home", offered_ms=number) for letter in "ab"])
        os.write(1, b"%d\\n" % number)
"""


@pytest.mark.parametrize("acknowledged", [1, 17])
def test_what_was_confirmed_before_kill_9_is_there_after_it(tmp_path: Path, acknowledged: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for _ in range(acknowledged):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
    with keystore(tmp_path) as store:
        records, unreadable = store.load_records()
    assert not unreadable
    assert len({each.offered_ms for each in records}) == 1, "both rows of one change, or none"
    assert records[0].offered_ms in (last, last + 1)
