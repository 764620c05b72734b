"""The ledger of what the authority has issued: each certificate renews once, and revocations make one numbered list.

    enrolment -> S0 -> S1 -> S2 ...      each arrow: the one request that renewed it, and the answer to repeat

A host whose key was copied is found out here too: the copy and the original both renew the same certificate, the
second one differently, and the whole chain is revoked. Where the authority is away, an arrow may wait for its
signature; it is the one request all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from discovery.core.records import CertificateRecord, EndpointRecord, OrderRecord, RevocationsRecord
from discovery.core.settings import Settings
from discovery.core.signatory import AWAY_LIFE_S, Signatory
from discovery.core.store import Store
from fabric.core.machine import Draw
from fabric.crypto.digest import blake2b_256
from fabric.errors import ConfigurationError, ExhaustedError, PolicyError
from fabric.identity.authority import draw_serial
from fabric.identity.certificate import decode_certificate
from fabric.identity.request import decode_request

MAX_REVOCATIONS = 1600
"""Entries of a list that still fits one message of the channel, at 35 bytes each. Beyond, those that end first are
left out: their end is their bound."""

_RENEWABLE_SHARE = 1 / 3
"""Of a certificate's life, before which it can't be renewed: endpoints renew at two thirds."""

ROTATION_PAUSE_S = 10.0
"""Between two keys of one name: a person rotates, and no program in a loop."""

_AWAY_REFRESH_SHARE = 2 / 3
"""Of the life of a list that a person signs, after which the next is asked for."""

ADDRESS_REST_S = 3600.0
"""Clocks differ: an address stays with its name this long behind the end of the last certificate that has it."""

TRACE_S = 86_400.0
"""How long an ended certificate is remembered behind the last moment at which it matters."""


class RenewedTwiceError(PolicyError):
    """A second, different request to renew a certificate. `sources` are the IP addresses of both."""

    def __init__(self, name: str, sources: tuple[str, str]) -> None:
        super().__init__(
            f'a certificate of "{name}" was renewed twice, differently, first from {sources[0] or "?"}, then from '
            f"{sources[1] or '?'}: its key was copied, or one of two was set back from a backup"
        )
        self.sources = sources


@dataclass(frozen=True, slots=True)
class Listing:
    """`newest` is the list that stands; `revoked` has serial number and name of all that are to be on it."""

    newest: RevocationsRecord
    revoked: Mapping[int, str]

    @property
    def waiting(self) -> int:
        """How many of them wait for a list with their names."""
        return len(self.revoked.keys() - self.newest.serials)


@dataclass(frozen=True, slots=True)
class WaitingList:
    """A revocation list to be signed: serial numbers and since when each is revoked."""

    number: int
    since: Mapping[int, float]


def digest_of(request: bytes) -> bytes:
    """Returns what tells two requests apart."""
    return blake2b_256(b"fabric/1 request", request)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Issues and revokes; writes only inside of a `store.change()` of the caller."""

    signatory: Signatory
    store: Store
    settings: Settings
    draw: Draw

    def order(
        self, record: EndpointRecord, request: bytes, unix: float, *, key_id: str = "", source: str = ""
    ) -> OrderRecord:
        """Returns the order for the next certificate of `record`, whose serial is the predecessor's, 0 for none."""
        life_s = self.settings.certificate_life_s
        return OrderRecord(
            serial=draw_serial(self.draw),
            name=record.name,
            public_key=record.public_key,
            ipv4=record.ipv4,
            tags=record.tags,
            is_ephemeral=record.is_ephemeral,
            request=request,
            predecessor=record.serial or None,
            key_id=key_id,
            source=source,
            created=unix,
            life_s=min(life_s, self.settings.ephemeral_life_s) if record.is_ephemeral else life_s,
        )

    def issue(self, order: OrderRecord, unix: float) -> CertificateRecord | OrderRecord:
        """Issues what is ordered; where the authority is away, returns the order, which waits in the store from now on.

        Raises `ExhaustedError` where too many wait.
        """
        der = self.signatory.sign_certificate(order, unix)
        if der is not None:
            return self.complete(order, der, unix)
        self._require_room(order)
        self.store.put_order(order)
        return order

    def complete(self, order: OrderRecord, der: bytes, unix: float) -> CertificateRecord:
        """Enters what was signed for an order, which waits no longer. The caller knows that it is that."""
        issued = CertificateRecord(
            serial=order.serial,
            name=order.name,
            der=der,
            issued=unix,
            not_after=decode_certificate(der).not_after,
            request_digest=digest_of(order.request),
            predecessor=order.predecessor,
            key_id=order.key_id,
            source=order.source,
        )
        self.store.delete_order(order.serial)
        self.store.put_endpoint(self._holder(order, issued))
        self.store.put_certificate(issued)
        return issued

    def renew(
        self,
        record: EndpointRecord,
        current: CertificateRecord,
        request: bytes,
        unix: float,
        source: str = "",
        *,
        is_rotation: bool = False,
    ) -> CertificateRecord | OrderRecord:
        """Returns the certificate that follows `current`: a new one, or for an identical retry the same; or the order
        for it, while it waits for the authority.

        `is_rotation`: it is for the next key, which need not wait for the certificate to grow old.

        Raises `RenewedTwiceError` for a different request, `PolicyError` where it is too early.
        """
        digest = digest_of(request)
        while (successor := self.store.successor(current.serial)) is not None:
            if successor.request_digest != digest:
                raise RenewedTwiceError(record.name, (successor.source, source))
            if unix < successor.not_after:
                return successor
            current = successor
        waiting = self.store.order_of(record.name)
        if waiting is not None:
            if digest_of(waiting.request) != digest:
                raise RenewedTwiceError(record.name, (waiting.source, source))
            return waiting
        is_due = unix >= current.issued + ROTATION_PAUSE_S if is_rotation else self._is_renewable(current, unix)
        is_answer = current.predecessor is not None and current.request_digest == digest
        # A host that asks so again has not taken the answer yet, however old that is. (Requests of before, without a
        # random value, are all alike: with them it may be the next renewal.)
        if is_answer and unix < current.not_after and (not is_due or decode_request(request).nonce):
            return current
        if not is_due:
            raise PolicyError("the certificate is too young to be renewed")
        with self.store.change():
            return self.issue(self.order(replace(record, serial=current.serial), request, unix, source=source), unix)

    def find_enrolled(self, name: str, request: bytes, key_id: str, unix: float) -> CertificateRecord | None:
        """Returns the certificate in its life that the same request got with the same enrolment key, if any."""
        digest = digest_of(request)
        for record in self.store.certificates_of(name):
            is_same = record.request_digest == digest and record.key_id == key_id
            if is_same and record.revoked is None and unix < record.not_after:
                return record
        return None

    def revocations(self, unix: float) -> Listing:
        """Returns the newest list, made anew where one is due and the authority is at hand, and all that are revoked.

        Raises `ConfigurationError` where the authority is away and has never signed a list.
        """
        revoked = self._listed(unix)
        due = self._due_list(revoked, unix)
        if due is not None:
            der = self.signatory.sign_list(due.since, due.number, unix, self.settings.revocations_life_s)
            if der is not None:
                with self.store.change():
                    self.store.put_revocations(RevocationsRecord(due.number, unix, der, frozenset(due.since)))
        newest = self.store.revocations()
        if newest is None:
            raise ConfigurationError("the authority is away and has left no revocation list: attach it, and detach it")
        return Listing(newest, {record.serial: record.name for record in revoked})

    def waiting_list(self, unix: float) -> WaitingList | None:
        """Returns the list to be signed next: where a revocation is missing on the newest, or that is old."""
        return self._due_list(self._listed(unix), unix)

    def _due_list(self, revoked: list[CertificateRecord], unix: float) -> WaitingList | None:
        newest = self.store.revocations()
        is_missing = newest is None or any(record.serial not in newest.serials for record in revoked)
        if newest is not None and not is_missing and unix < newest.issued + self._refresh_s:
            return None
        # At least the second of its making: a store restored from a backup never falls behind its own lists.
        number = max(int(unix), newest.number + 1 if newest else 0)
        return WaitingList(number, {record.serial: record.revoked or unix for record in revoked})

    @property
    def _refresh_s(self) -> float:
        is_present = self.signatory.is_present
        return self.settings.revocations_refresh_s if is_present else AWAY_LIFE_S * _AWAY_REFRESH_SHARE

    def _listed(self, unix: float) -> list[CertificateRecord]:
        revoked = sorted(self.store.revoked_certificates(unix), key=lambda record: record.not_after, reverse=True)
        return revoked[:MAX_REVOCATIONS]

    def _require_room(self, order: OrderRecord) -> None:
        """Renewals are one for each endpoint, and so have their bound."""
        if not order.key_id:
            return
        by_key, by_any = self.store.count_enrolments(order.key_id), self.store.count_enrolments(None)
        if by_key >= self.settings.max_waiting_per_key or by_any >= self.settings.max_waiting:
            raise ExhaustedError("Too many enrolments wait for the authority's signature already")

    def _holder(self, order: OrderRecord, issued: CertificateRecord) -> EndpointRecord:
        """Returns the endpoint as it is from now on: with this certificate."""
        existing = self.store.endpoint(order.name)
        is_same = existing is not None and existing.revoked is None and existing.public_key == order.public_key
        return EndpointRecord(
            name=order.name,
            public_key=order.public_key,
            ipv4=order.ipv4,
            tags=order.tags,
            is_ephemeral=order.is_ephemeral,
            enrolled=existing.enrolled if existing and is_same and not order.key_id else issued.issued,
            certificate=issued.der,
            serial=issued.serial,
            not_after=issued.not_after,
            bundle=existing.bundle if existing and is_same else None,
            last_seen=existing.last_seen if existing and is_same and not order.key_id else None,
        )

    def _is_renewable(self, current: CertificateRecord, unix: float) -> bool:
        return unix >= current.issued + _RENEWABLE_SHARE * (current.not_after - current.issued)


