"""At the authority's key: what may be signed, judged by what was signed before.

The service that asks is not believed. The journal, kept beside the key, knows every certificate that is in its life:
whose name, whose key, which address; which of them was renewed, and by which request; and who was revoked. What
contradicts it is refused, with the reason. What was signed before is answered with the same bytes again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import msgspec

from discovery.core.authority import MAX_REVOCATIONS, digest_of
from discovery.core.orders import Answers, CertificateRequest, ListRequest, Requests, ServiceRequest, order_of
from discovery.core.signatory import backdate_s, sign_order
from fabric.errors import AuthenticationError, DecodeError, PolicyError
from fabric.identity.authority import DAY_S, Authority
from fabric.identity.certificate import Certificate, check_tags, decode_certificate
from fabric.identity.fingerprint import fingerprint_of
from fabric.identity.name import parse_name
from fabric.identity.request import Request, decode_request
from fabric.identity.revocation import open_revocations
from fabric.identity.root import Root
from fabric.identity.trust import Trust

MAX_LIFE_S = 400 * DAY_S
"""Nothing is signed for longer: it is the bound of what a service in the wrong hands can get once."""


class SignedCertificate(msgspec.Struct, frozen=True, tag="certificate", tag_field="what"):
    """`digest` is of the request; `predecessor` the serial number of the certificate that it renews, empty for none."""

    unix: float
    name: str
    serial: bytes
    public_key: bytes
    ipv4: int
    not_after: float
    digest: bytes
    predecessor: bytes
    der: bytes


class SignedList(msgspec.Struct, frozen=True, tag="revocations", tag_field="what"):
    unix: float
    number: int
    serials: tuple[bytes, ...]
    der: bytes


class SignedService(msgspec.Struct, frozen=True, tag="service", tag_field="what"):
    unix: float
    serial: bytes
    hosts: tuple[str, ...]
    der: bytes


Entry = SignedCertificate | SignedList | SignedService


@dataclass
class Journal:
    """What was signed. `add` takes entries in the order in which they were signed."""

    certificates: dict[bytes, SignedCertificate] = field(default_factory=dict)
    successors: dict[bytes, SignedCertificate] = field(default_factory=dict)
    revoked: set[bytes] = field(default_factory=set)
    newest_list: SignedList | None = None

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            match entry:
                case SignedCertificate():
                    self.certificates[entry.serial] = entry
                    if entry.predecessor:
                        self.successors[entry.predecessor] = entry
                case SignedList():
                    self.newest_list = entry
                    self.revoked.update(entry.serials)
                case SignedService():
                    pass

    def living(self, unix: float) -> Iterable[SignedCertificate]:
        """Those whose life has not ended and that no list has revoked."""
        for entry in self.certificates.values():
            if unix < entry.not_after and entry.serial not in self.revoked:
                yield entry


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would be signed, and what is refused, each with why. An empty fault: the one asked for, if any, is fine."""

    certificates: tuple[CertificateRequest, ...]
    refused: tuple[tuple[CertificateRequest, str], ...]
    service: ServiceRequest | None
    service_fault: str
    revocations: ListRequest | None
    list_fault: str

    def __len__(self) -> int:
        return len(self.certificates) + (self.service is not None) + (self.revocations is not None)

    @property
    def is_clean(self) -> bool:
        return not (self.refused or self.service_fault or self.list_fault)


def judge(requests: Requests, root: Root, journal: Journal, unix: float, unwanted: Container[str] = ()) -> Verdict:
    """Returns what may be signed of all that is asked. The list is looked at first: who it revokes is revoked.

    `unwanted` are the numbers of certificates that the person at the key won't have.
    """
    list_fault = _list_fault(requests.revocations, journal, unix) if requests.revocations is not None else ""
    revocations = requests.revocations if not list_fault else None
    revoked = {serial for serial, _, _ in revocations.entries} if revocations is not None else set()
    bench = _Bench(root, journal, journal.revoked | revoked, unix)
    granted, refused = [], []
    for request in requests.certificates:
        try:
            if request.number in unwanted:
                raise PolicyError("a person decided so")  # noqa: TRY301 - refused as all others are
            bench.examine(request)
        except (DecodeError, AuthenticationError, PolicyError) as error:
            refused.append((request, str(error)))
        else:
            granted.append(request)
    service_fault = _service_fault(requests.service) if requests.service is not None else ""
    service = requests.service if not service_fault else None
    return Verdict(tuple(granted), tuple(refused), service, service_fault, revocations, list_fault)


