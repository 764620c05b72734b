"""A request for a certificate: PKCS#10 (RFC 2986), signed by the key that it is for: proof of possession.

Its subjectAltName is one dNSName: the full name, or the system alone where the network is not known yet (at
enrolment the authority adds it). A request that renews a certificate carries 16 random bytes in an extension of our
own, drawn once for that certificate: a retry is the same bytes, and the renewal by a copy of the key is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID, ObjectIdentifier, SignatureAlgorithmOID

from fabric.crypto.signature import verify_raw
from fabric.errors import DecodeError
from fabric.identity.name import parse_name, parse_system, system_of
from fabric.identity.parsing import parse_der, require_plain_signature
from fabric.identity.placeholder import PLACEHOLDER, sign_instead

MAX_REQUEST_BYTES = 2048
NONCE_BYTES = 16
NONCE_EXTENSION = ObjectIdentifier("2.25.2443000763081510237213630479474251340")
"""An OID of our own, under the arc of ITU-T X.667; its value is an OCTET STRING."""

_OCTETS = bytes((4, NONCE_BYTES))
"""DER (X.690 section 8.7): an OCTET STRING of that length."""

_KEY_INFO_HEAD = bytes.fromhex("302a300506032b6570032100")


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose signature holds. `name` is a wish; `public_key` (32 bytes) is proven.

    `nonce` is what its maker drew to tell it from all other requests, empty where nothing was drawn.
    """

    name: str
    public_key: bytes
    nonce: bytes = b""


def make_request(seed: bytes, name: str, nonce: bytes = b"") -> bytes:
    """Returns a request in DER, signed by the identity key with this 32-byte seed; the same for the same arguments.

    `nonce` is 16 random bytes that are kept until the request is answered, or empty. Raises `DecodeError` for no name,
    and for a nonce of another length.
    """
    return _unsigned(name, nonce).sign(Ed25519PrivateKey.from_private_bytes(seed), None).public_bytes(Encoding.DER)


def make_request_with(public_key: bytes, sign_raw: Callable[[bytes], bytes], name: str, nonce: bytes = b"") -> bytes:
    """Returns the request that `make_request` makes, over a key that can't be shown: it lies in a token.

    `sign_raw` returns the 64-byte Ed25519 signature of the bytes as they are, under `public_key` (32 bytes).
    Raises `DecodeError` for no name, and what `sign_raw` raises.
    """
    form = _unsigned(name, nonce).sign(PLACEHOLDER, None)
    body = form.tbs_certrequest_bytes
    signed = body.replace(_key_info(PLACEHOLDER.public_key().public_bytes_raw()), _key_info(public_key))
    return sign_instead(form.public_bytes(Encoding.DER), body, signed, sign_raw)


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
    return Request(names[0].value, public_key, _nonce(request.extensions))


def _nonce(extensions: x509.Extensions) -> bytes:
    """Raises `DecodeError` where the extension is there and holds anything but a nonce."""
    try:
        extension = extensions.get_extension_for_oid(NONCE_EXTENSION)
    except x509.ExtensionNotFound:
        return b""
    value = extension.value.public_bytes()
    if extension.critical or len(value) != len(_OCTETS) + NONCE_BYTES or not value.startswith(_OCTETS):
        raise DecodeError("the request's random value is none")
    return value[len(_OCTETS) :]


def _unsigned(name: str, nonce: bytes) -> x509.CertificateSigningRequestBuilder:
    _check_name(name)
    common_name = x509.NameAttribute(NameOID.COMMON_NAME, system_of(name))
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([common_name]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    if not nonce:
        return builder
    if len(nonce) != NONCE_BYTES:
        raise DecodeError(f"a request's random value has {NONCE_BYTES} bytes, not {len(nonce)}")
    return builder.add_extension(x509.UnrecognizedExtension(NONCE_EXTENSION, _OCTETS + nonce), critical=False)


def _key_info(public_key: bytes) -> bytes:
    """Returns the subjectPublicKeyInfo of an Ed25519 key (RFC 8410 section 4)."""
    return _KEY_INFO_HEAD + public_key


def _check_name(name: str) -> None:
    if "." in name:
        parse_name(name, None)
    else:
        parse_system(name)