def revoke(store: Store, name: str, why: str, unix: float, sources: tuple[str, ...] = ()) -> bool:
    """Marks an endpoint, its certificates and its intents as gone; False where there is nobody to revoke.

    Whoever runs the service then issues the list (`Ledger.revocations`): also where this happened in another process.
    The name keeps its address, and may be enrolled again, with another key too. What waits for the authority in its
    name is dropped.
    """
    with store.change():
        record = store.endpoint(name)
        if record is None or record.revoked is not None:
            return False
        store.put_endpoint(replace(record, revoked=unix, why=why, bundle=None, sources=sources))
        for certificate in store.certificates_of(name):
            if certificate.revoked is None:
                store.put_certificate(replace(certificate, revoked=unix))
        for intent in store.intents_from(name):
            store.delete_intent(name, intent.recipient)
        if (waiting := store.order_of(name)) is not None:
            drop_order(store, waiting)
    return True


def drop_order(store: Store, order: OrderRecord) -> None:
    """Forgets what waits for the authority; an enrolment gives its use of the key back."""
    with store.change():
        store.delete_order(order.serial)
        key = store.key(order.key_id) if order.key_id else None
        if key is not None:
            uses_left = None if key.uses_left is None else key.uses_left + 1
            store.put_key(replace(key, uses_left=uses_left, used=key.used - 1))


def purge(store: Store, settings: Settings, unix: float) -> None:
    """Forgets what no longer matters: ended certificates, and with them revoked and ephemeral endpoints; requests that
    nobody signed.

    An address is free again only when no certificate with it can be in its life anywhere.
    """
    with store.change():
        for record in store.endpoints():
            is_leaving = record.revoked is not None or record.is_ephemeral
            if is_leaving and unix > record.not_after + ADDRESS_REST_S and store.order_of(record.name) is None:
                store.delete_endpoint(record.name)
        store.delete_certificates(unix - settings.late_renewal_s - TRACE_S)
        _drop_old(store, store.orders(), unix - settings.max_wait_s)


def _drop_old(store: Store, orders: Iterable[OrderRecord], before: float) -> None:
    for order in orders:
        if order.created < before:
            drop_order(store, order)
