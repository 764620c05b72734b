"""What a node tells its driver. Records must be durable before the transmits behind them leave."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.entanglement import Alarm
from fabric.core.records import PeerRecord
from fabric.core.status import PathKind, PeerState
from fabric.wire.address import Address
from fabric.wire.rendezvous import RelayPlace

FIRST_EXTRA_SOCKET = 16


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
class TrustAlarm:
    """The state shared with a peer does not fit: one of the two was copied or restored."""

    peer: str
    alarm: Alarm


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
class IdentityReplaced:
    """The authority has certified the next key: make certificate and key the own ones, and tell `handle_rotated`."""

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
class SocketsWanted:
    """Open so many UDP sockets beside the main one, on ports of the kernel's choice: answer with `handle_sockets`.

    Each gets a number that no other socket of this process ever had, from `FIRST_EXTRA_SOCKET` up; it is the `via` of
    the addresses that its datagrams come from and go to. Numbers below that are spare sockets that are always there.
    """

    count: int


@dataclass(frozen=True, slots=True)
class SocketsUnwanted:
    vias: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ListenWanted:
    """Whether TCP connections are to be taken, on the port of the UDP sockets, and the own address as TCP servers
    see it is to be found out (`handle_tcp_reflexive`). Off, the port is closed, and connections that stand stay."""

    wanted: bool


@dataclass(frozen=True, slots=True)
class ConnectWanted:
    """Try for some seconds to open a TCP connection from the own TCP port: answer with `handle_link`, or
    `handle_connect_failed`."""

    to: Address


@dataclass(frozen=True, slots=True)
class LinkUnwanted:
    """Close this TCP connection."""

    link: Address


@dataclass(frozen=True, slots=True)
class RelaysNamed:
    """Resolve the hosts of these relays and hand them back by `handle_relays`."""

    places: tuple[RelayPlace, ...]


@dataclass(frozen=True, slots=True)
class RelayLinkWanted:
    """Open a WebSocket over TLS to the relay at `place`, and keep it open: `handle_relay_link` says when it is."""

    place: RelayPlace
    relay: Address


@dataclass(frozen=True, slots=True)
class RelayLinkUnwanted:
    relay: Address


@dataclass(frozen=True, slots=True)
class RelayContested:
    """The relay says that somebody else binds there with the own key, again and again: a hint, no proof."""

    place: RelayPlace


@dataclass(frozen=True, slots=True)
class ServiceAccepted:
    """The service has proven itself on this channel. `unix_time` is its clock."""

    link: int
    unix_time: float


@dataclass(frozen=True, slots=True)
class ServiceRejected:
    """The service could not prove itself, or broke the protocol: close this channel."""

    link: int
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
    | TrustAlarm
    | PathChanged
    | RenewalDue
    | CertificateReplaced
    | IdentityReplaced
    | RevocationsReplaced
    | BundleDue
    | StunNames
    | SocketsWanted
    | SocketsUnwanted
    | ListenWanted
    | ConnectWanted
    | LinkUnwanted
    | RelaysNamed
    | RelayLinkWanted
    | RelayLinkUnwanted
    | RelayContested
    | ServiceAccepted
    | ServiceRejected
    | ServiceRefused
    | Pong
)
