"""State directories as an enrolment leaves them, without a service: for tests of what comes after."""

from __future__ import annotations

import os
import ssl
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fabric.crypto.signature import Ed25519Signer
from fabric.custody.identity_file import Secrets, Surroundings, open_identity
from fabric.identity.authority import BACKDATE_S, ENDPOINT_LIFE_S, ROOT_LIFE_S, SERVICE_LIFE_S, Authority, draw_serial
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.request import Request, decode_request, make_request
from fabric.shell.papers import Network, store_papers

NETWORK = "home"


@dataclass(frozen=True)
class Homestead:
    """One authority, whose endpoints live under `directory`."""

    directory: Path
    authority: Authority
    service: tuple[str, ...] = ("127.0.0.1:9",)

    def settle(self, system: str, host: int = 1, *, life_s: float = ENDPOINT_LIFE_S) -> Path:
        """Returns the state directory of a new endpoint, with the overlay address 100.64.0.`host`."""
        state = self.directory / system
        state.mkdir(exist_ok=True)
        secrets = open_identity(kept_in(state))
        store_papers(
            state,
            certificate=self.issue(secrets, f"{system}.{NETWORK}", host, life_s=life_s),
            authority=self.authority.root_der,
            revocations=self.revocations(),
            network=Network(service=self.service, stun=(), overlay=("100.64.0.0/10", str(self.prefix()))),
        )
        return state

    def issue(self, secrets: Secrets, name: str, host: int, *, life_s: float = ENDPOINT_LIFE_S) -> bytes:
        """Returns a certificate for the key in `secrets`."""
        return self.issue_for(decode_request(make_request(secrets.seed, name)), name, host, life_s=life_s)

    def issue_for(self, request: Request, name: str, host: int, *, life_s: float = ENDPOINT_LIFE_S) -> bytes:
        ipv4 = IPv4Address("100.64.0.0") + host
        now = time.time()
        return self.authority.issue_endpoint(
            request,
            name,
            addresses=(ipv4, ipv6_of(self.prefix(), ipv4)),
            tags=(),
            serial=draw_serial(os.urandom),
            not_before=now + min(0.0, life_s) - BACKDATE_S,
            not_after=now + life_s,
        )

    def issue_service(self, *hosts: str) -> tuple[bytes, bytes]:
        """Returns the seed and the TLS certificate (DER) of a service."""
        seed = os.urandom(32)
        now = time.time()
        public_key = Ed25519Signer(seed).public_key
        serial = draw_serial(os.urandom)
        return seed, self.authority.issue_service(public_key, hosts, serial, now - BACKDATE_S, now + SERVICE_LIFE_S)

    def revocations(self) -> bytes:
        now = time.time()
        return self.authority.issue_crl({}, 1, now, now + ENDPOINT_LIFE_S)

    def prefix(self) -> IPv6Network:
        return ula_prefix(self.authority.fingerprint)


def kept_in(state: Path) -> Surroundings:
    """Returns where an endpoint has its keys that has no other custodian."""
    return Surroundings(state, None, {})


def found(directory: Path) -> Homestead:
    now = time.time()
    authority = Authority.create(
        NETWORK,
        seed=os.urandom(32),
        serial=draw_serial(os.urandom),
        not_before=now - BACKDATE_S,
        not_after=now + ROOT_LIFE_S,
    )
    return Homestead(directory, authority)


def service_context(homestead: Homestead, *hosts: str) -> tuple[ssl.SSLContext, bytes]:
    """Returns a server's TLS context with a certificate for `hosts`, the root behind it, and that certificate (DER)."""
    seed, certificate = homestead.issue_service(*hosts)
    chain = homestead.directory / f"service-{hosts[0]}.pem"
    return context_of(seed, certificate, homestead.authority.root_der, chain), certificate


def context_of(seed: bytes, certificate: bytes, root: bytes, chain: Path) -> ssl.SSLContext:
    """Returns a server's TLS context that shows this certificate and this root; `chain` is a file to write."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    chain.write_text(pem + ssl.DER_cert_to_PEM_cert(certificate) + ssl.DER_cert_to_PEM_cert(root))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context
