"""`discoveryd`: sets a service up, runs it, and hands out and takes back what lets hosts in.

Everything but `run` and `relay` works on the store directly, whether the service runs or not; a running service sees
the change within a tenth of a second and acts on it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from discovery.cli import endpoint, key
from discovery.cli.options import RelayStateOption, StateOption, parse_duration, parse_overlay
from discovery.core.settings import DEFAULT_OVERLAY
from discovery.shell import daemon, relay_daemon
from discovery.shell.config import (
    DEFAULT_RELAY_STATE,
    DEFAULT_STATE,
    DEFAULT_TLS_PORT,
    split_address,
)
from discovery.shell.relay_state import invite
from discovery.shell.state import create_state, open_state
from fabric.shell.durable import write_durably
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


@app.command("relay-invite")
def relay_invite(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; - prints it.")],
    address: Annotated[
        list[str], typer.Option(help="Name or IP address under which endpoints reach the relay. Several times.")
    ],
    life: Annotated[str, typer.Option(help="How long its certificate is good for.")] = "365d",
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Make relay.pem, the one file that a host needs to run `discoveryd relay`. It has a key in it: keep it secret."""
    hosts = [split_address(text, DEFAULT_TLS_PORT)[0] for text in address]
    with open_state(state) as opened:
        content = invite(opened.authority, hosts, parse_duration(life), time.time())
    if str(file) == "-":
        print(content.decode(), end="")
    else:
        write_durably(file, content)


@app.command()
def relay(
    state: RelayStateOption = DEFAULT_RELAY_STATE,
    port: Annotated[int | None, typer.Option(help="TCP port, instead of the configured one.")] = None,
    stun_port: Annotated[int | None, typer.Option(help="UDP port, of relay and STUN.")] = None,
    listen: Annotated[list[str] | None, typer.Option(help="IP address to listen on. Several times.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Relay alone, beside the service or elsewhere, in the foreground, until SIGTERM."""
    options = {"port": port, "stun_port": stun_port, "listen": listen or None, "log_level": log_level}
    relay_daemon.run(state, os.environ, options)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code, as contract.md has them."""
    return run_program(app, PROGRAM, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
