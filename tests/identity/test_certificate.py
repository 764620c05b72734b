"""Certificates: what they say, what the decoder refuses, and that others can read them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import CertificateError, DecodeError
from fabric.identity.authority import Authority, draw_serial
from fabric.identity.certificate import decode_certificate
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.fingerprint import parse_fingerprint
from fabric.identity.root import decode_root
from fabric.identity.x509_form import MAX_CERTIFICATE_BYTES, subject
from tests.identity.household import (
    ADDRESSES,
    LIFE_S,
    START,
    Alter,
    Builder,
    Household,
    constraints,
    names,
    proper,
    purpose,
    usage,
)

HOUSEHOLD = Household()
ENDPOINT = HOUSEHOLD.endpoint(tags=("db", "site:north"))
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program here")


def test_a_certificate_says_what_was_asked_of_the_authority() -> None:
    certificate = decode_certificate(ENDPOINT)
    assert certificate.name == "web-1.home"
    assert certificate.public_key == HOUSEHOLD.request().public_key
    assert certificate.addresses == ADDRESSES
    assert (certificate.ipv4, certificate.ipv6) == ADDRESSES
    assert certificate.mac == bytes.fromhex("02fa64400007")
    assert certificate.tags == ("db", "site:north")
    assert (certificate.not_before, certificate.not_after) == (START, START + LIFE_S)
    assert certificate.der == ENDPOINT
    assert parse_fingerprint(certificate.fingerprint.upper().replace("-", " ")) == certificate.fingerprint


def test_an_endpoint_without_ipv6_has_none() -> None:
    certificate = decode_certificate(HOUSEHOLD.endpoint(addresses=ADDRESSES[:1]))
    assert certificate.ipv6 is None
    assert certificate.tags == ()


def test_addresses_begin_with_the_ipv4_however_they_were_given() -> None:
    assert decode_certificate(HOUSEHOLD.endpoint(addresses=ADDRESSES[::-1])).addresses == ADDRESSES


def test_the_form_made_by_hand_is_accepted_so_that_its_variants_prove_something() -> None:
    assert decode_certificate(HOUSEHOLD.odd(proper)).name == "web-1.home"


def with_key(builder: Builder, key: ec.EllipticCurvePublicKey | ed448.Ed448PublicKey) -> Builder:
    builder._public_key = key
    return builder


ODD: dict[str, Alter] = {
    "an authority's flag": lambda b: names(purpose(usage(constraints(b, ca=True)))),
    "a path length of an authority": lambda b: names(purpose(usage(constraints(b, ca=True, path_length=3)))),
    "no basic constraints": lambda b: names(purpose(usage(b))),
    "uncritical basic constraints": lambda b: names(
        purpose(usage(b.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)))
    ),
    "no key usage": lambda b: names(purpose(constraints(b))),
    "a signing usage": lambda b: names(
        purpose(
            constraints(b).add_extension(
                x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True
            )
        )
    ),
    "no purpose": lambda b: names(usage(constraints(b))),
    "a server's purpose": lambda b: names(
        usage(constraints(b)).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    ),
    "two purposes": lambda b: names(
        usage(constraints(b)).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    ),
    "no names at all": lambda b: purpose(usage(constraints(b))),
    "a name without addresses": lambda b: names(purpose(usage(constraints(b))), x509.DNSName("web-1.home")),
    "addresses without a name": lambda b: names(purpose(usage(constraints(b))), x509.IPAddress(ADDRESSES[0])),
    "an IPv6 address alone": lambda b: names(
        purpose(usage(constraints(b))), x509.DNSName("web-1.home"), x509.IPAddress(ADDRESSES[1])
    ),
    "two IPv4 addresses": lambda b: names(
        purpose(usage(constraints(b))),
        x509.DNSName("web-1.home"),
        x509.IPAddress(ADDRESSES[0]),
        x509.IPAddress(ip_address("100.64.0.8")),
    ),
    "two names": lambda b: names(
        purpose(usage(constraints(b))),
        x509.DNSName("web-1.home"),
        x509.DNSName("web-2.home"),
        x509.IPAddress(ADDRESSES[0]),
    ),
    "a mail address": lambda b: names(
        purpose(usage(constraints(b))),
        x509.DNSName("web-1.home"),
        x509.IPAddress(ADDRESSES[0]),
        x509.RFC822Name("a@example.org"),
    ),
    "an upper-case name": lambda b: names(
        purpose(usage(constraints(b))), x509.DNSName("WEB-1.home"), x509.IPAddress(ADDRESSES[0])
    ),
    "a wildcard": lambda b: names(purpose(usage(constraints(b))), x509.DNSName("*.home"), x509.IPAddress(ADDRESSES[0])),
    "a name that is not the subject's": lambda b: names(
        purpose(usage(constraints(b))), x509.DNSName("web-2.home"), x509.IPAddress(ADDRESSES[0])
    ),
    "a network that is not the subject's": lambda b: names(
        purpose(usage(constraints(b))), x509.DNSName("web-1.work"), x509.IPAddress(ADDRESSES[0])
    ),
    "an unknown critical extension": lambda b: proper(b).add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.1.1"), b"\5\0"), critical=True
    ),
    "a key of another curve": lambda b: proper(with_key(b, ec.generate_private_key(ec.SECP256R1()).public_key())),
    "a key of Ed448": lambda b: proper(with_key(b, ed448.Ed448PrivateKey.generate().public_key())),
}


@pytest.mark.parametrize("alter", ODD.values(), ids=ODD.keys())
def test_a_certificate_of_another_form_is_refused_though_the_authority_signed_it(alter: Alter) -> None:
    der = HOUSEHOLD.odd(alter)
    with pytest.raises(CertificateFaultError) as caught:
        decode_certificate(der)
    assert caught.value.reason is Fault.PROFILE


def test_a_tag_that_is_none_and_a_second_common_name_are_refused() -> None:
    attributes = list(subject("home", "web-1"))
    for more in (
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Not A Tag"),
        x509.NameAttribute(NameOID.COMMON_NAME, "web-1"),
    ):
        name = x509.Name([*attributes, more])

        def renamed(builder: Builder, name: x509.Name = name) -> Builder:
            builder._subject_name = name
            return proper(builder)

        with pytest.raises(CertificateFaultError):
            decode_certificate(HOUSEHOLD.odd(renamed))


def test_an_uncritical_extension_of_later_times_is_ignored() -> None:
    later = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.1.1"), b"\5\0")
    der = HOUSEHOLD.odd(lambda builder: proper(builder).add_extension(later, critical=False))
    assert decode_certificate(der).name == "web-1.home"


def with_serial(der: bytes, serial: bytes) -> bytes:
    """Returns the certificate with other bytes for its serial number; the signature holds no more."""
    at = 13  # behind two SEQUENCEs with lengths of two bytes, and the version
    assert der[at - 5 : at + 1] == bytes.fromhex("a00302010202")
    old = 2 + der[at + 1]
    more = 2 + len(serial) - old
    outer, inner = (int.from_bytes(der[start : start + 2]) + more for start in (2, 6))
    head = der[:2] + outer.to_bytes(2) + der[4:6] + inner.to_bytes(2) + der[8:at]
    return head + bytes((2, len(serial))) + serial + der[at + old :]


def test_a_serial_number_of_more_than_twenty_bytes_is_refused() -> None:
    der, longest = Household().endpoint(), b"\x7f" + b"\xff" * 19
    assert decode_certificate(with_serial(der, longest)).serial == int.from_bytes(longest)
    with pytest.raises(CertificateFaultError) as caught:
        decode_certificate(with_serial(der, b"\x01" + bytes(20)))
    assert caught.value.reason is Fault.PROFILE


@given(st.binary(max_size=600))
def test_any_bytes_raise_a_certificate_error_and_nothing_else(data: bytes) -> None:
    for decode in (decode_certificate, decode_root):
        with pytest.raises(CertificateError):
            decode(data)


@given(st.data())
def test_any_damage_to_a_real_one_decodes_or_raises_a_certificate_error(data: st.DataObject) -> None:
    damaged = bytearray(ENDPOINT)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CertificateError):
        decode_certificate(bytes(damaged))


def test_the_parser_is_not_heard_when_bytes_are_odd(recwarn: pytest.WarningsRecorder) -> None:
    country = bytes.fromhex("550406")
    odd = HOUSEHOLD.authority.root_der.replace(bytes.fromhex("55040a"), country)  # a country of four letters
    with pytest.raises(CertificateError):
        decode_root(odd)
    assert not recwarn.list


def test_truncated_and_oversized_ones_are_refused() -> None:
    for length in range(len(ENDPOINT)):
        with pytest.raises(CertificateError):
            decode_certificate(ENDPOINT[:length])
    for data in (ENDPOINT + b"\0", ENDPOINT + bytes(MAX_CERTIFICATE_BYTES)):
        with pytest.raises(CertificateError):
            decode_certificate(data)


def test_the_authority_issues_nothing_that_endpoints_would_refuse() -> None:
    with pytest.raises(CertificateError):
        HOUSEHOLD.endpoint(addresses=())
    with pytest.raises(DecodeError):
        HOUSEHOLD.endpoint("web-1.work")
    for tags in (("Upper",), ("a", "a"), tuple(f"t{n}" for n in range(17)), ("",)):
        with pytest.raises(DecodeError):
            HOUSEHOLD.endpoint(tags=tags)


def test_the_longest_names_and_tags_fit_a_certificate() -> None:
    network = ".".join(("n" * 31, "m" * 31))
    long = Household(network)
    tags = tuple(f"{number:02}" + "t" * 61 for number in range(16))
    der = long.endpoint("s" * 63 + "." + network, tags=tags)
    assert decode_certificate(der).tags == tags


def test_an_authority_needs_the_key_of_its_root() -> None:
    with pytest.raises(CertificateError):
        Authority(b"b" * 32, ENDPOINT)
    with pytest.raises(Exception, match="not the one in its root"):
        Authority(b"b" * 32, HOUSEHOLD.authority.root_der)
    assert Authority(HOUSEHOLD.seed, HOUSEHOLD.authority.root_der).network == "home"
    assert repr(HOUSEHOLD.seed) not in repr(HOUSEHOLD.authority)


def test_serial_numbers_are_positive_and_fit() -> None:
    assert draw_serial(bytes) == 1
    assert draw_serial(lambda length: b"\xff" * length).bit_length() == 127


def test_no_endpoint_or_service_certificate_passes_as_a_root() -> None:
    for der in (ENDPOINT, HOUSEHOLD.service()):
        with pytest.raises(CertificateError):
            decode_root(der)


@needs_openssl
def test_openssl_reads_and_verifies_what_the_authority_issues(tmp_path: Path) -> None:
    files = {"root": HOUSEHOLD.authority.root_der, "endpoint": ENDPOINT, "service": HOUSEHOLD.service()}
    for name, der in files.items():
        pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        (tmp_path / f"{name}.pem").write_bytes(pem)
    (tmp_path / "crl.pem").write_bytes(x509.load_der_x509_crl(HOUSEHOLD.crl(3, 55)).public_bytes(Encoding.PEM))

    def openssl(*words: str) -> str:
        done = subprocess.run(["openssl", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    text = openssl("x509", "-in", "endpoint.pem", "-noout", "-text")
    assert "DNS:web-1.home, IP Address:100.64.0.7, IP Address:FD12:0:0:0:0:0:0:7" in text
    assert "OU = db, OU = site:north, CN = web-1" in text.replace("OU=", "OU = ").replace("CN=", "CN = ")
    assert "ED25519" in text
    strict = ("verify", "-x509_strict", "-attime", str(int(START + 10)), "-CAfile", "root.pem")
    openssl(*strict, "-purpose", "sslclient", "endpoint.pem")
    openssl(*strict, "-purpose", "sslserver", "-verify_hostname", "discovery.example", "service.pem")
    openssl(*strict, "-crl_check", "-CRLfile", "crl.pem", "endpoint.pem")
    assert "Serial Number: 37" in openssl("crl", "-in", "crl.pem", "-noout", "-text")
