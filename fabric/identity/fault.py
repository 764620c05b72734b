"""Why a certificate or revocation list was refused."""

from __future__ import annotations

import enum

from fabric.errors import CertificateError


class Fault(enum.Enum):
    """The value is what a person reads after "the certificate ...", and the name of a counter."""

    MALFORMED = "can't be read"
    PROFILE = "is not of the form that an authority issues"
    FOREIGN = "is not from this network's authority"
    NOT_YET_VALID = "is not valid yet"
    EXPIRED = "has expired"
    REVOKED = "was revoked"
    WRONG_NAME = "names another"
    WRONG_KEY = "has another key than the one known under this name"


class CertificateFaultError(CertificateError):
    """A certificate error that says which rule was broken."""

    def __init__(self, reason: Fault, detail: str = "") -> None:
        super().__init__(f"the certificate {reason.value}" + (f": {detail}" if detail else ""))
        self.reason = reason
