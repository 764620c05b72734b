"""`fabric rotate`."""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.words import STATE, Json, State, ask, connect, print_json, unexpected, verb
from fabric.shell.control_wire import AskRotate, Rotated

Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for the authority.")]


@verb
def rotate(timeout: Timeout = 30.0, state: State = STATE, json: Json = False) -> None:
    """Change this endpoint's identity key. Sessions go on; each peer learns of the key from the one before."""
    with connect(state) as client:
        answer = ask(client, AskRotate(timeout), timeout + 10.0)
    if not isinstance(answer, Rotated):
        unexpected(answer)
    if json:
        print_json({"fingerprint": answer.fingerprint})
    else:
        print(
            f"the identity key is new, its fingerprint {answer.fingerprint}; peers that are in session know it already"
        )
