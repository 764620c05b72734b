"""A revocation list: an X.509 CRL (RFC 5280 section 5), signed by the root, numbered."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from fabric.crypto.signature import verify_raw
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.parsing import parse_der, require_plain_signature
from fabric.identity.root import Root

MAX_REVOCATIONS_BYTES = 65_536
"""The longest message of the control channel."""

_KNOWN_EXTENSIONS = {ExtensionOID.CRL_NUMBER, ExtensionOID.AUTHORITY_KEY_IDENTIFIER}


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list whose signature holds. `number` grows with each list of an authority; `serials` are revoked."""

    der: bytes = field(repr=False)
    number: int
    serials: frozenset[int]


def open_revocations(der: bytes, root: Root) -> RevocationList:
    """Raises `CertificateFaultError` (MALFORMED, PROFILE or FOREIGN) and nothing else.

    The list's nextUpdate is not judged: where no newer list comes, the certificates' own end is the bound.
    """
    try:
        return parse_der(lambda data: _open(data, root), der, MAX_REVOCATIONS_BYTES)
    except CertificateFaultError:
        raise
    except AuthenticationError:
        raise CertificateFaultError(Fault.FOREIGN, "the revocation list's signature does not hold") from None
    except DecodeError as error:
        raise CertificateFaultError(Fault.MALFORMED, f"revocation list: {error}") from None


def _open(der: bytes, root: Root) -> RevocationList:
    crl = x509.load_der_x509_crl(der)
    if crl.signature_algorithm_oid != SignatureAlgorithmOID.ED25519 or crl.issuer != root.subject:
        raise CertificateFaultError(Fault.FOREIGN, "the revocation list is another authority's")
    require_plain_signature(der, crl.signature)
    verify_raw(root.public_key, crl.signature, crl.tbs_certlist_bytes)
    extensions = crl.extensions
    if any(extension.critical and extension.oid not in _KNOWN_EXTENSIONS for extension in extensions):
        raise CertificateFaultError(Fault.PROFILE, "the revocation list has an unknown critical extension")
    number = extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    return RevocationList(der, number, frozenset(entry.serial_number for entry in crl))
