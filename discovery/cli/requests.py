"""`discoveryd requests`: what waits for an authority whose key is kept elsewhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from discovery.cli.options import JsonOption, StateOption, when
from discovery.core.authority import drop_order
from discovery.core.enrolment import order_id
from discovery.core.orders import Requests
from discovery.core.records import OrderRecord
from discovery.shell.carrying import bring_answers, export_requests, what_waits
from discovery.shell.config import DEFAULT_STATE, load_config
from discovery.shell.state import open_state
from fabric.errors import AuthenticationError, DecodeError
from fabric.shell.durable import write_durably
from fabric.shell.exit_code import CommandError, ExitCode

app = typer.Typer(help="What waits for a signature of the authority, while its key is kept elsewhere.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="Where it is; - for standard output, or input.")]


@app.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: JsonOption = False, state: StateOption = DEFAULT_STATE) -> None:
    """Show what waits for a person who signs it."""
    if context.invoked_subcommand is not None:
        return
    with open_state(state, os.environ) as opened:
        waiting = what_waits(opened, load_config(state, os.environ), time.time())
        orders = opened.store.orders()
    rows = [*_orders(orders), *_others(waiting)]
    if as_json:
        print(json.dumps({"requests": rows}))
        return
    titles = ("id", "kind", "name", "address", "tags", "asked from", "since", "state")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for row in rows:
        since = "" if row["created"] is None else when(float(str(row["created"])))
        cells = (row["id"], row["kind"], row["name"], row["address"], row["tags"], row["source"], since, row["state"])
        table.add_row(*(" ".join(cell) if isinstance(cell, tuple) else str(cell) for cell in cells))
    Console().print(table)


@app.command()
def export(file: File, state: StateOption = DEFAULT_STATE) -> None:
    """Write all of it into FILE, to be carried to where `discoveryd sign` finds the key. It holds no secret."""
    with open_state(state, os.environ) as opened:
        requests, content = export_requests(opened, load_config(state, os.environ), time.time())
    if not len(requests):
        raise CommandError(ExitCode.NOT_SO, "nothing waits for the authority: no file was written")
    if str(file) == "-":
        sys.stdout.buffer.write(content)
        return
    write_durably(file, content)
    print(f"{len(requests)} to be signed")


@app.command("import")
def import_(file: File, state: StateOption = DEFAULT_STATE) -> None:
    """Take what `discoveryd sign` wrote: each answer is proven before it is used, and who waits gets it at once."""
    with open_state(state, os.environ) as opened:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        try:
            brought = bring_answers(opened, load_config(state, os.environ), content, time.time())
        except (DecodeError, AuthenticationError) as error:
            raise CommandError(ExitCode.NOT_SO, f"{file} can't be used: {error}") from None
    for name in brought.taken.issued:
        print(f"certificate for {name}")
    for name in brought.taken.refused:
        print(f"refused: {name}")
    if brought.taken.is_list_new:
        print("revocation list")
    if brought.is_service_new:
        print("certificate of the service")
    if brought.faults:
        raise CommandError(ExitCode.NOT_SO, "; ".join(brought.faults))


@app.command()
def drop(number: Annotated[str, typer.Argument(metavar="ID")], state: StateOption = DEFAULT_STATE) -> None:
    """Forget a request: who made it may make another."""
    with open_state(state) as opened, opened.store.change():
        found = [order for order in opened.store.orders() if order_id(order) == number]
        if not found:
            raise CommandError(ExitCode.NO_SUCH_THING, f'no request "{number}" waits: see `discoveryd requests`')
        drop_order(opened.store, found[0])


def _orders(orders: list[OrderRecord]) -> Iterator[dict[str, object]]:
    for order in orders:
        yield {
            "id": order_id(order),
            "kind": "enrolment" if order.key_id else "renewal",
            "name": order.name,
            "address": str(order.ipv4),
            "tags": order.tags,
            "source": order.source,
            "created": order.created,
            "state": f"refused: {order.fault}" if order.fault else "waiting",
        }


def _others(waiting: Requests) -> Iterator[dict[str, object]]:
    blank: dict[str, object] = {"id": "", "address": "", "tags": (), "source": "", "created": None, "state": "waiting"}
    if waiting.service is not None:
        yield {**blank, "kind": "service", "name": " ".join(waiting.service.hosts)}
    if waiting.revocations is not None:
        names = dict.fromkeys(name for _, _, name in waiting.revocations.entries if name)
        yield {**blank, "kind": "revocations", "name": " ".join(names)}
