"""The two discovery services of this world: the product's own, and the introducer that a hostile party runs."""

from __future__ import annotations

from typing import Protocol

from discovery.core.channel import ServiceIdentity
from discovery.core.records import KeyRecord
from discovery.core.service import Service
from discovery.core.settings import Settings
from discovery.core.signatory import Present
from discovery.core.store import MemoryStore, Store
from fabric.core.machine import Calendar, Draw, Instant
from fabric.crypto.signature import Ed25519Signer
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.enrolment_key import enrolment_proof
from fabric.identity.request import make_request
from fabric.wire.rendezvous import EnrolmentAnswer, EnrolmentRequest, RelayPlace
from tests.sim.disk import Disk
from tests.sim.introducer import Introducer
from tests.sim.office import Office
from tests.sim.site import Desk

KEY_ID = "sim"


class Discovery(Protocol):
    """What a world needs of a service besides its verbs as a machine."""

    @property
    def desk(self) -> Desk: ...

    @property
    def tls_certificate(self) -> bytes: ...

    def enrol(self, name: str, seed: bytes, source: str, now: Instant) -> Disk: ...

    def certificate_of(self, name: str) -> Certificate: ...

    def revoke(self, name: str, now: Instant) -> None: ...

    def holds_intent(self, who: str, whom: str) -> bool: ...


class HonestDiscovery:
    """The product's service, over a store in memory or another, with one enrolment key of any number of uses."""

    def __init__(
        self,
        office: Office,
        settings: Settings,
        calendar: Calendar,
        draw: Draw,
        now: Instant,
        store: Store | None = None,
    ) -> None:
        self.store: Store = store or MemoryStore()
        self.tls_certificate = office.tls_certificate
        self._secret = draw(32)
        key = KeyRecord(KEY_ID, self._secret, created=calendar.unix(now), uses_left=None, expires=None)
        self.store.put_key(key)
        identity = ServiceIdentity(office.tls_certificate, office.service_signer)
        self.desk = Service(Present(office.authority), self.store, identity, draw, calendar, settings, now)

    def enrol(self, name: str, seed: bytes, source: str, now: Instant) -> Disk:
        request = make_request(seed, name)
        proof = enrolment_proof(self._secret, request, self.tls_certificate)
        answer = self.desk.handle_enrolment(EnrolmentRequest(KEY_ID, request, proof), source, now)
        assert isinstance(answer, EnrolmentAnswer), answer
        return Disk(seed, answer.certificate, answer.authority, answer.revocations, answer.stun)

    def certificate_of(self, name: str) -> Certificate:
        record = self.store.endpoint(name)
        assert record is not None
        return decode_certificate(record.certificate)

    def revoke(self, name: str, now: Instant) -> None:
        assert self.desk.revoke(name, "a test revoked it", now)

    def holds_intent(self, who: str, whom: str) -> bool:
        return self.store.intent(who, whom) is not None


class HostileDiscovery:
    """The introducer, with the authority's key in the same hands."""

    def __init__(
        self,
        office: Office,
        stun: tuple[str, ...],
        calendar: Calendar,
        draw: Draw,
        relays: tuple[RelayPlace, ...] = (),
    ) -> None:
        self.office = office
        self.stun = stun
        self.tls_certificate = office.tls_certificate
        self.desk = Introducer(office, stun, calendar, draw, relays)
        self._calendar = calendar

    def enrol(self, name: str, seed: bytes, source: str, now: Instant) -> Disk:
        certificate = self.office.enrol(name, Ed25519Signer(seed).public_key, self._calendar.unix(now))
        return Disk(seed, certificate.der, self.office.authority.root_der, self.office.crl, self.stun)

    def certificate_of(self, name: str) -> Certificate:
        return self.office.issued_to(name)

    def revoke(self, name: str, now: Instant) -> None:
        self.office.revoke(name, self._calendar.unix(now))
        self.desk.push_revocations()

    def holds_intent(self, who: str, whom: str) -> bool:
        return (who, whom) in self.desk.standing
