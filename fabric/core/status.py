"""What there is to see of a peer; the words are those of `fabric status --json`."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from fabric.wire.address import Address


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
