"""The ledger of what the authority has issued: each certificate renews once, and revocations make one numbered list.

    enrolment -> S0 -> S1 -> S2 ...      each arrow: the one request that renewed it, and the answer to repeat

A host whose key was copied is found out here too: the copy and the original both renew the same certificate, the
second one differently, and the whole chain is revoked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from discovery.core.records import CertificateRecord, EndpointRecord, RevocationsRecord
from discovery.core.settings import Settings
from discovery.core.store import Store
from fabric.core.machine import Draw
from fabric.crypto.digest import blake2b_256
from fabric.errors import PolicyError
from fabric.identity.authority import BACKDATE_S, Authority, draw_serial
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.request import Request

MAX_REVOCATIONS = 1600
"""Entries of a list that still fits one message of the channel, at 35 bytes each. Beyond, those that end first are
left out: their end is their bound."""

_BACKDATE_SHARE = 1 / 20
_RENEWABLE_SHARE = 1 / 3
"""Of a certificate's life, before which it can't be renewed: endpoints renew at two thirds."""

ADDRESS_REST_S = 3600.0
"""Clocks differ: an address stays with its name this long behind the end of the last certificate that has it."""

TRACE_S = 86_400.0
"""How long an ended certificate is remembered behind the last moment at which it matters."""


class RenewedTwiceError(PolicyError):
    """A second, different request to renew a certificate."""


def digest_of(request: bytes) -> bytes:
    """Returns what tells two requests apart."""
    return blake2b_256(b"fabric/1 request", request)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Issues and revokes; writes only inside of a `store.change()` of the caller."""

    authority: Authority
    store: Store
    settings: Settings
    draw: Draw

    def issue(
        self, record: EndpointRecord, request: bytes, unix: float, key_id: str = ""
    ) -> tuple[EndpointRecord, CertificateRecord]:
        """Issues the next certificate of `record`; returns the record with it, and its own. Both are put in the store.

        `record.serial` is the predecessor's serial number, 0 for none.
        """
        life = self._life_s(record)
        der = self.authority.issue_endpoint(
            Request(record.name, record.public_key),
            record.name,
            addresses=(record.ipv4, ipv6_of(ula_prefix(self.authority.fingerprint), record.ipv4)),
            tags=record.tags,
            serial=(serial := draw_serial(self.draw)),
            not_before=unix - min(BACKDATE_S, life * _BACKDATE_SHARE),
            not_after=unix + life,
        )
        issued = CertificateRecord(
            serial=serial,
            name=record.name,
            der=der,
            issued=unix,
            not_after=float(int(unix + life)),
            request_digest=digest_of(request),
            predecessor=record.serial or None,
            key_id=key_id,
        )
        updated = replace(record, certificate=der, serial=serial, not_after=issued.not_after)
        self.store.put_endpoint(updated)
        self.store.put_certificate(issued)
        return updated, issued

    def renew(
        self, record: EndpointRecord, current: CertificateRecord, request: bytes, unix: float
    ) -> CertificateRecord:
        """Returns the certificate that follows `current`: a new one, or for an identical retry the same.

        Raises `RenewedTwiceError` for a different request, `PolicyError` where it is too early.
        """
        digest = digest_of(request)
        while (successor := self.store.successor(current.serial)) is not None:
            if successor.request_digest != digest:
                raise RenewedTwiceError(f'a certificate of "{record.name}" was renewed by two different requests')
            if unix < successor.not_after:
                return successor
            current = successor
        if not self._is_renewable(current, unix):
            if current.predecessor is not None and current.request_digest == digest:
                return current
            raise PolicyError("the certificate is too young to be renewed")
        with self.store.change():
            return self.issue(replace(record, serial=current.serial), request, unix)[1]

    def find_enrolled(self, name: str, request: bytes, key_id: str, unix: float) -> CertificateRecord | None:
        """Returns the certificate in its life that the same request got with the same enrolment key, if any."""
        digest = digest_of(request)
        for record in self.store.certificates_of(name):
            is_same = record.request_digest == digest and record.key_id == key_id
            if is_same and record.revoked is None and unix < record.not_after:
                return record
        return None

    def current_revocations(self, unix: float) -> tuple[RevocationsRecord, set[str]]:
        """Returns the newest list, made anew where it lacks a revocation or is old, and the names new on it."""
        newest = self.store.revocations()
        revoked = self._listed(unix)
        fresh = [record for record in revoked if newest is None or record.serial not in newest.serials]
        if newest is not None and not fresh and unix < newest.issued + self.settings.revocations_refresh_s:
            return newest, set()
        issued = self._issue_revocations(revoked, newest, unix)
        with self.store.change():
            self.store.put_revocations(issued)
        return issued, {record.name for record in fresh}

    def _listed(self, unix: float) -> list[CertificateRecord]:
        revoked = sorted(self.store.revoked_certificates(unix), key=lambda record: record.not_after, reverse=True)
        return revoked[:MAX_REVOCATIONS]

    def _issue_revocations(
        self, revoked: Iterable[CertificateRecord], previous: RevocationsRecord | None, unix: float
    ) -> RevocationsRecord:
        # At least the second of its making: a store restored from a backup never falls behind its own lists.
        number = max(int(unix), previous.number + 1 if previous else 0)
        since = {record.serial: record.revoked or unix for record in revoked}
        der = self.authority.issue_crl(
            since, number=number, this_update=unix, next_update=unix + self.settings.revocations_life_s
        )
        return RevocationsRecord(number=number, issued=unix, der=der, serials=frozenset(since))

    def _life_s(self, record: EndpointRecord) -> float:
        life = self.settings.certificate_life_s
        return min(life, self.settings.ephemeral_life_s) if record.is_ephemeral else life

    def _is_renewable(self, current: CertificateRecord, unix: float) -> bool:
        return unix >= current.issued + _RENEWABLE_SHARE * (current.not_after - current.issued)


def revoke(store: Store, name: str, why: str, unix: float) -> bool:
    """Marks an endpoint, its certificates and its intents as gone; False where there is nobody to revoke.

    Whoever runs the service then issues the list (`Ledger.current_revocations`): also where this happened in
    another process. The name keeps its address, and may be enrolled again, with another key too.
    """
    with store.change():
        record = store.endpoint(name)
        if record is None or record.revoked is not None:
            return False
        store.put_endpoint(replace(record, revoked=unix, why=why, bundle=None))
        for certificate in store.certificates_of(name):
            if certificate.revoked is None:
                store.put_certificate(replace(certificate, revoked=unix))
        for intent in store.intents_from(name):
            store.delete_intent(name, intent.recipient)
    return True


def purge(store: Store, settings: Settings, unix: float) -> None:
    """Forgets what no longer matters: ended certificates, and with them revoked and ephemeral endpoints.

    An address is free again only when no certificate with it can be in its life anywhere.
    """
    with store.change():
        for record in store.endpoints():
            is_leaving = record.revoked is not None or record.is_ephemeral
            if is_leaving and unix > record.not_after + ADDRESS_REST_S:
                store.delete_endpoint(record.name)
        store.delete_certificates(unix - settings.late_renewal_s - TRACE_S)
