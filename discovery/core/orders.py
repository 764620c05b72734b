"""What a person carries to an authority that is away, and brings back. Two files, in MessagePack.

    requests   "fabric requests 1" NEWLINE {body, certificate, signature}      signed with the key of the service's
               body: Requests                                                   TLS certificate
    answers    "fabric answers 1" NEWLINE Answers                              each certificate and list proves itself

Decoders raise `DecodeError`, and `open_requests` `AuthenticationError` too; nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address
from typing import Annotated, TypeVar

import msgspec

from discovery.core.authority import WaitingList
from discovery.core.records import CertificateRecord, OrderRecord
from discovery.core.store import Store
from fabric.crypto.signature import Signer, verify
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.root import Root
from fabric.identity.service_certificate import ServiceCertificate, service_certificate_of
from fabric.identity.x509_form import read_form

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Some ten thousand renewals at once, and the longest list."""

LABEL_REQUESTS = b"fabric/1 requests"
SERIAL_BYTES = 16

_REQUESTS = b"fabric requests 1\n"
_ANSWERS = b"fabric answers 1\n"

T = TypeVar("T")
# What a person is shown can neither lead a terminal astray nor be anything but what it should be.
Text = Annotated[str, msgspec.Meta(pattern=r"\A[ -Z^-~]{0,255}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9.-]{0,255}\Z")]
Tag = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9:._-]{1,63}\Z")]
KeyId = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.-]{0,32}\Z")]
Host = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9.:-]{1,255}\Z")]
Source = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9.:%_-]{0,255}\Z")]
Unix = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
Serial = Annotated[bytes, msgspec.Meta(min_length=SERIAL_BYTES, max_length=SERIAL_BYTES)]
Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Address = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Life = Annotated[float, msgspec.Meta(gt=0, le=4000 * 86_400.0)]
Der = Annotated[bytes, msgspec.Meta(max_length=65_536)]


class CertificateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's. `request` is its PKCS#10 in DER; `predecessor` the certificate that it follows, in DER, empty for
    the first; `is_renewal` is False where an enrolment key was shown for it. `ipv4` is the address as a number."""

    serial: Serial
    name: Name
    ipv4: Address
    tags: tuple[Tag, ...]
    is_ephemeral: bool
    request: Der
    predecessor: Der
    is_renewal: bool
    key_id: KeyId
    source: Source
    created: Unix
    life_s: Life

    @property
    def number(self) -> str:
        """What people call it."""
        return self.serial.hex()[:8]


class ServiceRequest(msgspec.Struct, frozen=True):
    """The service's own TLS certificate, for these DNS names and IP addresses."""

    serial: Serial
    public_key: Bytes32
    hosts: tuple[Host, ...]
    life_s: Life


class ListRequest(msgspec.Struct, frozen=True):
    """A revocation list: serial number, since when, and whose, of each that is to be on it."""

    number: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    entries: tuple[tuple[Serial, Unix, Name], ...]
    life_s: Life


class Requests(msgspec.Struct, frozen=True):
    """All that waits. `authority` is the fingerprint of the root."""

    network: Name
    authority: Bytes32
    created: Unix
    certificates: tuple[CertificateRequest, ...] = ()
    service: ServiceRequest | None = None
    revocations: ListRequest | None = None

    def __len__(self) -> int:
        return len(self.certificates) + (self.service is not None) + (self.revocations is not None)


class Answers(msgspec.Struct, frozen=True):
    """What was signed, in DER, and by serial number what was refused, each with one sentence why."""

    network: Name
    authority: Bytes32
    certificates: tuple[tuple[Serial, Der], ...] = ()
    refused: tuple[tuple[Serial, Text], ...] = ()
    service: Der = b""
    revocations: Der = b""


class _Signed(msgspec.Struct, frozen=True):
    body: bytes
    certificate: Der
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


def certificate_requests(store: Store, orders: Iterable[OrderRecord]) -> tuple[CertificateRequest, ...]:
    """Returns what is to be carried of these orders: all that nobody has refused yet."""
    return tuple(_certificate_request(store, order) for order in orders if not order.fault)


def list_request(waiting: WaitingList, revoked: Iterable[CertificateRecord], life_s: float) -> ListRequest:
    names = {record.serial: record.name for record in revoked}
    entries = ((serial.to_bytes(SERIAL_BYTES), since, names.get(serial, "")) for serial, since in waiting.since.items())
    return ListRequest(waiting.number, tuple(entries), life_s)


def order_of(request: CertificateRequest, public_key: bytes) -> OrderRecord:
    """Returns the order that a request is for; `public_key` is its PKCS#10's. The predecessor is not looked at."""
    return OrderRecord(
        serial=int.from_bytes(request.serial),
        name=request.name,
        public_key=public_key,
        ipv4=IPv4Address(request.ipv4),
        tags=request.tags,
        is_ephemeral=request.is_ephemeral,
        request=request.request,
        predecessor=None,
        key_id=request.key_id,
        source=request.source,
        created=request.created,
        life_s=request.life_s,
    )


def seal_requests(requests: Requests, signer: Signer, certificate: bytes) -> bytes:
    """Returns the file, signed as the service, whose TLS certificate this is in DER."""
    body = msgspec.msgpack.encode(requests)
    return _REQUESTS + msgspec.msgpack.encode(_Signed(body, certificate, signer.sign(LABEL_REQUESTS, body)))


def open_requests(data: bytes, root: Root) -> Requests:
    """Raises `AuthenticationError` unless a service of this root's network has signed them.

    That its certificate may have ended is no fault: one that ended is just what may be asked for.
    """
    signed = _decode(data, _REQUESTS, _Signed)
    verify(_service(signed.certificate, root).public_key, LABEL_REQUESTS, signed.signature, signed.body)
    requests = _decode(signed.body, b"", Requests)
    _check_network(requests, root)
    return requests


def encode_answers(answers: Answers) -> bytes:
    return _ANSWERS + msgspec.msgpack.encode(answers)


def open_answers(data: bytes, root: Root) -> Answers:
    """Raises `AuthenticationError` for those of another network. Nothing in them is proven yet."""
    answers = _decode(data, _ANSWERS, Answers)
    _check_network(answers, root)
    return answers


def _certificate_request(store: Store, order: OrderRecord) -> CertificateRequest:
    before = store.certificate(order.predecessor) if order.predecessor is not None else None
    return CertificateRequest(
        serial=order.serial.to_bytes(SERIAL_BYTES),
        name=order.name,
        ipv4=int(order.ipv4),
        tags=order.tags,
        is_ephemeral=order.is_ephemeral,
        request=order.request,
        predecessor=before.der if before is not None else b"",
        is_renewal=not order.key_id,
        key_id=order.key_id,
        source=order.source,
        created=order.created,
        life_s=order.life_s,
    )


def _service(der: bytes, root: Root) -> ServiceCertificate:
    form = read_form(der)
    if not root.signed(form):
        raise AuthenticationError("the requests are not from a service of this network")
    return service_certificate_of(form)


def _check_network(file: Requests | Answers, root: Root) -> None:
    if file.network != root.network or file.authority != root.fingerprint:
        raise AuthenticationError(f'this is for the network "{file.network}" of another authority')


def _decode(data: bytes, magic: bytes, kind: type[T]) -> T:
    if len(data) > MAX_FILE_BYTES:
        raise DecodeError(f"a file of {len(data)} bytes")
    if not data.startswith(magic):
        raise DecodeError("this is no such file of this program, or of another version of it")
    try:
        return msgspec.msgpack.decode(data[len(magic) :], type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from None
