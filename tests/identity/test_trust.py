"""Trust: who is believed, when, under which name, and what a hostile certificate or list can't do."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import CertificateError
from fabric.identity.authority import Authority
from fabric.identity.certificate import decode_certificate
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.trust import Trust
from tests.identity.household import LIFE_S, NOW, OTHER_SEED, SEED, START, Builder, Household, constraints, proper

HOME = Household()
ENDPOINT = HOME.endpoint()
IMPOSTOR = Household(seed=b"i" * 32)
"""An authority of the same name, made by somebody else."""


def refused(
    trust: Trust,
    der: bytes,
    *,
    name: str = "web-1.home",
    unix: float = NOW,
    pinned_key: bytes | None = None,
) -> Fault:
    with pytest.raises(CertificateFaultError) as caught:
        trust.check(der, name=name, unix=unix, pinned_key=pinned_key)
    return caught.value.reason


def test_a_proper_certificate_is_believed_the_first_time_and_again() -> None:
    trust = HOME.trust()
    key = HOME.request().public_key
    first = trust.check(ENDPOINT, name="web-1.home", unix=NOW, pinned_key=None)
    again = trust.check(ENDPOINT, name="web-1.home", unix=NOW, pinned_key=key)
    assert first == again == decode_certificate(ENDPOINT)
    assert (trust.network, trust.fingerprint) == ("home", HOME.authority.fingerprint)


def test_the_service_is_a_relay_too_and_an_endpoint_is_none() -> None:
    trust = HOME.trust()
    assert trust.check_relay(HOME.service(), "192.0.2.1", NOW).hosts[0] == "discovery.example"
    for der, host, unix in (
        (ENDPOINT, "web-1.home", NOW),
        (HOME.service(), "192.0.2.9", NOW),
        (HOME.service(), "192.0.2.1", START + LIFE_S),
        (IMPOSTOR.service(), "192.0.2.1", NOW),
    ):
        with pytest.raises(CertificateError):
            trust.check_relay(der, host, unix)


@pytest.mark.parametrize("is_remembered", [False, True])
def test_each_rule_has_its_own_reason_and_none_is_skipped_for_a_remembered_one(is_remembered: bool) -> None:
    trust = HOME.trust()
    if is_remembered:
        trust.check(ENDPOINT, name="web-1.home", unix=NOW, pinned_key=None)
    assert refused(trust, ENDPOINT, name="web-2.home") is Fault.WRONG_NAME
    assert refused(trust, ENDPOINT, name="web-1.work") is Fault.WRONG_NAME
    assert refused(trust, ENDPOINT, unix=START - 1) is Fault.NOT_YET_VALID
    assert refused(trust, ENDPOINT, unix=START + LIFE_S) is Fault.EXPIRED
    assert refused(trust, ENDPOINT, pinned_key=HOME.request(seed=OTHER_SEED).public_key) is Fault.WRONG_KEY
    trust.update_revocations(HOME.crl(1, decode_certificate(ENDPOINT).serial))
    assert refused(trust, ENDPOINT) is Fault.REVOKED


def test_a_certificate_ends_at_the_instant_that_it_names() -> None:
    trust = HOME.trust()
    assert trust.check(ENDPOINT, name="web-1.home", unix=START + LIFE_S - 0.001, pinned_key=None)
    assert refused(trust, ENDPOINT, unix=START + LIFE_S) is Fault.EXPIRED


def test_no_certificate_outlives_its_root() -> None:
    root = HOME.trust().root
    late = HOME.endpoint(not_before=root.not_after - 10, not_after=root.not_after + 1000)
    assert HOME.trust().check(late, name="web-1.home", unix=root.not_after - 5, pinned_key=None)
    assert refused(HOME.trust(), late, unix=root.not_after + 5) is Fault.EXPIRED


def test_another_authority_of_the_same_name_is_foreign() -> None:
    assert refused(HOME.trust(), IMPOSTOR.endpoint()) is Fault.FOREIGN
    work = Household("work", seed=HOME.seed)
    assert refused(HOME.trust(), work.endpoint("web-1.work"), name="web-1.work") is Fault.FOREIGN


def test_an_endpoint_can_issue_nothing() -> None:
    by_endpoint = Household(seed=SEED)  # its key is the endpoint's own, its root one that it made itself
    assert refused(HOME.trust(), by_endpoint.endpoint("web-2.home"), name="web-2.home") is Fault.FOREIGN


def test_an_authority_in_between_is_refused_itself() -> None:
    between = HOME.odd(lambda builder: constraints(builder, ca=True, path_length=0))
    assert refused(HOME.trust(), between) is Fault.PROFILE
    assert refused(HOME.trust(), HOME.authority.root_der) is Fault.PROFILE


def test_the_right_signature_under_another_issuer_is_foreign() -> None:
    def misnamed(builder: Builder) -> Builder:
        builder._issuer_name = x509.Name([])
        return proper(builder)

    assert refused(HOME.trust(), HOME.odd(misnamed)) is Fault.FOREIGN


def test_every_single_byte_turned_is_refused() -> None:
    trust = HOME.trust()
    for at in range(len(ENDPOINT)):
        for turn in (1, 0x80, 0xFF):
            damaged = ENDPOINT[:at] + bytes((ENDPOINT[at] ^ turn,)) + ENDPOINT[at + 1 :]
            assert refused(trust, damaged) in (Fault.MALFORMED, Fault.PROFILE, Fault.FOREIGN)
    assert trust.check(ENDPOINT, name="web-1.home", unix=NOW, pinned_key=None)


@given(st.binary(max_size=300))
def test_any_bytes_as_certificate_or_list_raise_a_certificate_error(data: bytes) -> None:
    trust = HOME.trust()
    with pytest.raises(CertificateError):
        trust.check(data, name="web-1.home", unix=NOW, pinned_key=None)
    with pytest.raises(CertificateError):
        trust.check_service(data, "discovery.example", NOW)
    with pytest.raises(CertificateError):
        trust.update_revocations(data)


@pytest.mark.slow
def test_trust_remembers_a_bounded_number_of_chains() -> None:
    trust = HOME.trust()
    for number in range(1030):
        trust._remember(decode_certificate(HOME.endpoint(not_before=START + number)))
    assert len(trust._proven) == 1024


def test_trust_begins_with_a_root_of_its_own_network_only() -> None:
    for der, network in ((HOME.authority.root_der, "work"), (ENDPOINT, "home"), (b"", "home")):
        with pytest.raises(CertificateError):
            Trust(der, network, None)
    forged = bytearray(HOME.authority.root_der)
    forged[-1] ^= 1
    with pytest.raises(CertificateError):
        Trust(bytes(forged), "home", None)
    with pytest.raises(CertificateError):
        Trust(HOME.authority.root_der, "home", IMPOSTOR.crl(1))


# revocation lists


def test_only_a_newer_list_is_taken() -> None:
    trust = HOME.trust()
    assert (trust.crl, trust.crl_number) == (None, -1)
    second = HOME.crl(2, 55)
    assert trust.update_revocations(second)
    assert not trust.update_revocations(second)
    assert not trust.update_revocations(HOME.crl(1))
    assert not trust.update_revocations(HOME.crl(2))
    assert (trust.crl, trust.crl_number) == (second, 2)
    assert trust.update_revocations(HOME.crl(3))


def test_a_list_is_kept_for_the_next_start() -> None:
    serial = decode_certificate(ENDPOINT).serial
    trust = HOME.trust(HOME.crl(7, serial))
    assert trust.is_revoked(decode_certificate(ENDPOINT))
    assert refused(HOME.trust(trust.crl), ENDPOINT) is Fault.REVOKED


def test_a_foreign_or_damaged_list_changes_nothing() -> None:
    trust = HOME.trust(HOME.crl(1, 55))
    newer = HOME.crl(2)
    damaged = [newer[:at] + bytes((newer[at] ^ 1,)) + newer[at + 1 :] for at in range(len(newer))]
    for bad in (IMPOSTOR.crl(9), newer[:-1], newer + b"\0", b"", bytes(70_000), *damaged):
        with pytest.raises(CertificateError):
            trust.update_revocations(bad)
    assert trust.crl_number == 1


def test_a_list_of_thousands_is_looked_up_and_still_fits_the_channel() -> None:
    crl = HOME.crl(1, *(2**126 + number for number in range(1500)))
    assert len(crl) < 65_000
    assert refused(HOME.trust(crl), ENDPOINT, name="x.home") is Fault.WRONG_NAME


# the discovery service


def test_a_service_is_believed_for_its_hosts_only() -> None:
    trust = HOME.trust()
    der = HOME.service()
    for host in ("discovery.example", "Discovery.Example.", "192.0.2.1", "2001:db8:0::1", "[2001:db8::1]"):
        assert trust.check_service(der, host, NOW).public_key == HOME.request().public_key
    for host in ("example", "other.example", "192.0.2.2", ""):
        with pytest.raises(CertificateFaultError) as caught:
            trust.check_service(der, host, NOW)
        assert caught.value.reason is Fault.WRONG_NAME


def test_endpoint_and_service_never_pass_for_each_other() -> None:
    posing = HOME.service(("web-1.home", "100.64.0.7"))
    assert refused(HOME.trust(), posing) is Fault.PROFILE
    with pytest.raises(CertificateFaultError) as caught:
        HOME.trust().check_service(ENDPOINT, "web-1.home", NOW)
    assert caught.value.reason is Fault.PROFILE


def test_a_revoked_or_expired_service_is_refused() -> None:
    trust = HOME.trust()
    der = HOME.service()
    certificate = trust.check_service(der, "192.0.2.1", NOW)
    with pytest.raises(CertificateFaultError, match="expired"):
        trust.check_service(der, "192.0.2.1", START + LIFE_S)
    trust.update_revocations(HOME.crl(1, certificate.serial))
    with pytest.raises(CertificateFaultError, match="revoked"):
        trust.check_service(der, "192.0.2.1", NOW)


def test_python_speaks_tls_1_3_under_a_service_certificate(tmp_path: Path) -> None:
    life = {"not_before": 0.0, "not_after": 4_000_000_000.0}  # OpenSSL takes the wall clock: any will do
    authority = Authority.create("home", seed=b"a" * 32, serial=1, **life)
    public_key = HOME.request().public_key
    leaf = authority.issue_service(public_key, ["discovery.example", "192.0.2.1"], serial=2, **life)
    chain = tmp_path / "service.pem"
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    chain.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + x509.load_der_x509_certificate(leaf).public_bytes(Encoding.PEM)
    )
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.minimum_version = ssl.TLSVersion.TLSv1_3
    server_context.load_cert_chain(chain)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.load_verify_locations(cadata=authority.root_der)
    for host in ("discovery.example", "192.0.2.1"):
        client = handshake(client_context, server_context, host)
        assert client.version() == "TLSv1.3"
        shown = client.getpeercert(binary_form=True)
        assert shown == leaf
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client_context, server_context, "other.example")


def handshake(client_context: ssl.SSLContext, server_context: ssl.SSLContext, host: str) -> ssl.SSLObject:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=host)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    pending = [client, server]
    for _ in range(10):
        for side in list(pending):
            try:
                side.do_handshake()
                pending.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not pending
    return client
