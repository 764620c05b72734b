"""The authority of a simulated network: it enrols, renews and revokes, without the limits of the real service."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from fabric.core.machine import Draw
from fabric.crypto.signature import Ed25519Signer
from fabric.identity.authority import (
    BACKDATE_S,
    DAY_S,
    ENDPOINT_LIFE_S,
    ROOT_LIFE_S,
    SERVICE_LIFE_S,
    Authority,
    draw_serial,
)
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.request import Request

NETWORK = "home"
FIRST_OVERLAY = IPv4Address("100.64.0.1")


class Office:
    """`unix` is the wall time at the beginning."""

    def __init__(self, draw: Draw, unix: float, host: str) -> None:
        self._draw = draw
        self.life_s: float = ENDPOINT_LIFE_S
        begun = unix - DAY_S
        self.seed = draw(32)
        """The authority's private key, for whoever steals it."""
        self.authority = Authority.create(
            NETWORK, seed=self.seed, serial=draw_serial(draw), not_before=begun, not_after=begun + ROOT_LIFE_S
        )
        self.service_seed = draw(32)
        self.service_signer = Ed25519Signer(self.service_seed)
        self.tls_certificate = self.authority.issue_service(
            self.service_signer.public_key,
            hosts=[host],
            serial=draw_serial(draw),
            not_before=begun,
            not_after=begun + SERVICE_LIFE_S,
        )
        self._issued: dict[str, Certificate] = {}
        self._revoked: dict[int, float] = {}
        self._crl_number = 0
        self.crl = self._make_crl(unix)

    def enrol(self, name: str, public_key: bytes, unix: float) -> Certificate:
        """Returns a certificate with addresses that nobody has."""
        ipv4 = FIRST_OVERLAY + len(self._issued)
        return self._issue(name, public_key, (ipv4, ipv6_of(ula_prefix(self.authority.fingerprint), ipv4)), unix)

    def renew(self, name: str, unix: float) -> Certificate:
        """Returns the next certificate over the same key."""
        last = self._issued[name]
        return self._issue(name, last.public_key, last.addresses, unix)

    def issued_to(self, name: str) -> Certificate:
        return self._issued[name]

    def revoke(self, name: str, unix: float) -> bytes:
        """Returns the new revocation list."""
        self._revoked[self._issued[name].serial] = unix
        self.crl = self._make_crl(unix)
        return self.crl

    def revoke_all_of(self, other: Office) -> bytes:
        """Returns a list by this authority of everything that another one has issued."""
        revoked = {certificate.serial: 0.0 for certificate in other._issued.values()}
        return self.authority.issue_crl(revoked, number=10**6, this_update=0.0, next_update=2e9)

    def _issue(
        self, name: str, public_key: bytes, addresses: tuple[IPv4Address | IPv6Address, ...], unix: float
    ) -> Certificate:
        certificate = self._issued[name] = self.certify(name, public_key, addresses, unix)
        return certificate

    def certify(
        self, name: str, public_key: bytes, addresses: tuple[IPv4Address | IPv6Address, ...], unix: float
    ) -> Certificate:
        """Returns a certificate that the books of this office know nothing of: what a thief of its key makes."""
        der = self.authority.issue_endpoint(
            Request(name, public_key),
            name,
            addresses=addresses,
            tags=(),
            serial=draw_serial(self._draw),
            not_before=unix - BACKDATE_S,
            not_after=unix + self.life_s,
        )
        return decode_certificate(der)

    def _make_crl(self, unix: float) -> bytes:
        self._crl_number += 1
        return self.authority.issue_crl(
            self._revoked, number=self._crl_number, this_update=unix, next_update=unix + DAY_S
        )
