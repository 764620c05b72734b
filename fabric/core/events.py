"""What a node tells its driver. Records must be durable before the transmits behind them leave."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.records import PeerRecord
from fabric.core.status import PathKind, PeerState
from fabric.wire.address import Address


@dataclass(frozen=True, slots=True)
class StoreRecord:
    record: PeerRecord


@dataclass(frozen=True, slots=True)
class ForgetRecord:
    name: str


@dataclass(frozen=True, slots=True)
class PeerChanged:
    peer: str
    state: PeerState
    why: str


@dataclass(frozen=True, slots=True)
class PathChanged:
    """The primary of a connected peer moved; None while it has none."""

    peer: str
    kind: PathKind | None
    remote: Address | None


@dataclass(frozen=True, slots=True)
class RenewalDue:
    """Two thirds of the certificate's life are over: answer with `request_renewal`."""


@dataclass(frozen=True, slots=True)
class CertificateReplaced:
    certificate: bytes


@dataclass(frozen=True, slots=True)
class RevocationsReplaced:
    crl: bytes


@dataclass(frozen=True, slots=True)
class BundleDue:
    """There is no key bundle, or its offer key ends soon: answer with `replace_bundle`."""


@dataclass(frozen=True, slots=True)
class StunNames:
    """`host:port` strings to resolve and hand back by `handle_stun_servers`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServiceAccepted:
    """The service has proven itself. `unix_time` is its clock."""

    unix_time: float


@dataclass(frozen=True, slots=True)
class ServiceRejected:
    """The service could not prove itself, or broke the protocol: close the channel."""

    why: str


@dataclass(frozen=True, slots=True)
class ServiceRefused:
    regarding: str
    why: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `ping`, over the session."""

    peer: str
    token: int
    rtt_s: float
    kind: PathKind
    remote: Address = field()


Event = (
    StoreRecord
    | ForgetRecord
    | PeerChanged
    | PathChanged
    | RenewalDue
    | CertificateReplaced
    | RevocationsReplaced
    | BundleDue
    | StunNames
    | ServiceAccepted
    | ServiceRejected
    | ServiceRefused
    | Pong
)
