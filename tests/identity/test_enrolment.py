"""What travels at enrolment: the pasted key, the proof of its secret, the certificate request."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.signature import Ed25519Signer
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.enrolment_key import EnrolmentKey, enrolment_proof
from fabric.identity.request import MAX_REQUEST_BYTES, NONCE_BYTES, NONCE_EXTENSION, decode_request, make_request

KEY = EnrolmentKey(("discovery.example:443", "[2001:db8::1]:8443"), b"f" * 32, "k7Qz", b"s" * 32)
SEED = b"e" * 32
REQUEST = make_request(SEED, "web-1.home")

hosts = st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}", fullmatch=True)
keys = st.builds(
    EnrolmentKey,
    addresses=st.lists(
        st.builds(lambda host, port: f"{host}:{port}", hosts, st.integers(1, 65_535)), min_size=1, max_size=8
    ).map(tuple),
    authority_fingerprint=st.binary(min_size=32, max_size=32),
    key_id=st.from_regex(r"[A-Za-z0-9_.-]{1,32}", fullmatch=True),
    secret=st.binary(min_size=32, max_size=32),
)


@given(keys)
def test_a_key_comes_back_from_its_line(key: EnrolmentKey) -> None:
    line = key.encode()
    assert EnrolmentKey.parse(line) == key
    assert re.fullmatch(r"fabric-key-[A-Za-z0-9_-]+", line)


def test_a_key_survives_the_ways_of_a_paste() -> None:
    line = KEY.encode()
    for pasted in (f"  {line}\n", f"{line[:40]}\n{line[40:]}", "\t".join((line[:70], line[70:]))):
        assert EnrolmentKey.parse(pasted) == KEY


def test_any_slip_in_a_key_is_noticed() -> None:
    line = KEY.encode()
    for at in range(len(line)):
        slip = line[:at] + ("A" if line[at] != "A" else "B") + line[at + 1 :]
        for text in (slip, line[:at], line[:at] + line[at + 1 :]):
            with pytest.raises(DecodeError):
                EnrolmentKey.parse(text)


@given(st.text(max_size=200) | st.text(max_size=200).map(lambda text: "fabric-key-" + text))
def test_any_text_is_a_key_or_a_decode_error(text: str) -> None:
    with pytest.raises(DecodeError):
        EnrolmentKey.parse(text)


def test_a_key_shows_no_secret_and_says_nothing_of_it_in_errors() -> None:
    assert repr(KEY.secret) not in repr(KEY)
    assert "k7Qz" in repr(KEY)


@pytest.mark.parametrize(
    "bad",
    [
        EnrolmentKey((), b"f" * 32, "k", b"s" * 32),
        EnrolmentKey(("a:1",) * 9, b"f" * 32, "k", b"s" * 32),
        EnrolmentKey(("a:0",), b"f" * 32, "k", b"s" * 32),
        EnrolmentKey(("a:65536",), b"f" * 32, "k", b"s" * 32),
        EnrolmentKey(("a",), b"f" * 32, "k", b"s" * 32),
        EnrolmentKey(("a b:1",), b"f" * 32, "k", b"s" * 32),
        EnrolmentKey(("a:1",), b"f" * 31, "k", b"s" * 32),
        EnrolmentKey(("a:1",), b"f" * 32, "", b"s" * 32),
        EnrolmentKey(("a:1",), b"f" * 32, "k" * 33, b"s" * 32),
        EnrolmentKey(("a:1",), b"f" * 32, "k", b"s" * 31),
    ],
)
def test_a_key_that_would_not_parse_is_not_made(bad: EnrolmentKey) -> None:
    with pytest.raises(DecodeError):
        bad.encode()


def test_a_proof_is_for_one_secret_one_request_and_one_connection() -> None:
    proofs = {
        enrolment_proof(secret, request, tls)
        for secret in (b"s" * 32, b"S" * 32)
        for request in (b"request", b"another")
        for tls in (b"tls", b"other")
    }
    assert len(proofs) == 8
    assert {len(proof) for proof in proofs} == {32}


@pytest.mark.parametrize("name", ["web-1", "web-1.home", "s" * 63 + "." + "n" * 63])
def test_a_request_shows_its_name_and_its_key(name: str) -> None:
    request = decode_request(make_request(SEED, name))
    assert request.name == name
    assert request.public_key == Ed25519Signer(SEED).public_key


def test_a_request_with_a_random_value_shows_it_and_is_the_same_again_only_with_the_same() -> None:
    first, second = (make_request(SEED, "web-1.home", bytes((n,)) * NONCE_BYTES) for n in (1, 2))
    assert decode_request(first).nonce == b"\1" * NONCE_BYTES
    assert decode_request(REQUEST).nonce == b""
    assert first == make_request(SEED, "web-1.home", b"\1" * NONCE_BYTES)
    assert len({first, second, REQUEST}) == 3


def test_the_random_value_is_proven_with_the_rest() -> None:
    request = make_request(SEED, "web-1.home", bytes(range(NONCE_BYTES)))
    at = request.index(bytes(range(NONCE_BYTES)))
    for offset in range(NONCE_BYTES):
        changed = bytes((request[at + offset] ^ 1,))
        with pytest.raises(AuthenticationError):
            decode_request(request[: at + offset] + changed + request[at + offset + 1 :])


def test_a_random_value_of_another_length_or_form_is_refused() -> None:
    with pytest.raises(DecodeError):
        make_request(SEED, "web-1.home", bytes(NONCE_BYTES - 1))
    for value, is_critical in ((b"\4\2ab", False), (bytes(18), False), (b"\4\20" + bytes(16), True)):
        builder = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("web-1.home")]), critical=False)
            .add_extension(x509.UnrecognizedExtension(NONCE_EXTENSION, value), critical=is_critical)
        )
        key = Ed25519PrivateKey.from_private_bytes(SEED)
        with pytest.raises(DecodeError):
            decode_request(builder.sign(key, None).public_bytes(Encoding.DER))


def test_no_request_is_made_for_a_name_that_is_none() -> None:
    for name in ("", "Web", "a.b..c", "a" * 64):
        with pytest.raises(DecodeError):
            make_request(SEED, name)


def test_a_request_with_any_byte_turned_is_refused() -> None:
    for at in range(len(REQUEST)):
        with pytest.raises((DecodeError, AuthenticationError)):
            decode_request(REQUEST[:at] + bytes((REQUEST[at] ^ 1,)) + REQUEST[at + 1 :])


def test_truncated_and_oversized_requests_are_refused() -> None:
    for length in range(len(REQUEST)):
        with pytest.raises(DecodeError):
            decode_request(REQUEST[:length])
    for data in (REQUEST + b"\0", bytes(MAX_REQUEST_BYTES + 1)):
        with pytest.raises(DecodeError):
            decode_request(data)


@given(st.binary(max_size=400))
def test_any_bytes_as_a_request_raise_a_decode_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_request(data)


def test_a_request_of_another_kind_is_refused() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    name = x509.SubjectAlternativeName([x509.DNSName("web-1.home")])
    two_names = x509.SubjectAlternativeName([x509.DNSName("web-1.home"), x509.DNSName("web-2.home")])
    address = x509.SubjectAlternativeName([x509.RFC822Name("a@example.org")])
    bad_name = x509.SubjectAlternativeName([x509.DNSName("*")])
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    made = [
        builder.add_extension(name, critical=False).sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
        builder.sign(key, None),
        builder.add_extension(two_names, critical=False).sign(key, None),
        builder.add_extension(address, critical=False).sign(key, None),
        builder.add_extension(bad_name, critical=False).sign(key, None),
    ]
    for request in made:
        with pytest.raises(DecodeError):
            decode_request(request.public_bytes(Encoding.DER))
