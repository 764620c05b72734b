"""Grants: signed by the service of this network, for one holder, in their life; everything else is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.signature import LABEL_GRANT, LABEL_INTENT, Ed25519Signer
from fabric.errors import AuthenticationError, CertificateError, DecodeError, ExhaustedError
from fabric.identity.authority import Authority
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.grant import Grant, grant_id, open_grant, peek_grant, sign_grant
from fabric.wire.relay import MAX_GRANT_BYTES, Bind, encode_relay_message
from tests.identity.household import LIFE_S, NOW, SEED, START, Household

HOME = Household()
SERVICE = HOME.service()
SIGNER = Ed25519Signer(SEED)
GRANT = Grant("home", b"p" * 16, 1, b"h" * 32, NOW, NOW + 86_400, 12_500_000, 1 << 36)
SIGNED = sign_grant(SIGNER, SERVICE, GRANT)


def test_a_grant_comes_out_as_it_went_in_with_the_root_alone() -> None:
    assert open_grant(SIGNED, HOME.trust(), NOW) == GRANT
    assert peek_grant(SIGNED) == GRANT
    assert len(grant_id(SIGNED)) == 16


def test_the_longest_grant_fits_a_datagram_that_every_network_carries() -> None:
    assert len(SIGNED) <= MAX_GRANT_BYTES
    assert len(encode_relay_message(Bind(bytes(16), bytes(64), bytes(MAX_GRANT_BYTES)))) <= 1200


def test_a_grant_holds_in_its_life_and_a_clock_may_lag_five_minutes() -> None:
    trust = HOME.trust()
    assert open_grant(SIGNED, trust, NOW - 299) == GRANT
    for unix in (NOW - 301, NOW + 86_400):
        with pytest.raises(AuthenticationError):
            open_grant(SIGNED, trust, unix)


def test_a_grant_ends_with_the_certificate_of_the_service() -> None:
    long = sign_grant(SIGNER, SERVICE, replace(GRANT, expires=NOW + 100 * LIFE_S))
    assert open_grant(long, HOME.trust(), START + LIFE_S - 1)
    with pytest.raises(CertificateFaultError) as caught:
        open_grant(long, HOME.trust(), START + LIFE_S)
    assert caught.value.reason is Fault.EXPIRED


def test_nobody_else_makes_grants() -> None:
    impostor = Household(seed=b"i" * 32)
    with pytest.raises(CertificateError):
        open_grant(sign_grant(SIGNER, impostor.service(), GRANT), HOME.trust(), NOW)
    with pytest.raises(CertificateError):
        open_grant(sign_grant(SIGNER, HOME.endpoint(), GRANT), HOME.trust(), NOW)
    with pytest.raises(AuthenticationError):
        open_grant(sign_grant(Ed25519Signer(b"x" * 32), SERVICE, GRANT), HOME.trust(), NOW)


def test_a_grant_for_another_network_is_refused() -> None:
    with pytest.raises(AuthenticationError):
        open_grant(sign_grant(SIGNER, SERVICE, replace(GRANT, network="work")), HOME.trust(), NOW)


def test_a_signature_of_another_kind_is_no_grant() -> None:
    forged = SIGNER.sign(LABEL_INTENT, SIGNED[64:]) + SIGNED[64:]
    assert SIGNER.sign(LABEL_GRANT, SIGNED[64:]) + SIGNED[64:] == SIGNED
    with pytest.raises(AuthenticationError):
        open_grant(forged, HOME.trust(), NOW)


def test_a_certificate_too_long_for_a_grant_is_said_so() -> None:
    hosts = tuple(f"{'x' * 40}-{number}.example" for number in range(20))
    with pytest.raises(ExhaustedError):
        sign_grant(SIGNER, HOME.service(hosts), GRANT)


def test_a_certificate_without_a_host_gives_no_grants() -> None:
    bare = Authority.issue_service(HOME.authority, SIGNER.public_key, (), 900, START, START + LIFE_S)
    with pytest.raises(CertificateError):
        open_grant(sign_grant(SIGNER, bare, GRANT), HOME.trust(), NOW)


@pytest.mark.parametrize(
    "changes",
    [{"side": 2}, {"pair": b"p" * 15}, {"holder": b"h" * 33}, {"expires": NOW}, {"rate_bytes_s": 0}],
)
def test_what_makes_no_sense_is_neither_signed_nor_read(changes: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        sign_grant(SIGNER, SERVICE, replace(GRANT, **changes))  # type: ignore[arg-type]


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_a_grant_with_any_byte_changed_is_refused(at: int, by: int) -> None:
    damaged = bytearray(SIGNED)
    damaged[at] ^= by
    with pytest.raises((AuthenticationError, DecodeError)):
        open_grant(bytes(damaged), HOME.trust(), NOW)


@given(st.binary(max_size=1200))
def test_anything_at_all_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        peek_grant(data)
    with pytest.raises((AuthenticationError, DecodeError)):
        open_grant(data, HOME.trust(), NOW)
