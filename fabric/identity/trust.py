"""What an endpoint holds against a certificate that is shown to it."""

from __future__ import annotations

from collections.abc import Callable

from fabric.identity.certificate import Certificate, certificate_of
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.revocation import RevocationList, open_revocations
from fabric.identity.root import Root, decode_root
from fabric.identity.service_certificate import (
    ServiceCertificate,
    canonical_host,
    relay_certificate_of,
    service_certificate_of,
)
from fabric.identity.x509_form import Form, read_form

_REMEMBERED = 1024
"""Certificates whose chain need not be proven again: about 0.1 ms each, and some hundred peers re-key for ever."""


class Trust:
    """One authority's root, its newest revocations, and the rules that follow from both."""

    __slots__ = ("_proven", "_revocations", "_root")

    def __init__(self, authority_der: bytes, network: str, crl_der: bytes | None) -> None:
        """Raises `CertificateError` for a root or list that is none, or for a root of another network."""
        self._root = decode_root(authority_der)
        if self._root.network != network:
            raise CertificateFaultError(Fault.WRONG_NAME, f'the root is of the network "{self._root.network}"')
        self._revocations = RevocationList(b"", -1, frozenset())
        self._proven: dict[bytes, Certificate] = {}
        if crl_der is not None:
            self.update_revocations(crl_der)

    @property
    def root(self) -> Root:
        return self._root

    @property
    def network(self) -> str:
        return self._root.network

    @property
    def fingerprint(self) -> bytes:
        """The authority's, 32 bytes, as an enrolment key pins it."""
        return self._root.fingerprint

    @property
    def crl(self) -> bytes | None:
        """The newest revocation list in DER."""
        return self._revocations.der or None

    @property
    def crl_number(self) -> int:
        """The newest revocation list's number; -1 where there is none yet."""
        return self._revocations.number

    def check(self, certificate_der: bytes, *, name: str, unix: float, pinned_key: bytes | None) -> Certificate:
        """Returns the certificate if it may be believed at this wall time, from an endpoint called `name`.

        In this order: form, chain, life, revocation, the expected name, continuity of the key (where one is
        pinned). Raises `CertificateFaultError`, whose `reason` says which of these failed.
        """
        certificate = self._prove(certificate_der)
        self._check_life(certificate, unix)
        if certificate.name != name:
            raise CertificateFaultError(Fault.WRONG_NAME, f'it names "{certificate.name}", expected is "{name}"')
        if pinned_key is not None and certificate.public_key != pinned_key:
            raise CertificateFaultError(Fault.WRONG_KEY, name)
        return certificate

    def check_service(self, certificate_der: bytes, host: str, unix: float) -> ServiceCertificate:
        """Returns the discovery service's certificate, proven, if it is valid for `host` (DNS name or IP) now.

        Raises `CertificateFaultError`.
        """
        return self._check_server(service_certificate_of, certificate_der, host, unix)

    def check_relay(self, certificate_der: bytes, host: str, unix: float) -> ServiceCertificate:
        """As `check_service`, for a relay: one that runs alone, or the service, which is a relay too."""
        try:
            return self._check_server(relay_certificate_of, certificate_der, host, unix)
        except CertificateFaultError as refused:
            if refused.reason is not Fault.PROFILE:
                raise
        return self.check_service(certificate_der, host, unix)

    def _check_server(
        self, read: Callable[[Form], ServiceCertificate], certificate_der: bytes, host: str, unix: float
    ) -> ServiceCertificate:
        form = read_form(certificate_der)
        self._check_chain(form)
        certificate = read(form)
        self._check_life(certificate, unix)
        if canonical_host(host) not in certificate.hosts:
            raise CertificateFaultError(Fault.WRONG_NAME, f'it is for {", ".join(certificate.hosts)}, not for "{host}"')
        return certificate

    def update_revocations(self, crl_der: bytes) -> bool:
        """Takes a list if it is newer than the stored one, and returns whether it was.

        Raises `CertificateFaultError` for one that this authority has not signed; the stored one then stays.
        """
        offered = open_revocations(crl_der, self._root)
        if offered.number <= self._revocations.number:
            return False
        self._revocations = offered
        return True

    def is_revoked(self, certificate: Certificate | ServiceCertificate) -> bool:
        return self.has_revoked(certificate.serial)

    def has_revoked(self, serial: int) -> bool:
        """For a certificate of which only the serial number is known."""
        return serial in self._revocations.serials

    def _prove(self, der: bytes) -> Certificate:
        """Returns the decoded certificate if it chains to the root: which never changes, so it is remembered."""
        proven = self._proven.get(der)
        if proven is None:
            form = read_form(der)
            self._check_chain(form)
            proven = certificate_of(form)
            self._remember(proven)
        return proven

    def _remember(self, certificate: Certificate) -> None:
        if len(self._proven) >= _REMEMBERED:
            del self._proven[next(iter(self._proven))]
        self._proven[certificate.der] = certificate

    def _check_chain(self, form: Form) -> None:
        if not self._root.signed(form):
            raise CertificateFaultError(Fault.FOREIGN)

    def _check_life(self, certificate: Certificate | ServiceCertificate, unix: float) -> None:
        if unix < max(certificate.not_before, self._root.not_before):
            raise CertificateFaultError(Fault.NOT_YET_VALID)
        if unix >= min(certificate.not_after, self._root.not_after):
            raise CertificateFaultError(Fault.EXPIRED)
        if self.is_revoked(certificate):
            raise CertificateFaultError(Fault.REVOKED)
