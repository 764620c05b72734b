"""`fabric disable PEER`."""

from __future__ import annotations

from fabric.cli.wish import express
from fabric.cli.words import STATE, Json, Peer, State, verb
from fabric.shell.control_wire import AskDisable


@verb
def disable(peer: Peer, state: State = STATE, json: Json = False) -> None:
    """End the session with PEER and keep what is known of it, until it is enabled again."""
    express(AskDisable(peer), state, said="disabled", json=json)
