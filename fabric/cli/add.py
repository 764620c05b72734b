"""`fabric add PEER [--fingerprint F]`."""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.wish import express
from fabric.cli.words import STATE, Json, Peer, State, verb
from fabric.shell.control_wire import AskAdd

Fingerprint = Annotated[
    str | None,
    typer.Option(metavar="F", help="Pin the peer's key before the first meeting: as its own `fabric status` shows it."),
]


@verb
def add(peer: Peer, fingerprint: Fingerprint = None, state: State = STATE, json: Json = False) -> None:
    """State the wish to meet PEER. Nothing happens until PEER states the same of this endpoint."""
    express(AskAdd(peer, fingerprint), state, said="wishing to meet", json=json)
