"""A request for a certificate: PKCS#10 (RFC 2986), signed by the key that it is for: proof of possession.

Its subjectAltName is one dNSName: the full name, or the system alone where the network is not known yet (at
enrolment the authority adds it).
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from fabric.crypto.signature import verify_raw
from fabric.errors import DecodeError
from fabric.identity.name import parse_name, parse_system, system_of
from fabric.identity.parsing import parse_der, require_plain_signature

MAX_REQUEST_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose signature holds. `name` is a wish; `public_key` (32 bytes) is proven."""

    name: str
    public_key: bytes


def make_request(seed: bytes, name: str) -> bytes:
    """Returns a request in DER, signed by the identity key with this 32-byte seed. Raises `DecodeError` for no name."""
    _check_name(name)
    common_name = x509.NameAttribute(NameOID.COMMON_NAME, system_of(name))
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([common_name]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(Ed25519PrivateKey.from_private_bytes(seed), None).public_bytes(Encoding.DER)


def decode_request(der: bytes) -> Request:
    """Raises `DecodeError` for anything that `make_request` can't have made, `AuthenticationError` for a signature
    that does not hold, and nothing else."""
    return parse_der(_decode, der, MAX_REQUEST_BYTES)


def _decode(der: bytes) -> Request:
    request = x509.load_der_x509_csr(der)
    key = request.public_key()
    if request.signature_algorithm_oid != SignatureAlgorithmOID.ED25519 or not isinstance(key, Ed25519PublicKey):
        raise DecodeError("the request is not over an Ed25519 key")
    require_plain_signature(der, request.signature)
    public_key = key.public_bytes_raw()
    verify_raw(public_key, request.signature, request.tbs_certrequest_bytes)
    names = list(request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) != 1 or not isinstance(names[0], x509.DNSName):
        raise DecodeError("the request needs one name")
    _check_name(names[0].value)
    return Request(names[0].value, public_key)


def _check_name(name: str) -> None:
    if "." in name:
        parse_name(name, None)
    else:
        parse_system(name)
