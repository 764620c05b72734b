"""A small network to try certificates in: an authority, an endpoint, a discovery service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import count

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fabric.identity.authority import ROOT_LIFE_S, Authority
from fabric.identity.request import Request, decode_request, make_request
from fabric.identity.trust import Trust
from fabric.identity.x509_form import leaf_usage, subject

START = 1_800_000_000.0
NOW = START + 1000
LIFE_S = 7 * 86_400
SEED = b"e" * 32
OTHER_SEED = b"o" * 32
ADDRESSES: tuple[IPv4Address | IPv6Address, ...] = (ip_address("100.64.0.7"), ip_address("fd12::7"))

Builder = x509.CertificateBuilder
Alter = Callable[[Builder], Builder]


@dataclass
class Household:
    """`authority` signs what is asked for; serial numbers count up."""

    network: str = "home"
    seed: bytes = b"a" * 32
    serials: count[int] = field(default_factory=lambda: count(100))

    def __post_init__(self) -> None:
        self.authority = Authority.create(
            self.network, seed=self.seed, serial=1, not_before=START, not_after=START + ROOT_LIFE_S
        )

    def trust(self, crl: bytes | None = None) -> Trust:
        return Trust(self.authority.root_der, self.network, crl)

    def request(self, name: str = "web-1.home", seed: bytes = SEED) -> Request:
        return decode_request(make_request(seed, name))

    def endpoint(
        self,
        name: str = "web-1.home",
        *,
        seed: bytes = SEED,
        addresses: tuple[IPv4Address | IPv6Address, ...] = ADDRESSES,
        tags: tuple[str, ...] = (),
        not_before: float = START,
        not_after: float = START + LIFE_S,
    ) -> bytes:
        return self.authority.issue_endpoint(
            self.request(name, seed),
            name,
            addresses=addresses,
            tags=tags,
            serial=next(self.serials),
            not_before=not_before,
            not_after=not_after,
        )

    def service(self, hosts: tuple[str, ...] = ("discovery.example", "192.0.2.1", "2001:db8::1")) -> bytes:
        return self.authority.issue_service(
            self.request().public_key,
            hosts,
            serial=next(self.serials),
            not_before=START,
            not_after=START + LIFE_S,
        )

    def crl(self, number: int, *serials: int) -> bytes:
        revoked = dict.fromkeys(serials, START)
        return self.authority.issue_crl(revoked, number, this_update=START, next_update=START + LIFE_S)

    def odd(self, alter: Alter) -> bytes:
        """Returns a certificate that the authority's key signed, made by hand: `alter` gets a builder that has
        subject, key and life, and adds what it likes."""
        key = Ed25519PrivateKey.from_private_bytes(SEED)
        builder = (
            Builder()
            .subject_name(subject(self.network, "web-1"))
            .issuer_name(self.authority.root.subject)
            .public_key(key.public_key())
            .serial_number(next(self.serials))
            .not_valid_before(datetime.fromtimestamp(START, UTC))
            .not_valid_after(datetime.fromtimestamp(START + LIFE_S, UTC))
        )
        root_key = Ed25519PrivateKey.from_private_bytes(self.seed)
        return alter(builder).sign(root_key, None).public_bytes(Encoding.DER)


def constraints(builder: Builder, *, ca: bool = False, path_length: int | None = None) -> Builder:
    return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)


def usage(builder: Builder) -> Builder:
    return builder.add_extension(leaf_usage(), critical=True)


def purpose(builder: Builder) -> Builder:
    return builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)


def names(builder: Builder, *entries: x509.GeneralName) -> Builder:
    chosen = entries or (x509.DNSName("web-1.home"), x509.IPAddress(ADDRESSES[0]))
    return builder.add_extension(x509.SubjectAlternativeName(chosen), critical=False)


def proper(builder: Builder) -> Builder:
    """Adds what an endpoint's certificate has."""
    return names(purpose(usage(constraints(builder))))
