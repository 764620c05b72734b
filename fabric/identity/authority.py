"""What an authority signs: its own root, certificates of endpoints, services and relays, revocation lists.

Pure: keys, serial numbers and times come in. Times are unix seconds, cut to whole ones as X.509 has them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from fabric.errors import AuthenticationError
from fabric.identity.certificate import check_tags, decode_certificate
from fabric.identity.name import network_of, parse_name, parse_network, system_of
from fabric.identity.placeholder import PLACEHOLDER, sign_instead
from fabric.identity.request import Request
from fabric.identity.root import Root, decode_root
from fabric.identity.service_certificate import canonical_host
from fabric.identity.x509_form import RELAY_PURPOSE, leaf_usage, root_usage, subject

DAY_S = 86_400
ENDPOINT_LIFE_S = 7 * DAY_S
SERVICE_LIFE_S = 90 * DAY_S
ROOT_LIFE_S = 3652 * DAY_S
"""Ten years."""

BACKDATE_S = 300
"""Subtract it from the wall time for `not_before`: a host whose clock lags a little can begin at once."""


def draw_serial(draw: Callable[[int], bytes]) -> int:
    """Returns a serial number of 127 random bits (RFC 5280 allows 159): none is ever drawn twice."""
    return int.from_bytes(draw(16)) >> 1 or 1


class RootKey(Protocol):
    """Signs with a root's key, wherever that is. Both may raise where the key is out of reach."""

    def public_key(self) -> bytes:
        """Returns 32 bytes."""
        ...

    def sign_raw(self, message: bytes) -> bytes:
        """Returns the 64-byte Ed25519 signature (RFC 8032, pure) over `message` as it is."""
        ...


class Authority:
    """A root key, or its 32-byte seed, with its certificate. Raises `CertificateError` for no root,
    `AuthenticationError` for another root's key."""

    __slots__ = ("_key", "_public_key", "_root")

    def __init__(self, key: RootKey | bytes, root_der: bytes) -> None:
        self._key = _SeedKey(key) if isinstance(key, bytes) else key
        self._root = decode_root(root_der)
        public_key = self._key.public_key()
        if self._root.public_key != public_key:
            raise AuthenticationError("the authority's key is not the one in its root certificate")
        self._public_key = Ed25519PublicKey.from_public_bytes(public_key)

    @classmethod
    def create(cls, network: str, *, seed: bytes, serial: int, not_before: float, not_after: float) -> Authority:
        """Makes a new root for `network`. Raises `DecodeError` for a name that is none."""
        return cls.create_under(_SeedKey(seed), network, serial=serial, not_before=not_before, not_after=not_after)

    @classmethod
    def create_under(cls, key: RootKey, network: str, *, serial: int, not_before: float, not_after: float) -> Authority:
        """As `create`, over a key that need not be here."""
        name = subject(parse_network(network), "fabric authority")
        builder = (
            _builder(name, Ed25519PublicKey.from_public_bytes(key.public_key()), serial, not_before, not_after)
            .issuer_name(name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(root_usage(), critical=True)
        )
        return cls(key, _sign_certificate(builder, key))

    def __repr__(self) -> str:
        return f"Authority({self._root!r})"

    @property
    def root(self) -> Root:
        return self._root

    @property
    def root_der(self) -> bytes:
        return self._root.der

    @property
    def network(self) -> str:
        return self._root.network

    @property
    def fingerprint(self) -> bytes:
        """32 bytes, as an enrolment key pins it."""
        return self._root.fingerprint

    def issue_endpoint(
        self,
        request: Request,
        name: str,
        *,
        addresses: Iterable[IPv4Address | IPv6Address],
        tags: Iterable[str],
        serial: int,
        not_before: float,
        not_after: float,
    ) -> bytes:
        """Returns an endpoint's certificate in DER. `name` is the one granted, whatever was requested.

        Raises `DecodeError` for a name or tag that is none or not in this network, `CertificateError` where the
        outcome would be refused by endpoints (no IPv4 address, too long).
        """
        parse_name(name, self.network)
        units = tuple(tags)
        check_tags(units)
        names = [x509.DNSName(name), *(x509.IPAddress(address) for address in addresses)]
        holder = subject(network_of(name), system_of(name), units)
        key = Ed25519PublicKey.from_public_bytes(request.public_key)
        builder = _builder(holder, key, serial, not_before, not_after)
        der = self._sign_leaf(builder, names, ExtendedKeyUsageOID.CLIENT_AUTH)
        decode_certificate(der)
        return der

    def issue_service(
        self, public_key: bytes, hosts: Iterable[str], serial: int, not_before: float, not_after: float
    ) -> bytes:
        """Returns a TLS server certificate in DER for `hosts`, DNS names or IP addresses as text."""
        names = [_host_name(canonical_host(host)) for host in hosts]
        key = Ed25519PublicKey.from_public_bytes(public_key)
        builder = _builder(subject(self.network, "discovery service"), key, serial, not_before, not_after)
        return self._sign_leaf(builder, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_relay(
        self, public_key: bytes, hosts: Iterable[str], serial: int, not_before: float, not_after: float
    ) -> bytes:
        """As `issue_service`, for a relay that runs alone: TLS servers both, but nothing that a relay signs or says
        is believed, so its certificate has a purpose more and passes neither as the service's nor as an endpoint's.
        """
        names = [_host_name(canonical_host(host)) for host in hosts]
        key = Ed25519PublicKey.from_public_bytes(public_key)
        builder = _builder(subject(self.network, "relay"), key, serial, not_before, not_after)
        return self._sign_leaf(builder, names, ExtendedKeyUsageOID.SERVER_AUTH, RELAY_PURPOSE)

    def issue_crl(self, revoked: Mapping[int, float], number: int, this_update: float, next_update: float) -> bytes:
        """Returns a revocation list in DER. `revoked` has serial numbers and when each was revoked.

        `number` must be higher than that of every list before.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._root.subject)
            .last_update(_date(this_update))
            .next_update(_date(next_update))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        for serial, since in revoked.items():
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_date(since))
            builder = builder.add_revoked_certificate(entry.build())
        form = builder.sign(PLACEHOLDER, None)
        body = form.tbs_certlist_bytes
        return sign_instead(form.public_bytes(Encoding.DER), body, body, self._key.sign_raw)

    def _sign_leaf(
        self, builder: x509.CertificateBuilder, names: Iterable[x509.GeneralName], *purposes: ObjectIdentifier
    ) -> bytes:
        whole = (
            builder.issuer_name(self._root.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(leaf_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(self._key_identifier(), critical=False)
        )
        return _sign_certificate(whole, self._key)

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._public_key)


class _SeedKey:
    """A `RootKey` in this process's memory."""

    __slots__ = ("_key",)

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)

    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign_raw(self, message: bytes) -> bytes:
        return self._key.sign(message)


def _sign_certificate(builder: x509.CertificateBuilder, key: RootKey) -> bytes:
    form = builder.sign(PLACEHOLDER, None)
    body = form.tbs_certificate_bytes
    return sign_instead(form.public_bytes(Encoding.DER), body, body, key.sign_raw)


def _builder(
    holder: x509.Name, key: Ed25519PublicKey, serial: int, not_before: float, not_after: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(holder)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(_date(not_before))
        .not_valid_after(_date(not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _date(unix: float) -> datetime:
    return datetime.fromtimestamp(int(unix), tz=UTC)
