"""The authority's root certificate: self-signed, O=network, pinned by the hash of its key."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography import x509
from cryptography.x509.oid import NameOID

from fabric.crypto.signature import verify_raw
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.fingerprint import key_hash
from fabric.identity.name import parse_network
from fabric.identity.x509_form import Form, only_text, read_form, require_root


@dataclass(frozen=True, slots=True)
class Root:
    """A root whose own signature holds. Whether it is the right one, only its `fingerprint` can tell."""

    der: bytes = field(repr=False)
    network: str
    public_key: bytes
    not_before: float
    not_after: float
    subject: x509.Name

    @property
    def fingerprint(self) -> bytes:
        """32 bytes: BLAKE2b-256 of the key. An enrolment key carries it; a root renewed over its key keeps it."""
        return key_hash(self.public_key)

    def signed(self, form: Form) -> bool:
        """Returns whether this root's key made the form's signature, and the form says so."""
        return form.issuer == self.subject and _holds(self.public_key, form.signature, form.tbs)


def decode_root(der: bytes) -> Root:
    """Raises `CertificateFaultError` unless `der` is a root certificate of the form that `Authority` makes."""
    form = read_form(der)
    require_root(form)
    root = Root(
        der=der,
        network=_network(form),
        public_key=form.public_key,
        not_before=form.not_before,
        not_after=form.not_after,
        subject=form.subject,
    )
    if not root.signed(form):
        raise CertificateFaultError(Fault.FOREIGN, "a root must have signed itself")
    return root


def _network(form: Form) -> str:
    try:
        return parse_network(only_text(form.subject, NameOID.ORGANIZATION_NAME))
    except DecodeError as error:
        raise CertificateFaultError(Fault.PROFILE, str(error)) from None


def _holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        verify_raw(public_key, signature, message)
    except AuthenticationError:
        return False
    return True
