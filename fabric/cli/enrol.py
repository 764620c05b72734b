"""`fabric enrol KEY [--name NAME] [--custody CUSTODY]`."""

from __future__ import annotations

import os
import sys
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
Custody = Annotated[
    str,
    typer.Option(
        metavar="CUSTODY",
        help="What is to keep the identity key: auto (the strongest that is there), file, systemd, tpm2, pkcs11:URI.",
    ),
]
Seconds = Annotated[
    float,
    typer.Option(metavar="SECONDS", min=0.0, help="How long to wait where a person has to sign first."),
]


@verb
def enrol(
    key: Key,
    name: Name = None,
    custody: Custody = "auto",
    patience: Seconds = 600.0,
    state: State = STATE,
    json: Json = False,
) -> None:
    """Make an identity on this host and get a certificate for it. Safe to repeat."""
    from fabric.shell.enrolment import Patience
    from fabric.shell.enrolment import enrol as enrol_host

    become_owner(state)
    done = enrol_host(state, key, name, os.environ, custody=custody, patience=Patience(patience, _tell))
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


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)
