"""`fabric wait PEER [--path direct|any] [--timeout SECONDS]`."""

from __future__ import annotations

import enum
import time
from pathlib import Path as FilePath
from typing import Annotated

import typer

from fabric.cli.words import STATE, Json, Peer, State, ask, connect, print_json, unexpected, verb
from fabric.shell.control_client import ControlClient, NoDaemonError
from fabric.shell.control_wire import AskWait, Connected

REPLY_MARGIN_S = 5.0
RETRY_S = 0.1


class Path(enum.StrEnum):
    """`direct` is any path without a relay, the LAN included."""

    DIRECT = "direct"
    ANY = "any"


Over = Annotated[Path, typer.Option("--path", help="Which paths count.", envvar="FABRIC_WAIT_PATH")]
Timeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", min=0, help="How long to wait.", envvar="FABRIC_WAIT_TIMEOUT")
]


@verb
def wait(peer: Peer, path: Over = Path.ANY, timeout: Timeout = 60.0, state: State = STATE, json: Json = False) -> None:
    """Wait until PEER is connected: exit code 0 then, 1 when it takes too long."""
    deadline = time.monotonic() + timeout
    with _connect(state, deadline) as client:
        left_s = max(0.0, deadline - time.monotonic())
        question = AskWait(peer, "direct" if path is Path.DIRECT else "any", left_s)
        answer = ask(client, question, left_s + REPLY_MARGIN_S)
    if not isinstance(answer, Connected):
        unexpected(answer)
    if json:
        print_json({"peer": answer.peer, "path": answer.path})
    else:
        print(f"{answer.peer} is connected" + (f": {answer.path.kind} {answer.path.remote}" if answer.path else ""))


def _connect(state: FilePath, deadline: float) -> ControlClient:
    """Waits for the daemon too, for it may be starting just now. Raises `NoDaemonError` when it does not come."""
    while True:
        try:
            return connect(state)
        except NoDaemonError:
            if time.monotonic() + RETRY_S > deadline:
                raise
        time.sleep(RETRY_S)
