"""A grant: the service's word, that a relay can check by itself, that one side of an introduced pair may use it.

The body, under the signature of the service's own key (see `signed`):

    +---------+--------------------+---------+---------+--------+------------+---------+----------+-----------+
    | network | certificate of the | pair 16 | side u8 | holder | not before | expires | rate u64 | quota u64 |
    | text    | service, u16-block |         | 0 or 1  | key 32 | time       | time    | bytes/s  | bytes     |
    +---------+--------------------+---------+---------+--------+------------+---------+----------+-----------+
"""

from __future__ import annotations

from dataclasses import dataclass

from fabric.crypto.digest import mac_128
from fabric.crypto.signature import LABEL_GRANT, PUBLIC_KEY_BYTES, Signer
from fabric.errors import AuthenticationError, DecodeError, ExhaustedError
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.service_certificate import service_certificate_of
from fabric.identity.signed import encode_text, encode_time, open_body, peek_body, sign_body, take_text, take_time
from fabric.identity.trust import Trust
from fabric.identity.x509_form import MAX_CERTIFICATE_BYTES, read_form
from fabric.wire.codec import Reader, block
from fabric.wire.relay import MAX_GRANT_BYTES

PAIR_BYTES = 16
MAX_CLOCK_SKEW_S = 300.0
"""As far as the clocks of service and relay may be apart (protocol.md section 4)."""

MAX_SERVICE_CERTIFICATE_BYTES = 800
"""What is left for it in a grant, whatever the network is called: some ten hosts."""

_MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Grant:
    """`pair` is 16 bytes that both sides share, `side` 0 or 1, `holder` the identity key (32 bytes) of this side.

    Times are unix seconds, kept to the millisecond. `rate_bytes_s` bounds both directions together, `quota_bytes`
    what this side sends in a day.
    """

    network: str
    pair: bytes
    side: int
    holder: bytes
    not_before: float
    expires: float
    rate_bytes_s: int
    quota_bytes: int


def sign_grant(signer: Signer, service_certificate: bytes, grant: Grant) -> bytes:
    """`signer` holds the key of the service's certificate (DER).

    Raises `DecodeError` for a grant that nobody would take, `ExhaustedError` where the certificate leaves no room.
    """
    _check(grant)
    names = encode_text(grant.network) + block(service_certificate)
    whose = grant.pair + bytes((grant.side,)) + grant.holder
    times = encode_time(grant.not_before) + encode_time(grant.expires)
    bounds = grant.rate_bytes_s.to_bytes(8) + grant.quota_bytes.to_bytes(8)
    signed = sign_body(signer, LABEL_GRANT, names + whose + times + bounds)
    if len(signed) > MAX_GRANT_BYTES:
        raise ExhaustedError(f"a grant of {len(signed)} bytes: the service's certificate names too many hosts")
    return signed


def open_grant(data: bytes, trust: Trust, unix: float) -> Grant:
    """Returns the grant, if the service of this network gave it and it holds now.

    Raises `DecodeError`, `CertificateError` for the service's certificate, `AuthenticationError` for all else.
    """
    grant, certificate = _decode(_peek(data))
    open_body(data, LABEL_GRANT, _service_key(certificate, trust, unix))
    if grant.network != trust.network:
        raise AuthenticationError(f'a grant for the network "{grant.network}"')
    if not grant.not_before - MAX_CLOCK_SKEW_S <= unix < grant.expires:
        raise AuthenticationError("a grant that does not hold now")
    return grant


def peek_grant(data: bytes) -> Grant:
    """Returns what a grant says, proving nothing. Raises `DecodeError`."""
    return _decode(_peek(data))[0]


def grant_id(data: bytes) -> bytes:
    """Returns 16 bytes, BLAKE2b-128: how relay and endpoint name a grant to each other."""
    return mac_128(b"", data)


def _service_key(certificate: bytes, trust: Trust, unix: float) -> bytes:
    """The service's, under whatever host: a relay need not know where the service is reached."""
    hosts = service_certificate_of(read_form(certificate)).hosts
    if not hosts:
        raise CertificateFaultError(Fault.PROFILE, "it names no host")
    return trust.check_service(certificate, hosts[0], unix).public_key


def _peek(data: bytes) -> Reader:
    if len(data) > MAX_GRANT_BYTES:
        raise DecodeError(f"a grant of {len(data)} bytes")
    return peek_body(data)


def _decode(reader: Reader) -> tuple[Grant, bytes]:
    network = take_text(reader, _MAX_NAME_BYTES)
    certificate = reader.take_block(MAX_CERTIFICATE_BYTES)
    grant = Grant(
        network=network,
        pair=reader.take(PAIR_BYTES),
        side=reader.take_u8(),
        holder=reader.take(PUBLIC_KEY_BYTES),
        not_before=take_time(reader),
        expires=take_time(reader),
        rate_bytes_s=reader.take_u64(),
        quota_bytes=reader.take_u64(),
    )
    _check(grant)
    return grant, certificate


def _check(grant: Grant) -> None:
    if grant.side not in (0, 1):
        raise DecodeError(f"side {grant.side} of a pair")
    if len(grant.pair) != PAIR_BYTES or len(grant.holder) != PUBLIC_KEY_BYTES:
        raise DecodeError("a grant's pair or holder has a wrong length")
    if not grant.not_before < grant.expires:
        raise DecodeError("a grant that ends before it begins")
    if grant.rate_bytes_s <= 0:
        raise DecodeError("a grant of nothing")
