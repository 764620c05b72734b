"""`discoveryd key`: enrolment keys."""

from __future__ import annotations

import base64
import json
import os
import time
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from discovery.cli.options import JsonOption, StateOption, parse_duration, when
from discovery.core.records import KeyRecord
from discovery.shell.config import DEFAULT_STATE, join_address, load_config
from discovery.shell.state import open_state
from fabric.errors import DecodeError
from fabric.identity.certificate import check_tags
from fabric.identity.enrolment_key import SECRET_BYTES, EnrolmentKey
from fabric.shell.exit_code import CommandError, ExitCode

app = typer.Typer(help="Enrolment keys: what lets a host in.")

ID_BYTES = 5
"""Eight characters to type in `key revoke`."""


@app.command()
def create(
    uses: Annotated[int | None, typer.Option(min=1, help="How many hosts it enrols; without it, any number.")] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is good for, e.g. 24h; without it, for ever.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag that its hosts get. Several times.")] = None,
    ephemeral: Annotated[bool, typer.Option("--ephemeral", help="Its hosts are forgotten when they are gone.")] = False,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Print a new key: one line, to paste into `fabric enrol`."""
    unix = time.time()
    record = KeyRecord(
        key_id=base64.b32encode(os.urandom(ID_BYTES)).decode().lower(),
        secret=os.urandom(SECRET_BYTES),
        created=unix,
        uses_left=uses,
        expires=None if expires is None else unix + parse_duration(expires),
        tags=_tags(tag),
        is_ephemeral=ephemeral,
    )
    with open_state(state) as opened:
        addresses = opened.addresses(load_config(state, os.environ))
        line = EnrolmentKey(
            tuple(join_address(host, port) for host, port in addresses),
            opened.root.fingerprint,
            record.key_id,
            record.secret,
        ).encode()
        opened.store.put_key(record)
    print(line)


@app.command("list")
def list_(as_json: JsonOption = False, state: StateOption = DEFAULT_STATE) -> None:
    """Show all keys; what they open is not shown."""
    with open_state(state) as opened:
        keys = opened.store.keys()
    if as_json:
        print(json.dumps({"keys": [_as_json(key) for key in keys]}))
        return
    table = Table("id", "state", "uses", "expires", "tags", "kind")
    for key in keys:
        table.add_row(
            key.key_id,
            key.fault(time.time()) or "good",
            f"{key.used} of {key.used + key.uses_left}" if key.uses_left is not None else str(key.used),
            "never" if key.expires is None else when(key.expires),
            " ".join(key.tags),
            "ephemeral" if key.is_ephemeral else "",
        )
    Console().print(table)


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID")], state: StateOption = DEFAULT_STATE) -> None:
    """Take a key back: nobody enrols with it any more. Hosts that have stay in."""
    with open_state(state) as opened, opened.store.change():
        record = opened.store.key(key_id)
        if record is None:
            raise CommandError(ExitCode.NO_SUCH_THING, f'there is no key "{key_id}": see `discoveryd key list`')
        opened.store.put_key(replace(record, is_revoked=True))


def _tags(words: list[str] | None) -> tuple[str, ...]:
    tags = tuple(words or ())
    try:
        check_tags(tags)
    except DecodeError as error:
        raise CommandError(ExitCode.WRONG_USAGE, str(error)) from None
    return tags


def _as_json(key: KeyRecord) -> dict[str, object]:
    return {
        "id": key.key_id,
        "state": key.fault(time.time()) or "good",
        "used": key.used,
        "uses_left": key.uses_left,
        "created": key.created,
        "expires": key.expires,
        "tags": key.tags,
        "ephemeral": key.is_ephemeral,
    }
