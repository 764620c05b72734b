"""`fabric trust list` and `fabric trust reset PEER [--new-key]`."""

from __future__ import annotations

from typing import Annotated

import typer

from fabric.cli.wish import express
from fabric.cli.words import STATE, Json, Peer, State, ask, connect, print_json, unexpected, verb
from fabric.shell.control_wire import AskReset, AskTrust, Trusts

NewKey = Annotated[
    bool, typer.Option("--new-key", help="Forget the pinned key too: it was lost or stolen, and PEER has a new one.")
]

trust = typer.Typer(
    help="Who peers are known to be, and the state that is shared with each; take it back after an alarm.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@trust.command("list")
@verb
def list_all(state: State = STATE, json: Json = False) -> None:
    """Show every peer's key, safety number and alarm, also of peers that were removed."""
    with connect(state) as client:
        answer = ask(client, AskTrust())
    if not isinstance(answer, Trusts):
        unexpected(answer)
    if json:
        print_json({"peers": answer.peers})
        return
    from rich.console import Console

    from fabric.cli.trust_view import trust_view

    Console(highlight=False, markup=False, emoji=False).print(trust_view(answer.peers))


@trust.command("reset")
@verb
def reset(peer: Peer, new_key: NewKey = False, state: State = STATE, json: Json = False) -> None:
    """Begin anew with PEER, after one of the two was restored, cloned, or (with --new-key) lost its key."""
    said = "forgot the key of, and the state shared with," if new_key else "forgot the state shared with"
    name = express(AskReset(peer, new_key), state, said=said, json=json)
    if not json:
        print(_what_it_means(name, new_key=new_key))


def _what_it_means(name: str, *, new_key: bool) -> str:
    there = f"Run `fabric trust reset` for this endpoint on {name} as well: the two meet again once both have."
    if new_key:
        return (
            f"The next key that the authority vouches for under the name {name} is taken for its own: compare the "
            f"safety numbers, or pin it with `fabric add {name} --fingerprint F`. {there}"
        )
    return f"Its key stays pinned: nobody else can take its place. {there}"
