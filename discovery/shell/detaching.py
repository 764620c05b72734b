"""Takes the authority's key away from the service, and brings it back.

    detach   a list and a TLS certificate for a year -> FILE, FILE.journal -> noted in the store -> the key is wiped
    attach   the key is sealed here -> noted in the store, what waited is signed

Each step is on stable storage before the next: wherever the power fails, the same command again goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from discovery.core.authority import Ledger
from discovery.core.orders import SERIAL_BYTES
from discovery.core.records import CertificateRecord
from discovery.core.settings import Settings
from discovery.core.signatory import AWAY_LIFE_S, Present, sign_order
from discovery.core.signing import Entry, SignedCertificate, SignedList
from discovery.shell.authority_file import open_seed, read_root, write_authority, write_journal
from discovery.shell.authority_key import open_key, remove_key, store_key
from discovery.shell.config import Config
from discovery.shell.state import AUTHORITY_FACT, AWAY, NEXT_FILE, State, issue_service
from fabric.identity.authority import Authority
from fabric.identity.certificate import decode_certificate
from fabric.shell.durable import remove_durably
from fabric.shell.exit_code import CommandError, ExitCode

PRESENT = "present"


def detach(state: State, config: Config, path: Path, passphrase: bytes, unix: float) -> None:
    """Moves the key into the file at `path`. The service must not run.

    Raises `CommandError` (NOT_SO, WRONG_USAGE), `ConfigurationError`, `OSError`.
    """
    safe = state.safe(config)
    if not safe.path.exists():
        raise CommandError(ExitCode.NOT_SO, "the authority's key is kept elsewhere already: nothing was changed")
    if path.resolve().is_relative_to(state.directory.resolve()):
        raise CommandError(ExitCode.WRONG_USAGE, f"{path} is with the service: choose a place that it does not have")
    seed = open_key(safe)
    authority = Authority(seed, state.root.der)
    _sign_ahead(state, config, authority, unix)
    write_authority(path, seed, state.root, passphrase)
    write_journal(path, _signed_so_far(state, unix))
    with state.store.change():
        state.store.put_fact(AUTHORITY_FACT, AWAY)
    remove_key(safe)


def attach(state: State, config: Config, path: Path, passphrase: bytes, unix: float) -> list[str]:
    """Brings the key back from the file, which stays as it is; returns for whom what waited was signed.

    The service must not run. Raises `CommandError` (NOT_SO, NOT_PERMITTED), `ConfigurationError`, `OSError`.
    """
    if read_root(path).fingerprint != state.root.fingerprint:
        raise CommandError(ExitCode.NOT_SO, f"{path} holds the authority of another network: nothing was changed")
    seed = open_seed(path, passphrase)
    authority = Authority(seed, state.root.der)
    store_key(state.safe(config), seed)
    ledger = Ledger(Present(authority), state.store, Settings(), os.urandom)
    orders = state.store.orders()
    with state.store.change():
        state.store.put_fact(AUTHORITY_FACT, PRESENT)
        for order in orders:
            ledger.complete(order, sign_order(authority, order, unix), unix)
    remove_durably(state.directory / NEXT_FILE)
    return [order.name for order in orders]


def _sign_ahead(state: State, config: Config, authority: Authority, unix: float) -> None:
    """Signs what the service needs from day to day for as long as a person should have peace."""
    settings = replace(Settings(), revocations_refresh_s=0.0, revocations_life_s=AWAY_LIFE_S)
    Ledger(Present(authority), state.store, settings, os.urandom).revocations(unix)
    issue_service(state, authority, config, AWAY_LIFE_S, unix)


def _signed_so_far(state: State, unix: float) -> Iterator[Entry]:
    """Yields every certificate in its life, and the newest list: what the next signature is judged by."""
    for endpoint in state.store.endpoints():
        yield from _certificates(state.store.certificates_of(endpoint.name), unix)
    newest = state.store.revocations()
    if newest is not None:
        serials = tuple(serial.to_bytes(SERIAL_BYTES) for serial in sorted(newest.serials))
        yield SignedList(newest.issued, newest.number, serials, newest.der)


def _certificates(records: Iterable[CertificateRecord], unix: float) -> Iterator[SignedCertificate]:
    for record in records:
        if unix >= record.not_after:
            continue
        certificate = decode_certificate(record.der)
        yield SignedCertificate(
            unix=record.issued,
            name=record.name,
            serial=record.serial.to_bytes(SERIAL_BYTES),
            public_key=certificate.public_key,
            ipv4=int(certificate.ipv4),
            not_after=record.not_after,
            digest=record.request_digest,
            predecessor=record.predecessor.to_bytes(SERIAL_BYTES) if record.predecessor is not None else b"",
            der=record.der,
        )
