"""What there is to see of a peer; the words are those of `fabric status --json`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from fabric.core.entanglement import Alarm
from fabric.wire.address import Address, CandidateKind
from fabric.wire.nat import NatBehaviour


class PeerState(enum.Enum):
    PENDING = "pending"
    INTRODUCED = "introduced"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISABLED = "disabled"
    QUARANTINED = "quarantined"


class PathKind(enum.Enum):
    """Classes of paths, best first."""

    LAN = "lan"
    DIRECT_UDP = "direct-udp"
    DIRECT_TCP = "direct-tcp"
    RELAY_UDP = "relay-udp"
    RELAY_TLS = "relay-tls"


@dataclass(frozen=True, slots=True)
class PathStatus:
    """`mtu` is the largest frame payload that travels in one datagram."""

    kind: PathKind
    remote: Address
    rtt_s: float | None
    mtu: int


class Outcome(enum.Enum):
    """How the tries at one address ended, or stand."""

    WAITING = "waiting"
    """Not tried yet, or not worth a try while there is something better."""
    TRYING = "trying"
    UNANSWERED = "unanswered"
    """Tried at the full rhythm without an answer; looked at again now and then."""
    REFUSED = "refused"
    """TCP only: the last connection was refused, or the network said that there is no way."""
    ANSWERS = "answers"
    LOST = "lost"
    """It has answered, and does no more."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address of a peer. Times in seconds: ago, or None for never."""

    remote: Address
    candidate: CandidateKind
    kind: PathKind
    outcome: Outcome
    tries: int
    first_tried_s: float | None
    last_tried_s: float | None
    last_answer_s: float | None
    rtt_s: float | None
    mtu: int | None
    """The longest outer packet that is known to get through, in bytes."""
    why: str = ""
    """What the network said of it, where it said anything."""


@dataclass(frozen=True, slots=True)
class TrustStatus:
    """`name` may be of a peer that was removed. `is_entangled`: a root secret is held that is shared with it."""

    name: str
    fingerprint: str | None
    safety_number: str | None
    is_verified: bool
    is_entangled: bool
    alarm: Alarm | None
    is_past: bool = False


@dataclass(frozen=True, slots=True)
class PeerStatus:
    name: str
    state: PeerState
    why: str
    path: PathStatus | None
    cipher: str | None
    addresses: tuple[str, ...]
    mac: str | None
    verified: bool
    last_seen_s: float | None
    rx_bytes: int
    tx_bytes: int
    drops: Mapping[str, int]
    attempts: tuple[Attempt, ...] = ()
    nat: NatBehaviour | None = None
    """What the peer's offer says of its NAT."""
    trust: TrustStatus | None = None
    guesses: int = 0
    """Probes spent on guessing ports of a NAT that gives every destination another one."""
