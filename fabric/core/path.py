"""The paths to one peer: found by probing, measured, kept alive, and one of them primary.

The agent knows neither gate nor session: it names a token and an address, and its parent wraps that into a
gated or a sealed probe. A path counts only after its own token came back from the very address that it was sent
to (protocol.md section 8), so nobody can be made to send to an address that did not ask.

    candidate --reply--> valid --chosen--> primary
        ^                  |                  | nothing heard, PATIENCE probes unanswered
        +---- forgotten ---+<----- lost ------+
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fabric.core.machine import NEVER, Draw, Instant
from fabric.core.status import PathKind
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from fabric.wire.path import TOKEN_BYTES

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PUNCH_INTERVALS_S = (0.05, 0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.5, 0.5, 0.5, 1, 1, 1, 2, 2, 3, 5)
"""Both sides start within one round trip of each other; a NAT opens on the second crossing probe."""

PATIENT_INTERVAL_S = 15.0
"""While there is no path: often enough that a hole towards the peer's last address stays open (30 s mappings)."""

PATIENT_TRIES = 60
SEARCH_INTERVAL_S = 60.0
"""While there is one (or after a quarter of an hour without): looked for without hurry."""

SPARE_INTERVAL_S = 20.0
"""A valid path that is not primary is kept open, for when the primary dies."""

RETRY_S = 0.5
BUSY_SILENCE_S = 0.5
"""Data was sent and nothing came back for this long: ask."""

PATIENCE = 4
"""Unanswered probes until a path counts as dead: 2.5 s under traffic, 9 s idle."""

MAX_PATHS = 32
MAX_STRAY_TRIES = 40
"""An address that was never offered and never proven is forgotten after so many probes."""

BEST_RANK = 0
MAX_OUTSTANDING = 64
"""Replies of a line whose round trip is seconds long are still known when they come."""
MAX_REPLY_AGE_S = 10.0
"""A later reply was held back, by a network or a suspended host: it says nothing of the path as it is now."""

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
)

_CLASS_E = ipaddress.ip_network("240.0.0.0/4")
"""Not to be sent to, the limited broadcast 255.255.255.255 in it (RFC 1122 section 3.2.1.3)."""

IPV4_UDP_BYTES = 28
IPV6_UDP_BYTES = 48


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """Send a probe with `token` to `to`."""

    token: bytes
    to: Address


@dataclass(frozen=True, slots=True)
class PrimaryChanged:
    """`to` is None once the last path is lost."""

    to: Address | None


@dataclass(slots=True)
class Path:
    """`rtt_s` is smoothed as RFC 6298 does; `heard` is the last authenticated sign of life on this path."""

    address: Address
    candidate: CandidateKind
    kind: PathKind
    next_probe: Instant
    tries: int = 0
    unanswered: int = 0
    replies: int = 0
    rtt_s: float | None = None
    heard: Instant | None = None
    valid: bool = False
    outstanding: dict[bytes, Instant] = field(default_factory=dict)

    @property
    def is_doubtful(self) -> bool:
        """Two probes in a row are on their way: another path of the same class is the better bet."""
        return self.unanswered >= 2

    @property
    def rank(self) -> int:
        """Classes, best first: the local network, IPv6, IPv4."""
        if self.kind is PathKind.LAN:
            return BEST_RANK
        return 1 if self.address.is_ipv6 else 2