def sign(verdict: Verdict, authority: Authority, journal: Journal, unix: float) -> tuple[Answers, list[Entry]]:
    """Returns the answers, and what is to be in the journal before anybody gets them."""
    entries: list[Entry] = []
    certificates = []
    for request in verdict.certificates:
        known = journal.certificates.get(request.serial)
        if known is None:
            known = _sign_certificate(request, authority, unix)
            entries.append(known)
        certificates.append((request.serial, known.der))
    service = _sign_service(verdict.service, authority, unix) if verdict.service is not None else None
    listed = _sign_list(verdict.revocations, authority, journal, unix) if verdict.revocations is not None else None
    entries.extend(entry for entry in (service, listed) if entry is not None and entry is not journal.newest_list)
    answers = Answers(
        network=authority.network,
        authority=authority.fingerprint,
        certificates=tuple(certificates),
        refused=tuple((request.serial, _printable(why)) for request, why in verdict.refused),
        service=service.der if service is not None else b"",
        revocations=listed.der if listed is not None else b"",
    )
    return answers, entries


class _Bench:
    """Examines one request after the other; each that passes is held against the next ones."""

    def __init__(self, root: Root, journal: Journal, revoked: set[bytes], unix: float) -> None:
        self._trust = Trust(root.der, root.network, None)
        self._journal = journal
        self._revoked = revoked
        self._living_of: dict[str, list[SignedCertificate]] = {}
        self._holders: dict[int, set[str]] = {}
        for entry in journal.living(unix):
            if entry.serial not in revoked:
                self._living_of.setdefault(entry.name, []).append(entry)
                self._holders.setdefault(entry.ipv4, set()).add(entry.name)
        self._names: dict[str, bytes] = {}
        self._addresses: dict[int, str] = {}
        self._serials: set[bytes] = set()

    def examine(self, request: CertificateRequest) -> None:
        """Raises `DecodeError`, `AuthenticationError` or `PolicyError` with why it may not be signed."""
        decoded = decode_request(request.request)
        check_tags(request.tags)
        name = parse_name(decoded.name, self._trust.network)
        if name != request.name:
            raise PolicyError(f'the host asked for "{name}", the service for "{request.name}"')
        if request.life_s > MAX_LIFE_S:
            raise PolicyError(f"a life of {request.life_s / DAY_S:.0f} days is more than {MAX_LIFE_S // DAY_S}")
        known = self._journal.certificates.get(request.serial)
        if known is not None and not _is_same(known, request, decoded):
            raise PolicyError("its serial number was given to another certificate")
        if known is None:
            self._check_continuity(request, decoded)
            self._check_renewal(request, decoded)
            self._check_holders(request, decoded)
        self._enter(request, decoded)

    def _check_continuity(self, request: CertificateRequest, decoded: Request) -> None:
        """A name that is alive keeps its key, whatever the service says it is."""
        for entry in self._living_of.get(request.name, ()):
            if entry.public_key != decoded.public_key:
                raise PolicyError(
                    f"the name belongs to another key ({fingerprint_of(entry.public_key)}), and is not revoked"
                )

    def _check_renewal(self, request: CertificateRequest, decoded: Request) -> None:
        if not request.predecessor:
            if request.is_renewal:
                raise PolicyError("it renews a certificate that is not shown")
            return
        before = self._open_predecessor(request.predecessor)
        serial = before.serial.to_bytes(len(request.serial))
        if serial in self._revoked:
            raise PolicyError("the certificate that it renews is revoked")
        if before.name != request.name or before.public_key != decoded.public_key:
            raise PolicyError("the certificate that it renews is another's")
        if request.is_renewal and (int(before.ipv4) != request.ipv4 or before.tags != request.tags):
            raise PolicyError("it has another address or other tags than the certificate that it renews")
        successor = self._journal.successors.get(serial)
        if successor is not None and successor.digest != digest_of(request.request):
            raise PolicyError("the certificate was renewed by another request before: its key may be copied")

    def _open_predecessor(self, der: bytes) -> Certificate:
        """Its end does not matter: a host that was off renews late."""
        certificate = decode_certificate(der)
        self._trust.check(der, name=certificate.name, unix=certificate.not_before, pinned_key=None)
        return certificate

    def _check_holders(self, request: CertificateRequest, decoded: Request) -> None:
        """One name, one key; one address, one name; one serial number, one certificate."""
        if others := sorted(self._holders.get(request.ipv4, set()) - {request.name}):
            raise PolicyError(f'the address {IPv4Address(request.ipv4)} belongs to "{others[0]}"')
        if self._names.get(request.name, decoded.public_key) != decoded.public_key:
            raise PolicyError("two keys ask for the name")
        if self._addresses.get(request.ipv4, request.name) != request.name:
            raise PolicyError(f"two names ask for the address {IPv4Address(request.ipv4)}")
        if request.serial in self._serials:
            raise PolicyError("two ask for one serial number")

    def _enter(self, request: CertificateRequest, decoded: Request) -> None:
        self._names[request.name] = decoded.public_key
        self._addresses[request.ipv4] = request.name
        self._serials.add(request.serial)


