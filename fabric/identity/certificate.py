"""An endpoint's certificate: one name, one key, its overlay addresses, its tags.

    subject          O=network, OU=tag (one each), CN=system
    subjectAltName   dNSName system.network; iPAddress: one IPv4 and at most one IPv6

Tags stand in the subject's organizational units and not in an extension of our own, so that everything that reads
certificates shows them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fabric.errors import DecodeError
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.fingerprint import fingerprint_of
from fabric.identity.name import network_of, parse_name, system_of
from fabric.identity.overlay import mac_of
from fabric.identity.x509_form import Form, alternative_names, only_text, read_form, require_leaf, subject_texts

MAX_TAGS = 16
_TAG = re.compile(r"[a-z0-9]([a-z0-9:._-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says. It is proven only where `Trust.check` returned it.

    `name` is the full name, `public_key` 32 bytes of Ed25519, times are unix seconds; it is valid at `not_before`
    and no longer valid at `not_after`. `addresses` begin with the IPv4.
    """

    der: bytes = field(repr=False)
    name: str
    public_key: bytes
    serial: int
    not_before: float
    not_after: float
    addresses: tuple[IPv4Address | IPv6Address, ...]
    tags: tuple[str, ...]

    @property
    def ipv4(self) -> IPv4Address:
        return next(address for address in self.addresses if isinstance(address, IPv4Address))

    @property
    def ipv6(self) -> IPv6Address | None:
        return next((address for address in self.addresses if isinstance(address, IPv6Address)), None)

    @property
    def mac(self) -> bytes:
        return mac_of(self.ipv4)

    @property
    def fingerprint(self) -> str:
        """What `fabric add --fingerprint` takes."""
        return fingerprint_of(self.public_key)


def decode_certificate(der: bytes) -> Certificate:
    """Returns what `der` says, without any proof. Raises `CertificateFaultError` and nothing else."""
    return certificate_of(read_form(der))


def certificate_of(form: Form) -> Certificate:
    """Raises `CertificateFaultError` unless the form is an endpoint's."""
    require_leaf(form, ExtendedKeyUsageOID.CLIENT_AUTH)
    name, addresses = _names(form)
    is_named_alike = only_text(form.subject, NameOID.COMMON_NAME) == system_of(name)
    if not is_named_alike or only_text(form.subject, NameOID.ORGANIZATION_NAME) != network_of(name):
        raise CertificateFaultError(Fault.PROFILE, "its subject is not its name")
    return Certificate(
        der=form.der,
        name=name,
        public_key=form.public_key,
        serial=form.serial,
        not_before=form.not_before,
        not_after=form.not_after,
        addresses=addresses,
        tags=_tags(form),
    )


def check_tags(tags: tuple[str, ...]) -> None:
    """Raises `DecodeError` for tags that no certificate can carry."""
    if len(tags) > MAX_TAGS or len(set(tags)) != len(tags):
        raise DecodeError(f"at most {MAX_TAGS} tags, each once")
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise DecodeError(f"{tag!r} is no tag: 1 to 63 of a-z, 0-9 and inner : . _ -")


def _names(form: Form) -> tuple[str, tuple[IPv4Address | IPv6Address, ...]]:
    names: list[str] = []
    addresses: list[IPv4Address | IPv6Address] = []
    for entry in alternative_names(form):
        match entry:
            case x509.DNSName(value=name):
                names.append(name)
            case x509.IPAddress(value=IPv4Address() | IPv6Address() as address):
                addresses.append(address)
            case _:
                raise CertificateFaultError(Fault.PROFILE, "an alternative name of another kind")
    versions = sorted(address.version for address in addresses)
    if len(names) != 1 or versions not in ([4], [4, 6]):
        raise CertificateFaultError(Fault.PROFILE, "it needs one name, one IPv4 and at most one IPv6 address")
    return _name(names[0]), tuple(sorted(addresses, key=lambda address: address.version))


def _name(text: str) -> str:
    try:
        return parse_name(text, None)
    except DecodeError as error:
        raise CertificateFaultError(Fault.PROFILE, str(error)) from None


def _tags(form: Form) -> tuple[str, ...]:
    tags = subject_texts(form.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
    try:
        check_tags(tags)
    except DecodeError as error:
        raise CertificateFaultError(Fault.PROFILE, str(error)) from None
    return tags
