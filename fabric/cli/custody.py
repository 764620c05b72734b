"""`fabric custody move TO`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fabric.cli.words import STATE, Json, State, print_json, verb
from fabric.shell.config import load_config
from fabric.shell.custody import move_custody, socket_of_custody
from fabric.shell.owner import become_owner

To = Annotated[
    str, typer.Argument(metavar="TO", help="auto (the strongest that is there), file, systemd, tpm2 or pkcs11:URI.")
]

custody = typer.Typer(
    help="What keeps the private keys of this endpoint while they are not in use.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@custody.command("move")
@verb
def move(to: To, state: State = STATE, json: Json = False) -> None:
    """Keep the same identity in another custody. What kept it before is wiped."""
    config = load_config(state, os.environ)
    if socket_of_custody(state, config) is None:
        become_owner(state)  # else root asks the custodian, that no other user may tell this
    name = move_custody(state, config, os.environ, to)
    if json:
        print_json({"custody": name})
    else:
        print(f"the identity key is kept by {name} now")


@custody.callback()
def group() -> None:
    """A group of one command keeps its name."""
