"""`discoveryd`: sets a service up, runs it, and hands out and takes back what lets hosts in.

Everything but `run` works on the store directly, whether the service runs or not; a running service sees the change
within a tenth of a second and acts on it.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from discovery.cli import endpoint, key
from discovery.cli.options import StateOption, parse_overlay
from discovery.core.settings import DEFAULT_OVERLAY
from discovery.shell import daemon
from discovery.shell.config import DEFAULT_STATE
from discovery.shell.state import create_state
from fabric.shell.program import run_program

PROGRAM = "discoveryd"

app = typer.Typer(
    help="The discovery service: enrols hosts, introduces those who both wish it, and sees nothing of what they say.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(key.app, name="key")
app.add_typer(endpoint.app, name="endpoint")


@app.command()
def init(
    network: Annotated[str, typer.Option(envvar="DISCOVERY_NETWORK", help="Name of the network, e.g. home.")],
    address: Annotated[
        list[str],
        typer.Option(
            envvar="DISCOVERY_ADDRESS", help="Where hosts reach this service: HOST, IP, or with a port. Several times."
        ),
    ],
    overlay: Annotated[str, typer.Option(envvar="DISCOVERY_OVERLAY", help="IPv4 range of the virtual LAN.")] = str(
        DEFAULT_OVERLAY
    ),
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Make a new network: its authority, its store, and a configuration to fill in."""
    create_state(state, network, address, parse_overlay(overlay))


@app.command()
def run(
    state: StateOption = DEFAULT_STATE,
    port: Annotated[int | None, typer.Option(help="TCP port, instead of the configured one.")] = None,
    stun_port: Annotated[int | None, typer.Option(help="UDP port for STUN.")] = None,
    listen: Annotated[list[str] | None, typer.Option(help="IP address to listen on. Several times.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve, in the foreground, until SIGTERM."""
    options = {"port": port, "stun_port": stun_port, "listen": listen or None, "log_level": log_level}
    daemon.run(state, os.environ, options)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code, as contract.md has them."""
    return run_program(app, PROGRAM, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
