"""`discoveryd`: sets a service up, runs it, and hands out and takes back what lets hosts in.

Everything but `run`, `relay` and `sign` works on the store directly, whether the service runs or not (`authority` wants
it stopped); a running service sees the change within a tenth of a second and acts on it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from discovery.cli import authority, endpoint, key, requests
from discovery.cli.options import RelayStateOption, StateOption, parse_duration, parse_overlay
from discovery.core.settings import DEFAULT_OVERLAY
from discovery.shell import daemon, relay_daemon
from discovery.shell.authority_file import open_authority
from discovery.shell.config import (
    DEFAULT_RELAY_STATE,
    DEFAULT_STATE,
    DEFAULT_TLS_PORT,
    load_config,
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
app.add_typer(authority.app, name="authority")
app.add_typer(requests.app, name="requests")
app.command("sign")(authority.sign_)


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
    authority_offline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put the authority's key into FILE at once: `discoveryd authority detach`."),
    ] = None,
    passphrase_file: authority.PassphraseFile = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Make a new network: its authority, its store, and a configuration to fill in."""
    create_state(state, network, address, parse_overlay(overlay), os.environ)
    if authority_offline is not None:
        authority.detach_(authority_offline, passphrase_file, state)


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
    authority_file: Annotated[
        Path | None, typer.Option("--authority", help="The key's file, where it is kept apart from the service.")
    ] = None,
    passphrase_file: authority.PassphraseFile = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Make relay.pem, the one file that a host needs to run `discoveryd relay`. It has a key in it: keep it secret."""
    hosts = [split_address(text, DEFAULT_TLS_PORT)[0] for text in address]
    if authority_file is not None:
        signer = open_authority(authority_file, authority.read_passphrase(passphrase_file))
    else:
        with open_state(state, os.environ) as opened:
            signer = opened.authority(load_config(state, os.environ))
    content = invite(signer, hosts, parse_duration(life), time.time())
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
