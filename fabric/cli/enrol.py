"""`fabric enrol KEY [--name NAME]`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from fabric.cli.words import STATE, Json, State, print_json, verb
from fabric.shell.config import DEFAULT_STATE
from fabric.shell.owner import become_owner

Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        envvar="FABRIC_ENROLMENT_KEY",
        help="The line that `discoveryd key create` printed.",
        show_envvar=True,
    ),
]
Name = Annotated[
    str | None,
    typer.Option(metavar="NAME", envvar="FABRIC_NAME", help="What to be called; without it, the host's name."),
]


@verb
def enrol(key: Key, name: Name = None, state: State = STATE, json: Json = False) -> None:
    """Make an identity on this host and get a certificate for it. Safe to repeat."""
    from fabric.shell.enrolment import enrol as enrol_host

    become_owner(state)
    done = enrol_host(state, key, name, os.environ)
    certificate = done.certificate
    if json:
        print_json(
            {
                "name": certificate.name,
                "network": done.network,
                "addresses": [str(address) for address in certificate.addresses],
                "fingerprint": certificate.fingerprint,
                "custody": done.custody,
                "new": done.is_new,
            }
        )
        return
    print(f"{'enrolled' if done.is_new else 'already enrolled'} as {certificate.name}")
    print(f"  addresses    {', '.join(str(address) for address in certificate.addresses)}")
    print(f"  fingerprint  {certificate.fingerprint}")
    start = "systemctl enable --now fabricd" if state == DEFAULT_STATE else f"fabricd --state {state}"
    print(f"Next: start the daemon with `{start}`, then `fabric add PEER` here and there.")
