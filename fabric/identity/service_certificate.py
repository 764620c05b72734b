"""TLS certificates of the service and of relays, under the same root as the endpoints' but never taken for one."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.x509_form import RELAY_PURPOSE, Form, alternative_names, require_leaf


@dataclass(frozen=True, slots=True)
class ServiceCertificate:
    """What it says, a service's or a relay's. `hosts` are DNS names and IP addresses as text; times unix seconds."""

    der: bytes = field(repr=False)
    hosts: tuple[str, ...]
    public_key: bytes
    serial: int
    not_before: float
    not_after: float


def service_certificate_of(form: Form) -> ServiceCertificate:
    """Raises `CertificateFaultError` unless the form is a service's."""
    require_leaf(form, ExtendedKeyUsageOID.SERVER_AUTH)
    return _read(form)


def relay_certificate_of(form: Form) -> ServiceCertificate:
    """Raises `CertificateFaultError` unless the form is that of a relay which runs alone."""
    require_leaf(form, ExtendedKeyUsageOID.SERVER_AUTH, RELAY_PURPOSE)
    return _read(form)


def _read(form: Form) -> ServiceCertificate:
    return ServiceCertificate(
        der=form.der,
        hosts=tuple(_host(entry) for entry in alternative_names(form)),
        public_key=form.public_key,
        serial=form.serial,
        not_before=form.not_before,
        not_after=form.not_after,
    )


def canonical_host(text: str) -> str:
    """Returns an IP address in its canonical form and a DNS name in lower case, so that equal hosts compare equal."""
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        return text.rstrip(".").lower()


def _host(entry: x509.GeneralName) -> str:
    match entry:
        case x509.DNSName(value=name):
            return canonical_host(name)
        case x509.IPAddress(value=IPv4Address() | IPv6Address() as address):
            return str(address)
        case _:
            raise CertificateFaultError(Fault.PROFILE, "an alternative name of another kind")
