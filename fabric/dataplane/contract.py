"""What core and shell may ask of a lane, and what a lane reports: the seam between control and frames.

A *lane* owns everything that is touched per frame: the switch's tables as it needs them, the sessions' keys,
counters and replay windows. Core steers it by the calls below and hears of traffic in batches only. The lane in
`reference` is pure Python and defines what is correct; any other lane must be indistinguishable through this file.

Life of a session in a lane:

    install(awaiting=True)   opens records. The first good one is reported in `Traffic`; from then until `promote`
                             the lane delivers nothing of this session and holds its datagrams (bounded), so
                             that core can make a root secret durable first. An empty or control record is no frame.
    install(awaiting=False)  opens and delivers at once.
    promote                  the peer's frames are sealed under this session from now on (and held ones delivered).
    retire                   keys are wiped; datagrams for the index are counted as `unknown_index`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from fabric.core.machine import Instant
from fabric.crypto.aead import Suite
from fabric.wire.address import Address


class Drop(enum.Enum):
    """Why a frame or datagram went no further. The value is the reason's name in `status`."""

    MALFORMED = "malformed"
    UNKNOWN_INDEX = "unknown_index"
    AUTHENTICATION = "authentication"
    REPLAY = "replay"
    COPY = "copy"
    UNKNOWN_KIND = "unknown_kind"
    SOURCE_GUARD = "source_guard"
    NO_SESSION = "no_session"
    NO_PATH = "no_path"
    OVERSIZE = "oversize"
    EXHAUSTED = "exhausted"
    BACKPRESSURE = "backpressure"
    REASSEMBLY = "reassembly"
    HELD = "held"
    QUEUE = "queue"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """Traffic keys of one handshake, 32 bytes each. `peer` is the full name."""

    peer: str
    local_index: int
    remote_index: int
    suite: Suite
    seal_key: bytes = field(repr=False)
    open_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Port:
    """What a peer may send from (source guard), from its certificate: its MAC (6 bytes) and its addresses."""

    mac: bytes
    addresses: tuple[IPv4Address | IPv6Address, ...]
    bridge: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """A control message that came sealed inside a session."""

    peer: str
    local_index: int
    payload: bytes = field(repr=False)
    source: Address


@dataclass(frozen=True, slots=True)
class Traffic:
    """What happened on one session since the last report. `source` is set where records came from another address
    than the one steered to: only a hint, core must prove it before it is used."""

    peer: str
    local_index: int
    opened: int
    sealed: int
    last_opened: Instant | None
    last_sealed: Instant | None
    highest_sealed_counter: int
    source: Address | None


@dataclass(frozen=True, slots=True)
class PeerCounters:
    """Totals since the peer was admitted, in frame bytes."""

    rx_bytes: int
    tx_bytes: int
    drops: Mapping[Drop, int]


class Lane(Protocol):
    """The steering side. Every call is idempotent, and one that names an unknown peer or index does nothing."""

    def admit(self, peer: str, port: Port) -> None:
        """Makes `peer` a port of the switch."""

    def dismiss(self, peer: str) -> None:
        """Removes the port, every session of the peer, and what was learned about it."""

    def install(self, keys: SessionKeys, *, awaiting: bool) -> None: ...

    def promote(self, local_index: int) -> None: ...

    def retire(self, local_index: int) -> None: ...

    def steer(self, peer: str, to: Address | None, payload_limit: int, copy_to: Address | None = None) -> None:
        """Sends the peer's records to `to` from now on, in datagrams of at most `payload_limit` bytes.

        With `copy_to` each datagram goes there as well; while that is so, what the replay window drops of the peer
        is counted as `COPY`: its second copies.
        """

    def send_control(self, local_index: int, payload: bytes, to: Address, *, whole: bool = False) -> None:
        """Seals a control message under this session, promoted or not; an empty `payload` makes an empty record.

        One that is too long for a record of the path (see `steer`) travels in slices, up to `MAX_CONTROL_BYTES`;
        not so with `whole`: a probe that asks whether its own length gets through.
        """

    def counters(self, peer: str) -> PeerCounters: ...

    def drops(self) -> Mapping[Drop, int]:
        """Counts of what belongs to no known peer."""
