"""`discoveryd authority` and `discoveryd sign`: the authority's key away from the service, and what is done with it."""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from discovery.cli.options import StateOption, when
from discovery.core.orders import CertificateRequest, encode_answers, open_requests
from discovery.core.signing import Verdict, judge, sign
from discovery.shell.authority_file import append_journal, open_authority, read_journal, read_root
from discovery.shell.config import DEFAULT_STATE, load_config
from discovery.shell.detaching import attach, detach
from discovery.shell.state import only_service, open_state
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.fingerprint import fingerprint_of
from fabric.identity.request import decode_request
from fabric.shell.durable import READABLE, write_durably
from fabric.shell.exit_code import CommandError, ExitCode

app = typer.Typer(help="The authority's key: with the service, or kept elsewhere by a person.")

PassphraseFile = Annotated[
    Path | None, typer.Option(help="A file with the passphrase of FILE; without it, it is asked for.")
]
KeyFile = Annotated[Path, typer.Argument(metavar="FILE")]


@app.command("detach")
def detach_(file: KeyFile, passphrase_file: PassphraseFile = None, state: StateOption = DEFAULT_STATE) -> None:
    """Move the key into FILE, sealed by a passphrase, and FILE.journal: keep both where the service is not.

    The service must be stopped. What it needs from day to day is signed for a year; the rest waits for a person from
    now on, see `discoveryd requests`.
    """
    with open_state(state, os.environ) as opened, only_service(state):
        detach(opened, load_config(state, os.environ), file, read_passphrase(passphrase_file, is_new=True), time.time())
    print(f"the key is in {file} and no longer here; keep {file.name}.journal with it, and a copy of both")


@app.command("attach")
def attach_(file: KeyFile, passphrase_file: PassphraseFile = None, state: StateOption = DEFAULT_STATE) -> None:
    """Bring the key back from FILE; what waited is signed. The service must be stopped."""
    with open_state(state, os.environ) as opened, only_service(state):
        names = attach(opened, load_config(state, os.environ), file, read_passphrase(passphrase_file), time.time())
    for name in names:
        print(f"certificate for {name}")


def sign_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `discoveryd requests export` wrote.")],
    authority: Annotated[Path, typer.Option(help="The key's file; its journal lies beside it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the answers go.")],
    passphrase_file: PassphraseFile = None,
    refuse: Annotated[list[str] | None, typer.Option(metavar="ID", help="A request to refuse. Several times.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Sign what waits, where the authority's key is kept: shows it first, and refuses what contradicts the journal."""
    root, journal, unix = read_root(authority), read_journal(authority), time.time()
    try:
        requests = open_requests(file.read_bytes(), root)
    except (DecodeError, AuthenticationError) as error:
        raise CommandError(ExitCode.NOT_SO, f"{file} can't be used: {error}") from None
    verdict = judge(requests, root, journal, unix, refuse or ())
    _show(verdict, requests.network, requests.created)
    if not yes and not typer.confirm(f"Sign these {len(verdict)}?", err=True):
        raise CommandError(ExitCode.NOT_SO, "nothing was signed")
    answers, entries = sign(verdict, open_authority(authority, read_passphrase(passphrase_file)), journal, unix)
    append_journal(authority, entries)
    write_durably(output, encode_answers(answers), mode=READABLE)
    if not verdict.is_clean:
        raise CommandError(ExitCode.NOT_SO, f"not all was signed: {'; '.join(_refusals(verdict))}")


def read_passphrase(file: Path | None, *, is_new: bool = False) -> bytes:
    """Returns what a person types, or the content of a file without the newline that an editor leaves."""
    if file is not None:
        return file.read_bytes().rstrip(b"\r\n")
    typed: str = typer.prompt("The authority's passphrase", hide_input=True, confirmation_prompt=is_new, err=True)
    return typed.encode()


def _show(verdict: Verdict, network: str, created: float) -> None:
    table = Table(*(Column(title, overflow="fold") for title in ("id", "to be signed", "for", "what it says")))
    table.title = f'for the network "{network}", asked {when(created)}'
    for request in verdict.certificates:
        kind = "renewal" if request.is_renewal else f"enrolment by key {request.key_id}"
        table.add_row(request.number, kind, request.name, _says(request))
    if verdict.service is not None:
        table.add_row("", "the service's certificate", " ".join(verdict.service.hosts), _days(verdict.service.life_s))
    if verdict.revocations is not None:
        names = dict.fromkeys(name or serial.hex() for serial, _, name in verdict.revocations.entries)
        table.add_row("", f"revocation list {verdict.revocations.number}", " ".join(names), "")
    Console().print(table)
    for line in _refusals(verdict):
        print(f"refused: {line}")


def _says(request: CertificateRequest) -> str:
    key = fingerprint_of(decode_request(request.request).public_key)
    tags = f", tags {' '.join(request.tags)}" if request.tags else ""
    source = f", asked from {request.source}" if request.source else ""
    return f"{IPv4Address(request.ipv4)}, {_days(request.life_s)}, key {key}{tags}{source}"


def _days(life_s: float) -> str:
    return f"good for {life_s / 86_400:g} days"


def _refusals(verdict: Verdict) -> list[str]:
    found = [f"{request.number} for {request.name}: {why}" for request, why in verdict.refused]
    found += [f"the service's certificate: {verdict.service_fault}"] if verdict.service_fault else []
    return found + ([f"the revocation list: {verdict.list_fault}"] if verdict.list_fault else [])
