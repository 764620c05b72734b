"""What the service keeps. Values only; times are unix seconds, serial numbers those of certificates."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address

MAX_CLOCK_SKEW_S = 300.0
"""As far as two clocks may be apart (protocol.md section 4)."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """An enrolment key. `uses_left` None: any number; `expires` None: never."""

    key_id: str
    secret: bytes = field(repr=False)
    created: float
    uses_left: int | None
    expires: float | None
    tags: tuple[str, ...] = ()
    is_ephemeral: bool = False
    is_revoked: bool = False
    used: int = 0

    def fault(self, unix: float) -> str | None:
        """Returns why nobody new can enrol with it, or None."""
        if self.is_revoked:
            return "revoked"
        if self.expires is not None and unix >= self.expires:
            return "expired"
        if self.uses_left == 0:
            return "used up"
        return None


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """One name. `certificate` is the newest in DER, `serial` and `not_after` are its; `why` says why it is revoked.

    `sources` are the two IP addresses from which a certificate of it was renewed differently, where that is why.
    """

    name: str
    public_key: bytes
    ipv4: IPv4Address
    tags: tuple[str, ...]
    is_ephemeral: bool
    enrolled: float
    certificate: bytes = field(repr=False)
    serial: int
    not_after: float
    bundle: bytes | None = field(default=None, repr=False)
    revoked: float | None = None
    why: str = ""
    last_seen: float | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """One certificate that was issued. `request_digest` is of the request that it answered.

    `predecessor` is the serial number of the one that it renews; at most one certificate has a given predecessor.
    `key_id` is of the enrolment key, empty where it is a renewal; `source` the IP address that asked for it.
    """

    serial: int
    name: str
    der: bytes = field(repr=False)
    issued: float
    not_after: float
    request_digest: bytes
    predecessor: int | None
    key_id: str = ""
    revoked: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """A certificate that is to be issued, in all but its dates; while the authority is away it waits in the store.

    `serial` is the one that it will have, `request` the PKCS#10 in DER. `predecessor` is the serial number of the
    certificate that it follows, `key_id` the enrolment key, empty where it is a renewal; `source` the IP address that
    asked. `fault` is why the authority refused to sign it, empty where it has not.
    """

    serial: int
    name: str
    public_key: bytes
    ipv4: IPv4Address
    tags: tuple[str, ...]
    is_ephemeral: bool
    request: bytes = field(repr=False)
    predecessor: int | None
    key_id: str
    source: str
    created: float
    life_s: float
    fault: str = ""


@dataclass(frozen=True, slots=True)
class IntentRecord:
    """A signed intent. `was_introduced`: the sender has been told of the recipient, and must be told of an end."""

    sender: str
    recipient: str
    created: float
    not_before: float
    expires: float
    intent: bytes = field(repr=False)
    was_introduced: bool = False

    def holds(self, unix: float) -> bool:
        """The two ends judge for themselves; here the sender's clock may be ahead."""
        return self.not_before - MAX_CLOCK_SKEW_S <= unix < self.expires


@dataclass(frozen=True, slots=True)
class RevocationsRecord:
    """The newest revocation list, and whose serial numbers are on it."""

    number: int
    issued: float
    der: bytes = field(repr=False)
    serials: frozenset[int]
