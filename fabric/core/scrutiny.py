"""Whether a peer's papers are believed: the authority's, of the key that is known, and none older than those before.

They come by way of the service, which may lie. Nothing is kept here: what was believed is the acquaintance's to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fabric.core.identity import Identity
from fabric.core.machine import Calendar, Instant
from fabric.core.records import PeerRecord
from fabric.errors import AuthenticationError, CertificateError, DecodeError
from fabric.identity.bundle import KeyBundle, open_bundle
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.fingerprint import fingerprint_of
from fabric.identity.intent import Intent, open_intent, peek_intent
from fabric.identity.rotation import decode_options, leads
from fabric.wire.rendezvous import Introduction

MAX_CLOCK_SKEW_S = 300.0
"""As far as two clocks may be apart (protocol.md section 4)."""


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of the peer so far."""

    record: PeerRecord
    certificate: Certificate | None
    intent: Intent | None
    bundle: KeyBundle | None

    def is_same_key(self, certificate: Certificate) -> bool:
        """Whether the last introduction was under the same key."""
        return self.certificate is not None and self.certificate.public_key == certificate.public_key


def is_known(record: PeerRecord, certificate: Certificate) -> bool:
    """Whether it is of the key that a handshake has proven, or there was none yet."""
    return record.pinned_key in (None, certificate.public_key)


class Scrutiny:
    """`check_address` raises `CertificateError` where an address of the certificate belongs to somebody else."""

    def __init__(
        self, identity: Identity, name: str, calendar: Calendar, check_address: Callable[[Certificate], None]
    ) -> None:
        self._identity = identity
        self._name = name
        self._calendar = calendar
        self._check_address = check_address

    def check_certificate(
        self, record: PeerRecord, certificate: bytes, now: Instant, rotations: Sequence[bytes] = ()
    ) -> Certificate:
        """Chain, life, revocation, expected name, key continuity, the pinned fingerprint, and foreign addresses.

        With `rotations` the key may be another one than is known, where they lead from that to this. Raises
        `CertificateError`.
        """
        pinned = record.pinned_key
        trust, unix = self._identity.trust, self._calendar.unix(now)
        key = decode_certificate(certificate).public_key if rotations else b""
        if pinned is not None and leads(rotations, self._name, pinned, key):
            checked = trust.check(certificate, name=self._name, unix=unix, pinned_key=None)
            if self._is_pin_revoked(record):
                raise CertificateError(f"the known key of {self._name} was revoked, and names no other")
        else:
            checked = trust.check(certificate, name=self._name, unix=unix, pinned_key=pinned)
        given = record.fingerprint
        if given is not None and given not in {checked.fingerprint, fingerprint_of(pinned or checked.public_key)}:
            raise CertificateError(f"the key of {self._name} is not the one whose fingerprint was given")
        self._check_address(checked)
        return checked

    def check_introduction(
        self, held: Held, introduction: Introduction, now: Instant
    ) -> tuple[Certificate, Intent, KeyBundle]:
        """Returns what an introduction brings, all of it verified. Raises `AuthenticationError` or `DecodeError`."""
        certificate = self._check_introduced(held.record, introduction, now)
        intent = open_intent(introduction.intent, certificate.public_key)
        self._check_intent(intent, now)
        bundle = open_bundle(introduction.bundle, certificate.public_key)
        self._check_is_newest(held, certificate, intent, bundle, now)
        return certificate, intent, bundle

    def _check_introduced(self, record: PeerRecord, introduction: Introduction, now: Instant) -> Certificate:
        """As any certificate; of a peer that shares a root, also for another key to which its intent says that
        rotations lead.

        That only lets the two meet: the key is taken in the handshake, where the root is proven.
        """
        try:
            return self.check_certificate(record, introduction.certificate, now)
        except CertificateError:
            rotations = self._rotations_in(record, introduction)
            if not rotations:
                raise
        return self.check_certificate(record, introduction.certificate, now, rotations)

    def _rotations_in(self, record: PeerRecord, introduction: Introduction) -> tuple[bytes, ...]:
        """Returns what nobody has looked at yet; nothing where no root is held, for then no handshake would follow."""
        if not record.entangled.roots:
            return ()
        try:
            key = decode_certificate(introduction.certificate).public_key
            return decode_options(peek_intent(introduction.intent).options, self._name, key)
        except (CertificateError, DecodeError):
            return ()

    def _is_pin_revoked(self, record: PeerRecord) -> bool:
        """Whether the key that is known was revoked, also where its papers are gone."""
        serial = record.pinned_serial
        return serial is not None and self._identity.trust.has_revoked(int.from_bytes(serial))

    def _check_intent(self, intent: Intent, now: Instant) -> None:
        unix, identity = self._calendar.unix(now), self._identity
        if (intent.network, intent.sender, intent.recipient) != (identity.network, self._name, identity.name):
            raise AuthenticationError("the intent is between others")
        if not (intent.holds(unix) or intent.holds(unix + MAX_CLOCK_SKEW_S)):
            raise AuthenticationError("the intent is not in its life")

    def _check_is_newest(
        self, held: Held, certificate: Certificate, intent: Intent, bundle: KeyBundle, now: Instant
    ) -> None:
        """Whoever carries papers may hold them back, but not bring an old state back with them."""
        if bundle.name != self._name:
            raise AuthenticationError("the key bundle is another's")
        if bundle.serial < _least_serial(held, certificate):
            raise AuthenticationError("the key bundle is older than one seen before")
        last = held.intent.created if held.intent is not None else 0.0
        horizon = self._calendar.unix(now) + MAX_CLOCK_SKEW_S
        if held.is_same_key(certificate) and intent.created < last <= horizon:
            raise AuthenticationError("the intent is older than one seen before")


def _least_serial(held: Held, certificate: Certificate) -> int:
    """The stored one is of the key that is known: who stole that may have claimed the highest of all, and the next key
    begins anew."""
    pinned, least = held.record.pinned_key, held.record.bundle_serial
    if pinned == certificate.public_key:
        return least
    is_same_key = held.is_same_key(certificate)
    if pinned is None:
        return least if is_same_key or held.certificate is None else 0
    return held.bundle.serial if is_same_key and held.bundle is not None else 0
