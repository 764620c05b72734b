"""What a state directory holds for everybody to read: certificate, authority, revocation list, facts of the network.

authority.pem      the root: openssl x509 -in authority.pem -text
revocations.pem    the newest revocation list
network.json       where the service is, and the LAN's address ranges
certificate.pem    written last at enrolment: where it is, the others are
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fabric.errors import ConfigurationError
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.name import network_of
from fabric.identity.trust import Trust
from fabric.shell.durable import READABLE, write_durably


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """As the service told it at enrolment. `service` and `stun` are "host:port", `overlay` CIDR ranges."""

    service: tuple[str, ...]
    stun: tuple[str, ...]
    overlay: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Papers:
    """Proves nothing by itself: `trust()` and its checks do."""

    certificate: Certificate
    authority: bytes
    revocations: bytes | None
    network: Network

    @property
    def network_name(self) -> str:
        return network_of(self.certificate.name)

    def trust(self) -> Trust:
        """Raises `CertificateError` where the files contradict each other."""
        return Trust(self.authority, self.network_name, self.revocations)


def is_enrolled(directory: Path) -> bool:
    return (directory / "certificate.pem").exists()


def load_papers(directory: Path) -> Papers:
    """Raises `ConfigurationError` for a directory that is not enrolled, or whose files are damaged."""
    if not is_enrolled(directory):
        raise ConfigurationError(
            f"{directory} is not enrolled: make a key with `discoveryd key create` where the service runs, "
            f"then `fabric enrol KEY --state {directory}`"
        )
    revocations = directory / "revocations.pem"
    try:
        return Papers(
            certificate=decode_certificate(_read_certificate(directory / "certificate.pem")),
            authority=_read_certificate(directory / "authority.pem"),
            revocations=_read_revocations(revocations) if revocations.exists() else None,
            network=msgspec.json.decode((directory / "network.json").read_bytes(), type=Network),
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"{error.filename} is missing: enrol again") from None
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise ConfigurationError(f"the papers in {directory} are damaged ({error}): enrol again") from None


def store_papers(
    directory: Path, *, certificate: bytes, authority: bytes, revocations: bytes, network: Network
) -> None:
    """Keeps what an enrolment brought; a crash on the way leaves the directory not enrolled, or as it was."""
    write_durably(directory / "authority.pem", _certificate_pem(authority), mode=READABLE)
    store_revocations(directory, revocations)
    write_durably(directory / "network.json", msgspec.json.encode(network) + b"\n", mode=READABLE)
    store_certificate(directory, certificate)


def store_certificate(directory: Path, der: bytes) -> None:
    write_durably(directory / "certificate.pem", _certificate_pem(der), mode=READABLE)


def store_revocations(directory: Path, der: bytes) -> None:
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    write_durably(directory / "revocations.pem", pem, mode=READABLE)


def _certificate_pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _read_certificate(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def _read_revocations(path: Path) -> bytes:
    return x509.load_pem_x509_crl(path.read_bytes()).public_bytes(Encoding.DER)
