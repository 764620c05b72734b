"""Targets of `fabric.identity`: papers that strangers send. Where a signature would stop every altered one, the input
is what is signed, and is signed here: what lies behind a signature meets a hostile peer, a service gone bad, and its
own later versions."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabric.crypto.digest import blake2b_256
from fabric.crypto.sealing import SEALING_PUBLIC_BYTES, SealingPair
from fabric.crypto.signature import (
    LABEL_BUNDLE,
    LABEL_ENVELOPE,
    LABEL_GRANT,
    LABEL_INTENT,
    LABEL_ROTATION,
    Ed25519Signer,
)
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.bundle import BundleSecrets, make_bundle, open_bundle, peek_bundle
from fabric.identity.certificate import decode_certificate
from fabric.identity.enrolment_key import EnrolmentKey
from fabric.identity.envelope import open_envelope, peek_envelope, seal_envelope
from fabric.identity.fault import CertificateFaultError
from fabric.identity.fingerprint import fingerprint_of, parse_fingerprint
from fabric.identity.grant import Grant, open_grant, peek_grant, sign_grant
from fabric.identity.intent import Intent, open_intent, peek_intent, sign_intent
from fabric.identity.name import network_of, parse_name, parse_network, parse_system, system_of
from fabric.identity.request import decode_request, make_request
from fabric.identity.revocation import open_revocations
from fabric.identity.root import decode_root
from fabric.identity.rotation import (
    as_option,
    decode_options,
    encode_rotation,
    open_rotation,
    peek_rotation,
    sign_rotation,
)
from fabric.identity.service_certificate import relay_certificate_of, service_certificate_of
from fabric.identity.signed import VERSION
from fabric.identity.trust import Trust
from fabric.identity.x509_form import read_form
from fabric.wire.envelope import EnvelopeKind, decode_head
from tests.fuzz.coverage.codecs import YEAR_10000
from tests.fuzz.coverage.target import Target
from tests.identity.household import NOW, SEED, START, Household

SIGNER = Ed25519Signer(SEED)
SIGNATURE_BYTES = 64
_TAIL = bytes.fromhex("300506032b6570034100")
"""What stands between what is signed and an Ed25519 signature in DER."""


@functools.cache
def _household() -> Household:
    return Household()


@functools.cache
def _trust() -> Trust:
    return _household().trust()


def _drawn() -> SealingPair:
    return SealingPair.generate(lambda count: b"s" * count)


# X.509


def _certificate(data: bytes) -> None:
    """In every part that it could be taken for; and by who holds a root against it."""
    certificate = decode_certificate(data)
    assert certificate.name == f"{system_of(certificate.name)}.{network_of(certificate.name)}"
    assert len(certificate.mac) == len(certificate.ipv4.packed) + 2
    assert len(parse_fingerprint(certificate.fingerprint)) == 39
    _trust().check(data, name=certificate.name, unix=NOW, pinned_key=None)


def _service_certificate(data: bytes) -> None:
    form = read_form(data)
    try:
        certificate = relay_certificate_of(form)
    except CertificateFaultError:
        certificate = service_certificate_of(form)
    for host in certificate.hosts or ("",):
        _trust().check_relay(data, host, NOW)


def _signed_certificate(data: bytes) -> None:
    """The input is what an authority signs: one whose key was stolen."""
    decode_certificate(_in_der(data, _household().seed))


def _revocations(data: bytes) -> None:
    revocations = open_revocations(_in_der(data, _household().seed), _household().authority.root)
    assert revocations.number >= 0


def _request(data: bytes) -> None:
    request = decode_request(_in_der(data, SEED))
    assert request.public_key == SIGNER.public_key


def _in_der(signed: bytes, seed: bytes) -> bytes:
    """Returns SEQUENCE { signed, Ed25519, signature }, as certificates, requests and lists are made."""
    content = signed + _TAIL + Ed25519PrivateKey.from_private_bytes(seed).sign(signed)
    long = b"\x82" + (len(content) & 0xFFFF).to_bytes(2)
    return b"\x30" + (long if len(content) > 255 else bytes((0x81, len(content)))) + content


def _inner(der: bytes) -> bytes:
    """Returns what of a certificate, request or list is signed."""
    head = 4 if der[1] == 0x82 else 3 if der[1] == 0x81 else 2
    return der[head : len(der) - len(_TAIL) - SIGNATURE_BYTES]


# papers of our own


def _intent(data: bytes) -> None:
    body = bytes((VERSION,)) + data
    signed = SIGNER.sign(LABEL_INTENT, body) + body
    intent = open_intent(signed, SIGNER.public_key)
    assert peek_intent(signed) == intent
    intent.holds(NOW)
    parse_name(intent.sender, intent.network)
    for statement in decode_options(intent.options, intent.sender, bytes(32)):
        assert peek_rotation(statement).name == intent.sender


def _bundle(data: bytes) -> None:
    body = bytes((VERSION,)) + data
    signed = SIGNER.sign(LABEL_BUNDLE, body) + body
    bundle = open_bundle(signed, SIGNER.public_key)
    assert peek_bundle(signed) == bundle
    assert len(bundle.offer_key) == SEALING_PUBLIC_BYTES


def _grant(data: bytes) -> None:
    body = bytes((VERSION,)) + data
    signed = SIGNER.sign(LABEL_GRANT, body) + body
    peek_grant(signed)
    grant = open_grant(signed, _trust(), NOW)
    assert grant.network == "home"


def _rotation(data: bytes) -> None:
    """Signed by whatever key it names as the old one, where that is ours."""
    body = bytes((VERSION,)) + data
    signed = SIGNER.sign(LABEL_ROTATION, body) + body
    rotation = peek_rotation(signed)
    if rotation.created < YEAR_10000:
        assert encode_rotation(rotation) == data[: len(encode_rotation(rotation))]
    open_rotation(signed)


def _unsigned(data: bytes) -> None:
    """Nobody signed these: what must not be reached is not."""
    for read in (open_intent, open_bundle):
        _refused(functools.partial(read, data, SIGNER.public_key))
    _refused(lambda: open_grant(data, _trust(), NOW))
    for peek in (peek_intent, peek_bundle, peek_grant):
        try:
            peek(data)
        except DecodeError:
            continue


def _refused(read: Callable[[], object]) -> None:
    try:
        read()
    except (AuthenticationError, DecodeError):
        return
    raise AssertionError("a paper that nobody signed was taken")


def _envelope(data: bytes) -> None:
    """The signature is made good; the seal is not."""
    peek_envelope(data)
    head, rest = decode_head(data)
    signature = SIGNER.sign(LABEL_ENVELOPE, head.header_bytes, head.sealed)
    whole = data[: len(data) - len(rest) - SIGNATURE_BYTES] + signature + rest
    open_envelope(whole, sender_key=SIGNER.public_key, network="home", recipient="web-2.home", opener=_drawn())


def _secrets(data: bytes) -> None:
    BundleSecrets.decode(data)


def _enrolment_key(data: bytes) -> None:
    text = data.decode("latin-1")
    key = EnrolmentKey.parse(text)
    assert EnrolmentKey.parse(key.encode()) == key


def _bare_enrolment_key(data: bytes) -> None:
    """The checksum is made good, as who makes a key by hand can do."""
    body = data + blake2b_256(b"fabric/1 enrolment key", data)[:4]
    key = EnrolmentKey.parse("fabric-key-" + base64.urlsafe_b64encode(body).decode().rstrip("="))
    assert EnrolmentKey.parse(key.encode()) == key


def _names(data: bytes) -> None:
    text = data.decode("utf-8", errors="surrogateescape")
    for read in (parse_system, parse_network, parse_fingerprint):
        try:
            read(text)
        except DecodeError as error:
            str(error).encode()  # what is shown to a person can be written
    name = parse_name(text, None)
    assert parse_name(name, None) == name


# genuine inputs


def _certificates() -> list[bytes]:
    home = _household()
    return [home.endpoint(), home.endpoint(tags=("web", "db:1")), home.service(), home.authority.root_der]


def _bodies(signed: bytes) -> list[bytes]:
    return [signed[SIGNATURE_BYTES + 1 :]]


def _an_intent() -> bytes:
    return sign_intent(
        SIGNER,
        Intent(
            "home",
            "web-1.home",
            "web-2.home",
            START,
            START,
            START + 60,
            (("key", "value"), as_option(_a_rotation())),
        ),
    )


def _a_bundle() -> bytes:
    return make_bundle(SIGNER, "web-1.home", lambda count: b"b" * count, START, None)[0]


def _a_rotation() -> bytes:
    return sign_rotation(SIGNER, "web-1.home", bytes(32), START)


def _a_grant() -> bytes:
    home = _household()
    grant = Grant("home", bytes(16), 1, SIGNER.public_key, START, START + 86_400, 10**6, 10**9)
    return sign_grant(SIGNER, home.service(), grant)


def _an_envelope() -> bytes:
    return seal_envelope(
        SIGNER,
        network="home",
        recipient="web-2.home",
        kind=EnvelopeKind.OFFER,
        id16=bytes(16),
        created=START,
        life_s=300,
        bundle_serial=1,
        recipient_key=_drawn().public,
        payload=b"offer",
    )


def _a_key() -> EnrolmentKey:
    return EnrolmentKey(("service.example:443", "[2001:db8::1]:443"), bytes(32), "k1", bytes(32))


def _key_bodies() -> list[bytes]:
    encoded = _a_key().encode().removeprefix("fabric-key-")
    return [base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))[:-4]]


def _some_secrets() -> list[bytes]:
    return [make_bundle(SIGNER, "web-1.home", lambda count: b"b" * count, START, None)[1].encode()]


_REFUSALS = (DecodeError, AuthenticationError)

TARGETS = (
    Target(
        "paper-certificate",
        _certificate,
        _certificates,
        ("certificate:decode_certificate",),
        (CertificateFaultError,),
        2100,
    ),
    Target(
        "paper-service-certificate",
        _service_certificate,
        lambda: [_household().service(), _certificates()[0]],
        ("x509_form:read_form",),
        (CertificateFaultError,),
        2100,
    ),
    Target(
        "paper-signed-certificate",
        _signed_certificate,
        lambda: [_inner(each) for each in _certificates()],
        (),
        (CertificateFaultError,),
        2100,
    ),
    Target(
        "paper-root",
        decode_root,
        lambda: [_household().authority.root_der],
        ("root:decode_root",),
        (CertificateFaultError,),
        2100,
    ),
    Target(
        "paper-revocations",
        _revocations,
        lambda: [_inner(_household().crl(7, 100, 101)), _inner(_household().crl(1))],
        ("revocation:open_revocations",),
        (CertificateFaultError,),
        2100,
    ),
    Target(
        "paper-request",
        _request,
        lambda: [_inner(make_request(SEED, "web-1.home")), _inner(make_request(SEED, "web-1"))],
        ("request:decode_request",),
        _REFUSALS,
        2100,
    ),
    Target(
        "paper-intent",
        _intent,
        lambda: _bodies(_an_intent()),
        ("intent:open_intent", "intent:peek_intent", "rotation:decode_options"),
        _REFUSALS,
        1024,
    ),
    Target(
        "paper-bundle",
        _bundle,
        lambda: _bodies(_a_bundle()),
        ("bundle:open_bundle", "bundle:peek_bundle"),
        _REFUSALS,
        4096,
    ),
    Target(
        "paper-grant", _grant, lambda: _bodies(_a_grant()), ("grant:open_grant", "grant:peek_grant"), _REFUSALS, 1600
    ),
    Target(
        "paper-rotation",
        _rotation,
        lambda: _bodies(_a_rotation()),
        ("rotation:open_rotation", "rotation:peek_rotation"),
        _REFUSALS,
        1024,
    ),
    Target(
        "paper-unsigned",
        _unsigned,
        lambda: [each[:1] + bytes(1) + each[2:] for each in (_an_intent(), _a_bundle(), _a_grant())],
        ("signed:open_body", "signed:peek_body"),
        _REFUSALS,
        4096,
    ),
    Target(
        "paper-envelope",
        _envelope,
        lambda: [_an_envelope()],
        ("envelope:open_envelope", "envelope:open_head", "envelope:peek_envelope"),
        _REFUSALS,
        4096,
    ),
    Target("paper-bundle-secrets", _secrets, _some_secrets, (), (DecodeError,), 256),
    Target("paper-enrolment-key", _enrolment_key, lambda: [_a_key().encode().encode()], (), (DecodeError,), 512),
    Target("paper-bare-enrolment-key", _bare_enrolment_key, _key_bodies, (), (DecodeError,), 512),
    Target(
        "paper-names",
        _names,
        lambda: [b"web-1.home", b"a.b.c", fingerprint_of(bytes(32)).encode()],
        ("name:parse_name", "name:parse_system", "name:parse_network", "fingerprint:parse_fingerprint"),
        length=128,
    ),
)
