"""What add, remove, enable and disable have in common: told to the daemon, or kept for it until it starts."""

from __future__ import annotations

from pathlib import Path

from fabric.cli.words import ask, connect, print_json, unexpected
from fabric.shell.control_client import NoDaemonError
from fabric.shell.control_wire import AskAdd, AskDisable, AskEnable, AskRemove, AskReset, AskWishes, Done
from fabric.shell.owner import become_owner

AnyWish = AskAdd | AskRemove | AskEnable | AskDisable | AskReset


def express(wish: AnyWish, state: Path, *, said: str, json: bool) -> str:
    """Has the wish fulfilled, and says so: `said` goes before the peer's name, which is returned in full.

    Raises `FabricError`.
    """
    try:
        peer, is_stored = _tell(wish, state), False
    except NoDaemonError:
        peer, is_stored = _store(wish, state)
    if json:
        print_json({"peer": peer, "stored": is_stored})
    else:
        print(f"{said} {peer}" + ("; the daemon is not running, it acts on this when it starts" if is_stored else ""))
    return peer


def _tell(wish: AnyWish, state: Path) -> str:
    with connect(state) as client:
        answer = ask(client, wish)
    if not isinstance(answer, Done) or answer.peer is None:
        unexpected(answer)
    return answer.peer


def _store(wish: AnyWish, state: Path) -> tuple[str, bool]:
    """Returns the peer's name and whether the wish still waits: a daemon that came up meanwhile is told to look."""
    from fabric.shell.wishes import Verb, make_wish

    become_owner(state)
    reset = Verb.RESET_KEY if isinstance(wish, AskReset) and wish.new_key else Verb.RESET
    verbs = {
        AskAdd: Verb.ADD,
        AskRemove: Verb.REMOVE,
        AskEnable: Verb.ENABLE,
        AskDisable: Verb.DISABLE,
        AskReset: reset,
    }
    fingerprint = wish.fingerprint if isinstance(wish, AskAdd) else None
    peer = make_wish(state, verbs[type(wish)], wish.peer, fingerprint).peer
    try:
        with connect(state) as client:
            ask(client, AskWishes())
    except NoDaemonError:
        return peer, True
    return peer, False