class PathAgent:
    """The paths to one peer, for as long as that peer is known.

    `is_barred` tells the IPs that no path may lead to: the overlay's, or the tunnel would run through itself.
    """

    def __init__(self, draw: Draw, keepalive_s: float, is_barred: Callable[[str], bool] = lambda _ip: False) -> None:
        self._draw = draw
        self._keepalive_s = keepalive_s
        self._is_barred = is_barred
        self._networks: tuple[Network, ...] = ()
        self._paths: dict[Address, Path] = {}
        self._probes: deque[ProbeDue] = deque()
        self._events: deque[PrimaryChanged] = deque()
        self._running = False
        self.primary: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._paths.values())

    def handle_networks(self, networks: Sequence[Network]) -> None:
        """`networks` are those of the own interfaces: what lies in one is on the LAN."""
        self._networks = tuple(networks)
        for path in self._paths.values():
            path.kind = self._kind_of(path.address)

    def handle_candidates(self, candidates: Iterable[Candidate], now: Instant) -> None:
        """The peer's offer: these are probed from now on, and unproven ones that it no longer names forgotten."""
        offered = {c.address: c.kind for c in candidates if self._is_one_host(c.address)}
        for address in [a for a, p in self._paths.items() if a not in offered and not p.valid]:
            del self._paths[address]
        for address, kind in list(offered.items())[:MAX_PATHS]:
            self._add(address, kind, now)
        self.restart(now)

    def restart(self, now: Instant) -> None:
        """Probes every address again from the start of the punching rhythm."""
        self._running = True
        for path in self._paths.values():
            if path is not self.primary:
                path.tries = 0
                path.next_probe = now

    def pause(self) -> None:
        """Forgets everything and probes nothing until the next candidates."""
        self._running = False
        self._paths.clear()
        self._set_primary(None)

    def handle_moved(self, now: Instant) -> None:
        """The own network changed: what was proven from the old one is to be proven again, at once."""
        for path in self._paths.values():
            path.tries = 0
            path.unanswered = 0
            path.next_probe = now
            path.rtt_s = None
            path.replies = 0

    def doubt(self, now: Instant) -> None:
        """Handshakes on the primary fail although its probes came back once: every path is to be proven anew."""
        for path in self._paths.values():
            path.valid = False
        self.handle_moved(now)
        if self.primary is not None:
            self._set_primary(None)

    def handle_probe(self, source: Address, now: Instant) -> None:
        """An authenticated probe came from `source`: so the peer can reach us; see whether we reach it there."""
        path = self._paths.get(source)
        if path is None:
            path = self._add(source, CandidateKind.PEER_REFLEXIVE, now)
            if self.primary is not None and not self.primary.unanswered:
                # A peer that shows up elsewhere may have left where it was. One question is enough: whoever copies
                # records from many sources must not use up the primary's patience.
                self.primary.next_probe = now
        elif not path.valid and path.next_probe > now + 0.1:
            path.next_probe = now
        if path is not None:
            self._running = True

    def handle_reply(self, token: bytes, source: Address, now: Instant) -> float | None:
        """Returns the round-trip time in seconds, or None where this token was not sent to `source`, or long ago."""
        path = self._paths.get(source)
        sent = path.outstanding.pop(token, None) if path is not None else None
        if path is None or sent is None or now - sent > MAX_REPLY_AGE_S:
            return None
        sample = now - sent
        path.rtt_s = sample if path.rtt_s is None else 0.875 * path.rtt_s + 0.125 * sample
        path.replies += 1
        self._prove(path, now)
        return sample

    def handle_proven(self, source: Address, now: Instant) -> None:
        """A fresh challenge of a handshake came back from `source`: as good as a probe's reply."""
        path = self._paths.get(source) or self._add(source, CandidateKind.PEER_REFLEXIVE, now)
        if path is not None:
            self._running = True
            self._prove(path, now)

    def handle_heard(self, now: Instant) -> None:
        """Records of the session were opened: the primary lives."""
        if self.primary is not None:
            self._mark_heard(self.primary, now)

    def handle_sealed(self, now: Instant) -> None:
        """Records were sent on the primary, so silence means something."""
        primary = self.primary
        if primary is None:
            return
        if primary.heard is not None and not primary.unanswered:
            primary.next_probe = min(primary.next_probe, max(primary.heard, now - RETRY_S) + BUSY_SILENCE_S)

    def probe(self, address: Address, now: Instant) -> bytes | None:
        """Sends one more probe to a known address, for a measurement; returns its token."""
        path = self._paths.get(address)
        return None if path is None else self._send(path, now)

    def handle_timeout(self, now: Instant) -> None:
        for path in list(self._paths.values()):
            if self._running and path.next_probe <= now:
                self._handle_due(path, now)

    def next_timeout(self) -> Instant | None:
        if not self._running:
            return None
        soonest = min((path.next_probe for path in self._paths.values()), default=NEVER)
        return None if soonest == NEVER else soonest

    def poll_probe(self) -> ProbeDue | None:
        return self._probes.popleft() if self._probes else None

    def poll_event(self) -> PrimaryChanged | None:
        return self._events.popleft() if self._events else None

    def _add(self, address: Address, kind: CandidateKind, now: Instant) -> Path | None:
        """Returns the path, or None where the table is full, or the address barred."""
        path = self._paths.get(address)
        if path is None:
            if self._is_barred(address.ip) or (len(self._paths) >= MAX_PATHS and not self._evict()):
                return None
            path = self._paths[address] = Path(address, kind, self._kind_of(address), now)
        elif path.candidate is CandidateKind.PEER_REFLEXIVE:
            path.candidate = kind
        return path

    def _evict(self) -> bool:
        """Makes room by forgetting the oldest unproven address that only showed itself by a probe."""
        for address, path in self._paths.items():
            if path.candidate is CandidateKind.PEER_REFLEXIVE and not path.valid:
                del self._paths[address]
                return True
        return False

    def _is_one_host(self, address: Address) -> bool:
        """Whether a peer may name this as its own: one host, and the loopback only where we are on it ourselves."""
        ip = ipaddress.ip_address(address.ip)
        if address.transport is not Transport.UDP or ip.is_unspecified or ip.is_multicast:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            return False
        if isinstance(ip, ipaddress.IPv4Address) and ip in _CLASS_E:
            return False
        if ip.is_loopback and not any(ip in network for network in self._networks):
            return False
        return not any(
            ip == network.broadcast_address and network.version == 4 and network.prefixlen < 31
            for network in self._networks
        )

    def _kind_of(self, address: Address) -> PathKind:
        """LAN is a private address on a network of our own: a public one on the same wire is as good as direct."""
        ip = ipaddress.ip_address(address.ip)
        private = any(ip in network for network in _PRIVATE)
        on_link = any(ip in network for network in self._networks)
        return PathKind.LAN if private and on_link else PathKind.DIRECT_UDP

    def _handle_due(self, path: Path, now: Instant) -> None:
        if path.candidate is CandidateKind.PEER_REFLEXIVE and not path.valid and path.tries > MAX_STRAY_TRIES:
            del self._paths[path.address]
            return
        if path.unanswered >= PATIENCE and path.valid:
            self._lose(path, now)
        if path.valid or path is self.primary:
            path.next_probe = now + max(RETRY_S, 1.25 * (path.rtt_s or 0.0))
        else:
            path.next_probe = now + self._search_interval(path)
            if path.next_probe == NEVER:
                return
        path.unanswered += 1
        self._send(path, now)
        if path is self.primary:
            self._choose()

    def _search_interval(self, path: Path) -> float:
        if self.primary is not None and self.primary.rank == BEST_RANK:
            return NEVER
        if path.tries < len(PUNCH_INTERVALS_S):
            return PUNCH_INTERVALS_S[path.tries]
        if self.primary is None and path.tries < PATIENT_TRIES:
            return PATIENT_INTERVAL_S
        return SEARCH_INTERVAL_S

    def _send(self, path: Path, now: Instant) -> bytes:
        token = self._draw(TOKEN_BYTES)
        if len(path.outstanding) >= MAX_OUTSTANDING:
            del path.outstanding[next(iter(path.outstanding))]
        path.outstanding[token] = now
        path.tries += 1
        self._probes.append(ProbeDue(token, path.address))
        return token

    def _prove(self, path: Path, now: Instant) -> None:
        path.valid = True
        path.tries = 0
        self._mark_heard(path, now)
        self._choose()

    def _mark_heard(self, path: Path, now: Instant) -> None:
        path.heard = now
        path.unanswered = 0
        path.next_probe = now + (self._keepalive_s if path is self.primary else SPARE_INTERVAL_S)

    def _lose(self, path: Path, now: Instant) -> None:
        path.valid = False
        path.rtt_s = None
        path.replies = 0
        path.tries = 0
        if path is self.primary:
            self.primary = None
            self._choose()
            if self.primary is None:
                self._events.append(PrimaryChanged(None))
                self.restart(now)
            elif self.primary.rank != BEST_RANK:
                self._wake(now)

    def _wake(self, now: Instant) -> None:
        """Searches again where nothing was searched for, because nothing could be better."""
        for path in self._paths.values():
            if path.next_probe == NEVER:
                path.next_probe = now

    def _choose(self) -> None:
        best = min((p for p in self._paths.values() if p.valid), key=_preference, default=None)
        if best is None or best is self.primary:
            return
        if self.primary is None or _is_better(best, self.primary):
            self._set_primary(best)

    def _set_primary(self, path: Path | None) -> None:
        if self.primary is path:
            return
        self.primary = path
        if path is not None and path.heard is not None:
            path.next_probe = min(path.next_probe, path.heard + self._keepalive_s)
        self._events.append(PrimaryChanged(path.address if path is not None else None))


def _preference(path: Path) -> tuple[int, bool, float]:
    return path.rank, path.is_doubtful, path.rtt_s if path.rtt_s is not None else NEVER


def _is_better(path: Path, primary: Path) -> bool:
    """A better class at once; within a class only a round trip that is clearly shorter, and measured, not guessed."""
    if path.rank != primary.rank:
        return path.rank < primary.rank
    if path.is_doubtful != primary.is_doubtful:
        return primary.is_doubtful
    if path.rtt_s is None or primary.rtt_s is None or path.replies < 3:
        return False
    return path.rtt_s < 0.7 * primary.rtt_s and path.rtt_s < primary.rtt_s - 0.005


def payload_limit(to: Address, path_mtu: int) -> int:
    """Returns the longest UDP payload whose packet fits `path_mtu` bytes: RFC 768 in RFC 791 or in RFC 8200."""
    return path_mtu - (IPV6_UDP_BYTES if to.is_ipv6 else IPV4_UDP_BYTES)
