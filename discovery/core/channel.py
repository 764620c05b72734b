"""One control channel, as the service sees it: first each side proves itself over this very TLS certificate.

    opened --CHALLENGE--> expecting AUTHENTICATE --proven--> up, or late
                                 |                            |
                                 +----- deadline, fault ------+----> closed

Late: the endpoint's certificate has ended while it was off. It may renew it and nothing else.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import UTC, datetime

from discovery.core.limits import TokenBucket
from discovery.core.records import CertificateRecord, EndpointRecord
from discovery.core.settings import Settings
from discovery.core.store import Store
from fabric.core.machine import Instant
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_CONTROL_SERVER, Signer, verify
from fabric.errors import AuthenticationError
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.trust import Trust
from fabric.wire.rendezvous import Authenticate

NONCE_BYTES = 32


class ChannelState(enum.Enum):
    EXPECTING_AUTHENTICATE = "expecting authenticate"
    UP = "up"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """The TLS certificate (DER) of the service, and who signs with its key."""

    certificate: bytes = field(repr=False)
    signer: Signer


@dataclass(slots=True)
class Channel:
    """`current` is the certificate that the endpoint holds: the one shown, then each one that was renewed over it.

    `awaited` is the serial number of the next one while the authority has yet to sign it, 0 where nothing was asked.
    """

    source: str
    service: ServiceIdentity
    nonce: bytes
    bucket: TokenBucket
    paused_until: Instant
    state: ChannelState = ChannelState.EXPECTING_AUTHENTICATE
    name: str = ""
    current: CertificateRecord | None = None
    awaited: int = 0


@dataclass(frozen=True, slots=True)
class Proven:
    """Who is at the other end, by which of its certificates, and the service's own signature for it.

    `is_revoked`: it holds the key, and may not use it any more.
    """

    record: EndpointRecord
    current: CertificateRecord
    is_late: bool
    is_revoked: bool
    signature: bytes


def authenticate_untrusted(
    channel: Channel, message: Authenticate, trust: Trust, store: Store, settings: Settings, unix: float
) -> Proven:
    """Raises `AuthenticationError` unless the holder of a certificate that stands in the store signed the challenge."""
    certificate = decode_certificate(message.certificate)
    record, current = store.endpoint(certificate.name), store.certificate(certificate.serial)
    if record is None or current is None or current.der != message.certificate:
        raise AuthenticationError("the certificate is not one of those in use")
    is_revoked = record.revoked is not None or current.revoked is not None
    is_late = not is_revoked and _may_only_renew(trust, certificate, record, store, settings, unix)
    fields = (
        trust.network.encode(),
        channel.nonce,
        message.nonce,
        blake2b_256(channel.service.certificate),
        blake2b_256(message.certificate),
    )
    verify(certificate.public_key, LABEL_CONTROL_CLIENT, message.signature, *fields)
    return Proven(record, current, is_late, is_revoked, channel.service.signer.sign(LABEL_CONTROL_SERVER, *fields))


def _may_only_renew(
    trust: Trust, certificate: Certificate, record: EndpointRecord, store: Store, settings: Settings, unix: float
) -> bool:
    """Returns whether the certificate has ended, but not so long ago that it can't be renewed; or has handed over to
    another key, and the answer may have got lost."""
    try:
        trust.check(certificate.der, name=record.name, unix=unix, pinned_key=record.public_key)
    except CertificateFaultError as refused:
        if refused.reason is Fault.WRONG_KEY and _has_handed_over(store, certificate.serial, record.public_key):
            return True
        is_late = refused.reason is Fault.EXPIRED and unix < certificate.not_after + settings.late_renewal_s
        if not is_late or certificate.public_key != record.public_key:
            raise
        return True
    return False


def _has_handed_over(store: Store, serial: int, public_key: bytes) -> bool:
    """Whether what followed a certificate led to this key."""
    while (successor := store.successor(serial)) is not None:
        if decode_certificate(successor.der).public_key == public_key:
            return True
        serial = successor.serial
    return False


def why_revoked(record: EndpointRecord) -> str:
    """Returns one sentence for the host that is, or was, this endpoint."""
    if record.revoked is None:
        return "its certificate was revoked"
    at = datetime.fromtimestamp(int(record.revoked), UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"it was revoked at {at}: {record.why}"[:255]
