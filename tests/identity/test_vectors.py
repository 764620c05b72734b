"""The published vectors: still what the code makes, and what other code can make of them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fabric.crypto.sealing import SealingPair
from fabric.errors import CertificateError
from fabric.identity.bundle import open_bundle
from fabric.identity.enrolment_key import EnrolmentKey
from fabric.identity.envelope import open_envelope
from fabric.identity.intent import open_intent
from fabric.identity.trust import Trust
from tests.vectors import make_identity

START = 1_800_000_000.0


@pytest.fixture(scope="module")
def published() -> Any:
    return json.loads(Path(make_identity.__file__).with_name("identity.json").read_text())


def joined(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def test_code_still_makes_the_published_vectors(published: Any) -> None:
    assert make_identity.make(published) == published


def test_published_certificates_hold_until_the_published_list_revokes_them(published: Any) -> None:
    authority = published["authority"]
    trust = Trust(bytes.fromhex(authority["root"]), "home", None)
    assert trust.fingerprint.hex() == authority["root_fingerprint"]
    endpoint = bytes.fromhex(authority["endpoint"])
    certificate = trust.check(endpoint, name="web-1.home", unix=START + 100, pinned_key=None)
    assert certificate.tags == ("db", "site:north")
    assert trust.check_service(bytes.fromhex(authority["service"]), "discovery.example", START + 100)
    assert trust.update_revocations(bytes.fromhex(authority["revocations"]))
    with pytest.raises(CertificateError, match="revoked"):
        trust.check(endpoint, name="web-1.home", unix=START + 100, pinned_key=None)


def test_fingerprints_are_blake2b_of_the_key_in_base32(published: Any) -> None:
    key = bytes.fromhex(published["signed"]["public_key"])
    digest = hashlib.blake2b(joined(key), digest_size=32).digest()
    printed = base64.b32encode(digest[:20]).decode().lower()
    assert published["authority"]["endpoint_fingerprint"].replace("-", "") == printed


def test_the_enrolment_line_and_proof_follow_from_the_page(published: Any) -> None:
    enrolment = published["enrolment"]
    key = EnrolmentKey.parse(enrolment["line"])
    assert (key.addresses, key.key_id) == (tuple(enrolment["addresses"].split()), enrolment["key_id"])
    assert key.authority_fingerprint.hex() == published["authority"]["root_fingerprint"]
    assert key.secret.hex() == enrolment["secret"]
    request, service = (bytes.fromhex(published["authority"][name]) for name in ("request", "service"))
    hashed = hashlib.blake2b(joined(service), digest_size=32).digest()
    proof = hashlib.blake2b(joined(request, hashed), key=key.secret, digest_size=32).hexdigest()
    assert proof == enrolment["proof"]


def test_signatures_stand_in_front_and_cover_label_and_the_rest(published: Any) -> None:
    signed = published["signed"]
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed["public_key"]))
    for name in ("intent", "bundle"):
        data = bytes.fromhex(signed[name])
        key.verify(data[:64], joined(f"fabric/1 {name}".encode(), data[64:]))


def test_published_intent_and_bundle_open(published: Any) -> None:
    signed = published["signed"]
    key = bytes.fromhex(signed["public_key"])
    intent = open_intent(bytes.fromhex(signed["intent"]), key)
    assert (intent.sender, intent.recipient, intent.created) == ("web-1.home", "web-2.home", START + 0.125)
    bundle = open_bundle(bytes.fromhex(signed["bundle"]), key)
    assert bundle.offer_key == SealingPair(bytes.fromhex(signed["offer_secret"])).public
    assert bundle.mail_key == SealingPair(bytes.fromhex(signed["mail_secret"])).public


def test_the_published_envelope_opens(published: Any) -> None:
    vector = published["envelope"]
    envelope = open_envelope(
        bytes.fromhex(vector["envelope"]),
        sender_key=bytes.fromhex(published["signed"]["public_key"]),
        network="home",
        recipient="web-2.home",
        opener=SealingPair(bytes.fromhex(vector["recipient_secret"])),
    )
    assert envelope.payload.hex() == vector["payload"]
