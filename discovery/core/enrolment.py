"""Enrolment: a proof of an enrolment key and a request, for a name, addresses and a first certificate.

    limits -> proof -> request -> name -> retry? -> key's uses and life -> address -> certificate, or a place in the
                                                                                      queue for the authority

Until the proof holds, every refusal reads the same: a stranger learns nothing of keys or names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from discovery.core.authority import Ledger
from discovery.core.records import EndpointRecord, KeyRecord, OrderRecord
from discovery.core.settings import Settings
from discovery.core.store import Store
from fabric.crypto.digest import equal
from fabric.errors import AuthenticationError, DecodeError, ExhaustedError
from fabric.identity.enrolment_key import enrolment_proof
from fabric.identity.name import parse_name
from fabric.identity.overlay import ula_prefix
from fabric.identity.request import decode_request
from fabric.wire.rendezvous import EnrolmentAnswer, EnrolmentRefusal, EnrolmentRequest

KEY_UNPROVEN = EnrolmentRefusal("key", "The enrolment key is unknown here, or the proof of it is wrong.")
LIMIT = EnrolmentRefusal("limit", "There were too many attempts from this address: try again later.")
UNPROVEN = (KEY_UNPROVEN, LIMIT)
"""What a stranger gets to see."""


class _RefusedError(Exception):
    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.refusal = EnrolmentRefusal(code, why)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """`is_retry`: the identical answer to an identical request; nothing was changed."""

    name: str
    certificate: bytes
    is_retry: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """The authority is away, and a person has to carry the order to it. `is_new`: it was not asked before."""

    order: OrderRecord
    is_new: bool

    @property
    def refusal(self) -> EnrolmentRefusal:
        """What the host is told; the identical request, later, gets the certificate."""
        if self.order.fault:
            return EnrolmentRefusal("authority", f"The authority refused to sign: {self.order.fault}.")
        return EnrolmentRefusal(
            "waiting", f"A person has to sign this at the authority first: it waits as request {order_id(self.order)}."
        )


def order_id(order: OrderRecord) -> str:
    """Returns what people call a request that waits: the first eight digits of its serial number."""
    return f"{order.serial:032x}"[:8]


class Enrolment:
    """Judges requests and allocates addresses."""

    def __init__(self, ledger: Ledger, store: Store, settings: Settings, dummy_secret: bytes) -> None:
        self._ledger = ledger
        self._store = store
        self._settings = settings
        self._dummy_secret = dummy_secret

    def enrol(
        self, request: EnrolmentRequest, tls_certificate: bytes, unix: float, source: str = ""
    ) -> Enrolled | Waiting | EnrolmentRefusal:
        """Stores and returns what was issued, or says why not. Raises nothing for whatever the request holds."""
        try:
            with self._store.change():
                return self._enrol(request, tls_certificate, unix, source)
        except _RefusedError as refused:
            return refused.refusal
        except ExhaustedError as error:
            return EnrolmentRefusal("full", f"{error}.")

    def answer(self, certificate: bytes, revocations: bytes) -> EnrolmentAnswer:
        root = self._ledger.signatory.root
        return EnrolmentAnswer(
            certificate=certificate,
            authority=root.der,
            revocations=revocations,
            service=self._settings.addresses,
            stun=self._settings.stun,
            overlay=(str(self._settings.overlay), str(ula_prefix(root.fingerprint))),
        )

    def _enrol(self, request: EnrolmentRequest, tls_certificate: bytes, unix: float, source: str) -> Enrolled | Waiting:
        key = self._proven_key(request, tls_certificate)
        name, public_key = self._decode(request.request)
        existing = self._store.endpoint(name)
        is_in_use = existing is not None and existing.revoked is None
        if existing is not None and is_in_use and existing.public_key != public_key:
            raise _RefusedError(
                "name", f'The name "{name}" is in use by another key: choose another, or revoke it first.'
            )
        waiting = self._store.order_of(name)
        if waiting is not None and waiting.public_key != public_key:
            raise _RefusedError("name", f'The name "{name}" is asked for by another key already: choose another.')
        if is_in_use and not key.is_revoked:
            issued = self._ledger.find_enrolled(name, request.request, key.key_id, unix)
            if issued is not None:
                return Enrolled(name, issued.der, is_retry=True)
        if waiting is not None and not key.is_revoked:
            return Waiting(waiting, is_new=False)
        if (fault := key.fault(unix)) is not None:
            raise _RefusedError("key", f"The enrolment key is {fault}: ask for a new one.")
        return self._admit(key, name, public_key, existing, request.request, unix, source)

    def _proven_key(self, request: EnrolmentRequest, tls_certificate: bytes) -> KeyRecord:
        key = self._store.key(request.key_id)
        secret = key.secret if key else self._dummy_secret
        is_proven = equal(enrolment_proof(secret, request.request, tls_certificate), request.proof)
        if key is None or not is_proven:
            raise _RefusedError(KEY_UNPROVEN.code, KEY_UNPROVEN.why)
        return key

    def _decode(self, request: bytes) -> tuple[str, bytes]:
        try:
            decoded = decode_request(request)
        except (DecodeError, AuthenticationError) as error:
            raise _RefusedError("request", f"The certificate request can't be used: {error}.") from None
        try:
            return parse_name(decoded.name, self._ledger.signatory.root.network), decoded.public_key
        except DecodeError as error:
            raise _RefusedError("name", f"{error}.") from None

    def _admit(
        self,
        key: KeyRecord,
        name: str,
        public_key: bytes,
        existing: EndpointRecord | None,
        request: bytes,
        unix: float,
        source: str,
    ) -> Enrolled | Waiting:
        is_same_key = existing is not None and existing.revoked is None
        record = EndpointRecord(
            name=name,
            public_key=public_key,
            ipv4=existing.ipv4 if existing else self._free_address(),
            tags=key.tags,
            is_ephemeral=key.is_ephemeral,
            enrolled=unix,
            certificate=b"",
            # The same key again: the new certificate is the one renewal of its newest, so that no second chain lives.
            serial=existing.serial if existing and is_same_key else 0,
            not_after=0.0,
        )
        issued = self._ledger.issue(self._ledger.order(record, request, unix, key_id=key.key_id, source=source), unix)
        uses_left = None if key.uses_left is None else key.uses_left - 1
        self._store.put_key(replace(key, uses_left=uses_left, used=key.used + 1))
        if isinstance(issued, OrderRecord):
            return Waiting(issued, is_new=True)
        return Enrolled(name, issued.der, is_retry=False)

    def _free_address(self) -> IPv4Address:
        """Returns the address behind the highest one given, then any gap. Raises `ExhaustedError` when all are used."""
        overlay = self._settings.overlay
        first, last = int(overlay.network_address) + 1, int(overlay.broadcast_address) - 1
        highest = self._store.highest_ipv4()
        behind = first if highest is None else highest + 1
        if first <= behind <= last:
            return IPv4Address(behind)
        for candidate in range(first, last + 1):
            if not self._store.is_taken(candidate):
                return IPv4Address(candidate)
        raise ExhaustedError(f"All addresses of the overlay {overlay} are in use")
