"""What waits for an authority that is away, as a file to carry there; and what came back, taken into use."""

from __future__ import annotations

import os
from dataclasses import dataclass

from discovery.core.answers import Taken, take_answers
from discovery.core.authority import Ledger
from discovery.core.orders import (
    SERIAL_BYTES,
    Requests,
    ServiceRequest,
    certificate_requests,
    list_request,
    open_answers,
    seal_requests,
)
from discovery.core.settings import Settings
from discovery.core.signatory import AWAY_LIFE_S, Away
from discovery.shell.config import Config
from discovery.shell.state import (
    State,
    hosts_of,
    is_certificate_due,
    next_service_key,
    service_identity,
    take_service,
)
from fabric.errors import AuthenticationError
from fabric.identity.authority import draw_serial


@dataclass(frozen=True, slots=True)
class Brought:
    """What came of one file of answers."""

    taken: Taken
    is_service_new: bool
    service_fault: str

    @property
    def faults(self) -> tuple[str, ...]:
        return (*self.taken.faults, *((self.service_fault,) if self.service_fault else ()))


def what_waits(state: State, config: Config, unix: float) -> Requests:
    """Returns all that a person would have to carry to the authority now; nothing where its key is here."""
    if not state.is_authority_away:
        return Requests(state.root.network, state.root.fingerprint, unix)
    store = state.store
    due = _ledger(state).waiting_list(unix)
    return Requests(
        network=state.root.network,
        authority=state.root.fingerprint,
        created=unix,
        certificates=certificate_requests(store, store.orders()),
        service=_service_request(state, config) if is_certificate_due(state, config, unix) else None,
        revocations=list_request(due, store.revoked_certificates(unix), AWAY_LIFE_S) if due is not None else None,
    )


def export_requests(state: State, config: Config, unix: float) -> tuple[Requests, bytes]:
    """Returns them, and the file that holds them. Raises `ConfigurationError`, `OSError`."""
    requests = what_waits(state, config, unix)
    identity = service_identity(state)
    return requests, seal_requests(requests, identity.signer, identity.certificate)


def bring_answers(state: State, config: Config, data: bytes, unix: float) -> Brought:
    """Takes what is proven of them into use; a service that runs sees it at once. Taking them again changes nothing.

    Raises `DecodeError` and `AuthenticationError` for a file that is none, or is for another network.
    """
    answers = open_answers(data, state.root)
    taken = take_answers(_ledger(state), answers, unix)
    is_service_new, fault = False, ""
    if answers.service:
        try:
            is_service_new = take_service(state, config, answers.service, unix)
        except AuthenticationError as error:
            fault = f"the service's own certificate is refused here: {error}"
    return Brought(taken, is_service_new, fault)


def _ledger(state: State) -> Ledger:
    return Ledger(Away(state.root), state.store, Settings(), os.urandom)


def _service_request(state: State, config: Config) -> ServiceRequest:
    return ServiceRequest(
        serial=draw_serial(os.urandom).to_bytes(SERIAL_BYTES),
        public_key=next_service_key(state).public_key,
        hosts=hosts_of(state, config),
        life_s=AWAY_LIFE_S,
    )
