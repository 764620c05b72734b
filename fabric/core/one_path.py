"""One path to a peer: what was tried on it, what came back, and which of two is the better one."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.machine import NEVER, Instant
from fabric.core.path_mtu import PathMtu
from fabric.core.reach import is_relayed, rank_of
from fabric.core.status import PathKind
from fabric.wire.address import Address, CandidateKind, Transport

STALE_S = 40.0
"""A spare path that was asked in time has been heard since; one that was not is no better than a guess."""

IPV4_UDP_BYTES = 28
IPV6_UDP_BYTES = 48
RELAY_BYTES = 8
STREAM_LIMIT_BYTES = 8192
"""A stream has no packets to fit: as much as shortens the account without holding up a short frame behind it."""


@dataclass(slots=True)
class Path:
    """`rtt_s` is smoothed as RFC 6298 does; `heard` is the last authenticated sign of life on this path."""

    address: Address
    candidate: CandidateKind
    kind: PathKind
    next_probe: Instant
    mtu: PathMtu
    tries: int = 0
    unanswered: int = 0
    replies: int = 0
    losses: int = 0
    rtt_s: float | None = None
    heard: Instant | None = None
    chosen: Instant | None = None
    first_tried: Instant | None = None
    last_tried: Instant | None = None
    last_answer: Instant | None = None
    total_tries: int = 0
    valid: bool = False
    confirmed: bool = False
    """Whether it has answered since the network of either end was seen to change."""
    is_named: bool = False
    """Whether the peer told of it, and not only a probe that came from there."""
    why: str = ""
    outstanding: dict[bytes, tuple[Instant, int]] = field(default_factory=dict)

    @property
    def is_doubtful(self) -> bool:
        """Two probes in a row are on their way: another path of the same class is the better bet."""
        return self.unanswered >= 2

    @property
    def is_door(self) -> bool:
        return self.address.transport is Transport.TCP and not self.address.via

    @property
    def is_link(self) -> bool:
        return self.address.transport is Transport.TCP and bool(self.address.via)

    @property
    def is_relayed(self) -> bool:
        return is_relayed(self.address)

    @property
    def rank(self) -> int:
        return rank_of(self.kind, self.address)

    @property
    def is_steady(self) -> bool:
        """Whether it may be primary: a path that was lost soon before has to show more than one answer."""
        return self.valid and self.replies >= 2 * self.losses

    def note_rtt(self, sample_s: float) -> None:
        """Smooths, but for one sample far below all before: whatever held those up (a host that slept) is over."""
        if self.rtt_s is None or sample_s < self.rtt_s / 4:
            self.rtt_s = sample_s
        else:
            self.rtt_s = 0.875 * self.rtt_s + 0.125 * sample_s

    def is_stale(self, now: Instant) -> bool:
        """Whether the NATs may have shut it meanwhile: it was not heard of for longer than they keep a hole."""
        return not self.is_relayed and self.heard is not None and now - self.heard > STALE_S

    @property
    def payload_limit(self) -> int:
        """The longest payload of a datagram of ours on this path."""
        return payload_limit(self.address, self.mtu.limit)


def preference(path: Path, now: Instant) -> tuple[bool, bool, int, bool, float]:
    return (
        not path.confirmed,
        path.is_stale(now),
        path.rank,
        path.is_doubtful,
        path.rtt_s if path.rtt_s is not None else NEVER,
    )


def is_better(path: Path, primary: Path, now: Instant) -> bool:
    """A better class at once; within a class only a round trip that is clearly shorter, and measured, not guessed."""
    if path.confirmed != primary.confirmed:
        return path.confirmed
    if path.is_stale(now) and not primary.is_stale(now):
        return False
    if path.rank != primary.rank:
        return path.rank < primary.rank
    if path.is_doubtful != primary.is_doubtful:
        return primary.is_doubtful
    if path.rtt_s is None or primary.rtt_s is None or path.replies < 3:
        return False
    return path.rtt_s < 0.7 * primary.rtt_s and path.rtt_s < primary.rtt_s - 0.005


def payload_limit(to: Address, path_mtu: int) -> int:
    """Returns the longest payload whose packet fits `path_mtu` bytes: RFC 768 in RFC 791 or in RFC 8200.

    The other end of a relay may be reached over IPv6, whatever the way to it is.
    """
    if to.transport is Transport.TCP:
        return STREAM_LIMIT_BYTES
    if is_relayed(to):
        return path_mtu - IPV6_UDP_BYTES - RELAY_BYTES
    return path_mtu - (IPV6_UDP_BYTES if to.is_ipv6 else IPV4_UDP_BYTES)
