"""`discoveryd endpoint`: the hosts that are enrolled."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from discovery.cli.options import JsonOption, StateOption, when
from discovery.core.authority import revoke as revoke_endpoint
from discovery.core.records import EndpointRecord
from discovery.shell.config import DEFAULT_STATE
from discovery.shell.state import open_state
from fabric.errors import DecodeError
from fabric.identity.certificate import decode_certificate
from fabric.identity.fingerprint import fingerprint_of
from fabric.identity.name import parse_name
from fabric.shell.exit_code import CommandError, ExitCode

app = typer.Typer(help="Enrolled hosts.")


@app.command("list")
def list_(as_json: JsonOption = False, state: StateOption = DEFAULT_STATE) -> None:
    """Show all hosts, and until when each may take part."""
    with open_state(state) as opened:
        endpoints = opened.store.endpoints()
    if as_json:
        print(json.dumps({"endpoints": [_as_json(record) for record in endpoints]}))
        return
    columns = ("name", "state", "addresses", "certificate ends", "last seen", "tags", "fingerprint")
    table = Table(*(Column(title, overflow="fold") for title in columns))
    for record in endpoints:
        table.add_row(
            record.name,
            _state(record),
            "\n".join(_addresses(record)),
            when(record.not_after),
            "never" if record.last_seen is None else when(record.last_seen),
            " ".join(record.tags),
            fingerprint_of(record.public_key),
        )
    Console().print(table)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    why: Annotated[str, typer.Option(help="To remember the reason by.")] = "revoked by the operator",
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Put a host out: at once where the service runs, and its peers are told."""
    with open_state(state) as opened:
        try:
            full = parse_name(name, opened.root.network)
        except DecodeError as error:
            raise CommandError(ExitCode.NO_SUCH_THING, str(error)) from None
        if opened.store.endpoint(full) is None:
            raise CommandError(ExitCode.NO_SUCH_THING, f'there is no endpoint "{full}": see `discoveryd endpoint list`')
        revoke_endpoint(opened.store, full, why, time.time())


def _state(record: EndpointRecord) -> str:
    if record.revoked is not None:
        since = f"revoked {when(record.revoked)}"
        return f"{since}: {record.why}" if record.why else since
    return "expired" if record.not_after <= time.time() else "enrolled"


def _addresses(record: EndpointRecord) -> list[str]:
    return [str(address) for address in decode_certificate(record.certificate).addresses]


def _as_json(record: EndpointRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "state": "revoked" if record.revoked is not None else _state(record),
        "why": record.why,
        "revoked": record.revoked,
        "renewed_from": record.sources,
        "addresses": _addresses(record),
        "fingerprint": fingerprint_of(record.public_key),
        "certificate": {"expires": record.not_after},
        "tags": record.tags,
        "ephemeral": record.is_ephemeral,
        "enrolled": record.enrolled,
        "last_seen": record.last_seen,
    }
