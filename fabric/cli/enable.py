"""`fabric enable PEER`."""

from __future__ import annotations

from fabric.cli.wish import express
from fabric.cli.words import STATE, Json, Peer, State, verb
from fabric.shell.control_wire import AskEnable


@verb
def enable(peer: Peer, state: State = STATE, json: Json = False) -> None:
    """Take up again a peer that was disabled."""
    express(AskEnable(peer), state, said="enabled", json=json)
