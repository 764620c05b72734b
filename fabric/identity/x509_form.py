"""X.509 (RFC 5280) as far as all certificates of a network share it; read by `cryptography`, judged here.

Every certificate is v3, signed with Ed25519 over an Ed25519 key (RFC 8410), at most 2,048 bytes. Extensions:

    basicConstraints  critical   root: CA, path length 0     others: no CA
    keyUsage          critical   root: keyCertSign, cRLSign  others: digitalSignature
    extendedKeyUsage             endpoint: clientAuth        service: serverAuth        relay: serverAuth, its own
    subjectAltName               endpoint: its name, its overlay addresses   service, relay: where it is reached
    subject- and authorityKeyIdentifier

Another extension is ignored, unless it is critical: then the certificate is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtensionOID, NameOID, ObjectIdentifier, SignatureAlgorithmOID

from fabric.errors import DecodeError
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.parsing import parse_der, require_plain_signature

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)

MAX_CERTIFICATE_BYTES = 2048
"""With it, the longest handshake message fits four pieces."""

MAX_SERIAL_BYTES = 20
"""RFC 5280, section 4.1.2.2."""

RELAY_PURPOSE = ObjectIdentifier("2.25.78796913408874037236095102231682272719")
"""A relay that runs alone (an OID of our own, under the arc of ITU-T X.667): refused wherever one purpose is wanted."""

_KNOWN_CRITICAL = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a certificate that are read the same way in each kind. Times in unix seconds."""

    der: bytes = field(repr=False)
    tbs: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    public_key: bytes
    serial: int
    not_before: float
    not_after: float
    subject: x509.Name
    issuer: x509.Name
    extensions: x509.Extensions = field(repr=False)


def read_form(der: bytes) -> Form:
    """Returns what `der` says; no signature is checked. Raises `CertificateFaultError`, whatever the bytes are."""
    try:
        return parse_der(_read, der, MAX_CERTIFICATE_BYTES)
    except DecodeError as error:
        raise CertificateFaultError(Fault.MALFORMED, str(error)) from None


def _read(der: bytes) -> Form:
    certificate = x509.load_der_x509_certificate(der)
    serial = certificate.serial_number
    if certificate.version is not x509.Version.v3 or not 0 < serial < 1 << 8 * MAX_SERIAL_BYTES:
        raise CertificateFaultError(Fault.PROFILE, "its version or serial number")
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ED25519:
        raise CertificateFaultError(Fault.PROFILE, "its signature is not Ed25519")
    require_plain_signature(der, certificate.signature)
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise CertificateFaultError(Fault.PROFILE, "its key is not Ed25519")
    extensions = certificate.extensions
    if any(extension.critical and extension.oid not in _KNOWN_CRITICAL for extension in extensions):
        raise CertificateFaultError(Fault.PROFILE, "a critical extension is unknown")
    return Form(
        der=der,
        tbs=certificate.tbs_certificate_bytes,
        signature=certificate.signature,
        public_key=key.public_bytes_raw(),
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        subject=certificate.subject,
        issuer=certificate.issuer,
        extensions=extensions,
    )


def require_leaf(form: Form, *purposes: ObjectIdentifier) -> None:
    """Raises `CertificateFaultError` unless it is no authority's, may sign, and is for these purposes alone."""
    _require_constraints(form, x509.BasicConstraints(ca=False, path_length=None))
    _require_usage(form, leaf_usage())
    if tuple(extension_of(form, x509.ExtendedKeyUsage).value) != purposes:
        raise CertificateFaultError(Fault.PROFILE, "its extended key usage")


def require_root(form: Form) -> None:
    """Raises `CertificateFaultError` unless it may sign certificates that sign no others, and revocation lists."""
    _require_constraints(form, x509.BasicConstraints(ca=True, path_length=0))
    _require_usage(form, root_usage())


def _require_constraints(form: Form, wanted: x509.BasicConstraints) -> None:
    extension = extension_of(form, x509.BasicConstraints)
    if not extension.critical or extension.value != wanted:
        raise CertificateFaultError(Fault.PROFILE, "its basic constraints")


def _require_usage(form: Form, wanted: x509.KeyUsage) -> None:
    extension = extension_of(form, x509.KeyUsage)
    if not extension.critical or extension.value != wanted:
        raise CertificateFaultError(Fault.PROFILE, "its key usage")


def alternative_names(form: Form) -> list[x509.GeneralName]:
    """Returns the subjectAltName's entries; raises `CertificateFaultError` where there is none."""
    return list(extension_of(form, x509.SubjectAlternativeName).value)


def extension_of(form: Form, kind: type[ExtensionT]) -> x509.Extension[ExtensionT]:
    """Raises `CertificateFaultError` where the certificate has none of this kind."""
    try:
        return form.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        raise CertificateFaultError(Fault.PROFILE, f"it has no {kind.oid._name}") from None


def subject_texts(name: x509.Name, oid: ObjectIdentifier) -> tuple[str, ...]:
    """Returns the values of one attribute, in order."""
    return tuple(str(attribute.value) for attribute in name.get_attributes_for_oid(oid))


def only_text(name: x509.Name, oid: ObjectIdentifier) -> str:
    """Returns the one value of an attribute; raises `CertificateFaultError` for none and for several."""
    texts = subject_texts(name, oid)
    if len(texts) != 1:
        raise CertificateFaultError(Fault.PROFILE, "its subject")
    return texts[0]


def subject(network: str, common_name: str, units: tuple[str, ...] = ()) -> x509.Name:
    """Returns the subject O=network, OU=each unit, CN=common name."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, network),
            *(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit) for unit in units),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def leaf_usage() -> x509.KeyUsage:
    return _usage(is_root=False)


def root_usage() -> x509.KeyUsage:
    return _usage(is_root=True)


def _usage(*, is_root: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_root,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_root,
        crl_sign=is_root,
        encipher_only=False,
        decipher_only=False,
    )
