"""Writes `identity.json`: what an authority issues and what identities sign, in numbers. Run it from the top.

Ed25519 is deterministic, so everything but the sealed envelope must come out the same in every run; an envelope that
an earlier run sealed is kept. Byte strings are hexadecimal. `tests/identity/test_vectors.py` reads them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from fabric.crypto.sealing import SealingPair
from fabric.crypto.signature import Ed25519Signer
from fabric.identity.authority import ENDPOINT_LIFE_S, ROOT_LIFE_S, SERVICE_LIFE_S, Authority
from fabric.identity.bundle import make_bundle
from fabric.identity.certificate import decode_certificate
from fabric.identity.enrolment_key import EnrolmentKey, enrolment_proof
from fabric.identity.envelope import EnvelopeKind, seal_envelope
from fabric.identity.fingerprint import safety_number
from fabric.identity.intent import Intent, sign_intent
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.request import decode_request, make_request

PATH = Path(__file__).with_name("identity.json")
START = 1_800_000_000.0
Vectors = dict[str, dict[str, str]]


def main() -> None:
    published = json.loads(PATH.read_text()) if PATH.exists() else None
    PATH.write_text(json.dumps(make(published), indent=1) + "\n")
    sys.stdout.write(f"{PATH}\n")


def fixed(label: str, count: int) -> bytes:
    """Returns the bytes that stand for a random draw in the vectors."""
    return hashlib.shake_256(f"fabric test vector: {label}".encode()).digest(count)


def make(published: Vectors | None) -> Vectors:
    return {
        "seeds": {name: fixed(name, 32).hex() for name in ("root", "web-1", "web-2", "service")},
        "authority": _authority(),
        "enrolment": _enrolment(),
        "signed": _signed(),
        "envelope": published["envelope"] if published else _envelope(),
    }


def _root() -> Authority:
    return Authority.create("home", seed=fixed("root", 32), serial=1, not_before=START, not_after=START + ROOT_LIFE_S)


def _service_certificate() -> bytes:
    return _root().issue_service(
        Ed25519Signer(fixed("service", 32)).public_key,
        ["discovery.example", "192.0.2.1", "2001:db8::1"],
        serial=2,
        not_before=START,
        not_after=START + SERVICE_LIFE_S,
    )


def _authority() -> dict[str, str]:
    root = _root()
    request = make_request(fixed("web-1", 32), "web-1")
    ipv4 = IPv4Address("100.64.0.1")
    prefix = ula_prefix(root.fingerprint)
    endpoint = root.issue_endpoint(
        decode_request(request),
        "web-1.home",
        addresses=[ipv4, ipv6_of(prefix, ipv4)],
        tags=["db", "site:north"],
        serial=3,
        not_before=START,
        not_after=START + ENDPOINT_LIFE_S,
    )
    certificate = decode_certificate(endpoint)
    return {
        "root": root.root_der.hex(),
        "root_fingerprint": root.fingerprint.hex(),
        "ula_prefix": str(prefix),
        "request": request.hex(),
        "endpoint": endpoint.hex(),
        "endpoint_fingerprint": certificate.fingerprint,
        "endpoint_mac": certificate.mac.hex(":"),
        "service": _service_certificate().hex(),
        "revocations": root.issue_crl({3: START + 60}, 7, START + 60, START + 86_460).hex(),
    }


def _enrolment() -> dict[str, str]:
    addresses = ("discovery.example:443", "[2001:db8::1]:443")
    key = EnrolmentKey(addresses, _root().fingerprint, "k7Qz", fixed("enrolment secret", 32))
    request = make_request(fixed("web-1", 32), "web-1")
    return {
        "addresses": " ".join(key.addresses),
        "key_id": key.key_id,
        "secret": key.secret.hex(),
        "line": key.encode(),
        "proof": enrolment_proof(key.secret, request, _service_certificate()).hex(),
    }


def _signed() -> dict[str, str]:
    signer = Ed25519Signer(fixed("web-1", 32))
    other = Ed25519Signer(fixed("web-2", 32))
    intent = Intent("home", "web-1.home", "web-2.home", START + 0.125, START, START + 3600, (("option", "value"),))
    bundle, secrets = make_bundle(signer, "web-1.home", _draws(), START, None)
    return {
        "public_key": signer.public_key.hex(),
        "intent": sign_intent(signer, intent).hex(),
        "offer_secret": secrets.offer.secret_bytes.hex(),
        "mail_secret": secrets.mail.secret_bytes.hex(),
        "bundle": bundle.hex(),
        "safety_number": safety_number("home", signer.public_key, other.public_key),
    }


def _envelope() -> dict[str, str]:
    recipient = SealingPair(fixed("offer key of web-2", 96))
    sealed = seal_envelope(
        Ed25519Signer(fixed("web-1", 32)),
        network="home",
        recipient="web-2.home",
        kind=EnvelopeKind.OFFER,
        id16=fixed("envelope id", 16),
        created=START + 0.125,
        life_s=300,
        bundle_serial=7,
        recipient_key=recipient.public,
        payload=b"candidates",
    )
    return {"recipient_secret": recipient.secret_bytes.hex(), "payload": b"candidates".hex(), "envelope": sealed.hex()}


def _draws() -> Callable[[int], bytes]:
    """Returns draws that differ from call to call and not from run to run."""
    calls = itertools.count(1)
    return lambda count: fixed(f"draw {next(calls)}", count)


if __name__ == "__main__":
    main()
