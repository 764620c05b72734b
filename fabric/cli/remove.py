"""`fabric remove PEER`."""

from __future__ import annotations

from fabric.cli.wish import express
from fabric.cli.words import STATE, Json, Peer, State, verb
from fabric.shell.control_wire import AskRemove


@verb
def remove(peer: Peer, state: State = STATE, json: Json = False) -> None:
    """Take back the wish to meet PEER: the session ends at once on both sides."""
    express(AskRemove(peer), state, said="forgot", json=json)
