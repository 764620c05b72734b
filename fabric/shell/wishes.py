"""Wishes of a person for whom no daemon is there: kept in DIR/state.db until one starts and takes them."""

from __future__ import annotations

import enum
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from fabric.identity.fingerprint import parse_fingerprint
from fabric.identity.name import parse_name
from fabric.shell.database import open_database, transaction
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.papers import load_papers


class Verb(enum.Enum):
    ADD = "add"
    REMOVE = "remove"
    ENABLE = "enable"
    DISABLE = "disable"
    RESET = "reset"
    RESET_KEY = "reset-new-key"


@dataclass(frozen=True, slots=True)
class Wish:
    """`peer` is a full name; `fingerprint` only goes with `ADD`."""

    verb: Verb
    peer: str
    fingerprint: str | None = None


def make_wish(directory: Path, verb: Verb, peer: str, fingerprint: str | None = None) -> Wish:
    """Stores a wish and returns it with the peer's full name; on return it is on stable storage.

    Raises `ConfigurationError` where the directory is not enrolled, `DecodeError` for a name or a fingerprint that is
    none, `CommandError` (NO_SUCH_THING) for a peer that only `ADD` may name first, and for the endpoint's own name.
    """
    papers = load_papers(directory)
    pinned = None if fingerprint is None else parse_fingerprint(fingerprint)
    wish = Wish(verb, parse_name(peer, papers.network_name), pinned)
    if wish.peer == papers.certificate.name:
        raise CommandError(ExitCode.WRONG_USAGE, f"{wish.peer} is this endpoint itself: name a peer")
    database = open_database(directory)
    try:
        with transaction(database):
            if not _is_known(database, wish):
                raise CommandError(ExitCode.NO_SUCH_THING, f"there is no peer {wish.peer}: `fabric add` it first")
            database.execute(
                "INSERT INTO wishes (verb, peer, fingerprint) VALUES (?, ?, ?)",
                (wish.verb.value, wish.peer, wish.fingerprint),
            )
    finally:
        database.close()
    return wish


class WishStore:
    """The daemon's side: take the oldest, act, then `drop` it, so that a crash between repeats it and loses none."""

    def __init__(self, directory: Path) -> None:
        self._database = open_database(directory)

    def __enter__(self) -> WishStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def waiting(self) -> list[tuple[int, Wish]]:
        """Returns all wishes with their ordinals, the oldest first."""
        rows = self._database.execute("SELECT ordinal, verb, peer, fingerprint FROM wishes ORDER BY ordinal")
        return [(ordinal, Wish(Verb(verb), peer, fingerprint)) for ordinal, verb, peer, fingerprint in rows]

    def drop(self, ordinal: int) -> None:
        """Drops this wish and the ones before it."""
        self._database.execute("DELETE FROM wishes WHERE ordinal <= ?", (ordinal,))


def _is_known(database: sqlite3.Connection, wish: Wish) -> bool:
    """Returns whether there is somebody to do this with; a peer that was removed is still remembered by its key."""
    if wish.verb is Verb.ADD or _is_wanted(database, wish.peer):
        return True
    is_reset = wish.verb in (Verb.RESET, Verb.RESET_KEY)
    return is_reset and database.execute("SELECT 1 FROM peers WHERE name = ?", (wish.peer,)).fetchone() is not None


def _is_wanted(database: sqlite3.Connection, peer: str) -> bool:
    """Returns whether the peer will be known once the wishes that wait are fulfilled."""
    is_wanted = database.execute("SELECT 1 FROM peers WHERE name = ? AND wanted", (peer,)).fetchone() is not None
    for (verb,) in database.execute("SELECT verb FROM wishes WHERE peer = ? ORDER BY ordinal", (peer,)):
        if Verb(verb) in (Verb.ADD, Verb.REMOVE):
            is_wanted = Verb(verb) is Verb.ADD
    return is_wanted