def _printable(why: str) -> str:
    return "".join(char if " " <= char <= "~" and char not in "[]\\" else "?" for char in why)[:255]


def _service_fault(request: ServiceRequest) -> str:
    if request.life_s > MAX_LIFE_S:
        return f"a life of {request.life_s / DAY_S:.0f} days is more than {MAX_LIFE_S // DAY_S}"
    return "" if request.hosts else "it is for no host"


def _list_fault(request: ListRequest, journal: Journal, unix: float) -> str:
    """Returns why a list may not be signed, empty where it may: numbers grow, and nobody comes back from the dead."""
    newest = journal.newest_list
    serials = {serial for serial, _, _ in request.entries}
    if len(serials) != len(request.entries) or len(serials) > MAX_REVOCATIONS:
        return "it has entries twice, or too many"
    if newest is None:
        return ""
    is_again = request.number == newest.number and serials == set(newest.serials)
    if request.number <= newest.number and not is_again:
        return f"its number {request.number} is not above the last one, {newest.number}"
    for serial in newest.serials:
        entry = journal.certificates.get(serial)
        if serial not in serials and entry is not None and unix < entry.not_after and len(serials) < MAX_REVOCATIONS:
            return f'it leaves out a certificate of "{entry.name}" that was revoked before'
    return ""


def _is_same(known: SignedCertificate, request: CertificateRequest, decoded: Request) -> bool:
    return (known.name, known.public_key, known.ipv4, known.digest) == (
        request.name,
        decoded.public_key,
        request.ipv4,
        digest_of(request.request),
    )


def _sign_certificate(request: CertificateRequest, authority: Authority, unix: float) -> SignedCertificate:
    decoded = decode_request(request.request)
    der = sign_order(authority, order_of(request, decoded.public_key), unix)
    before = decode_certificate(request.predecessor).serial if request.predecessor else None
    return SignedCertificate(
        unix=unix,
        name=request.name,
        serial=request.serial,
        public_key=decoded.public_key,
        ipv4=request.ipv4,
        not_after=decode_certificate(der).not_after,
        digest=digest_of(request.request),
        predecessor=b"" if before is None else before.to_bytes(len(request.serial)),
        der=der,
    )


def _sign_service(request: ServiceRequest, authority: Authority, unix: float) -> SignedService:
    der = authority.issue_service(
        request.public_key,
        request.hosts,
        serial=int.from_bytes(request.serial),
        not_before=unix - backdate_s(request.life_s),
        not_after=unix + request.life_s,
    )
    return SignedService(unix, request.serial, request.hosts, der)


def _sign_list(request: ListRequest, authority: Authority, journal: Journal, unix: float) -> SignedList:
    if journal.newest_list is not None and journal.newest_list.number == request.number:
        return journal.newest_list
    since = {int.from_bytes(serial): at for serial, at, _ in request.entries}
    der = authority.issue_crl(since, number=request.number, this_update=unix, next_update=unix + request.life_s)
    open_revocations(der, authority.root)
    return SignedList(unix, request.number, tuple(serial for serial, _, _ in request.entries), der)
