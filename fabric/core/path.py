"""The paths to one peer: found by probing, measured, kept alive, and one of them primary.

The agent knows neither gate nor session: it names a token and an address, and its parent wraps that into a
gated or a sealed probe. A path counts only after its own token came back from the very address that it was sent
to (protocol.md section 8), so nobody can be made to send to an address that did not ask.

    candidate --reply--> valid --chosen--> primary
        ^                  |                  | nothing heard, PATIENCE probes unanswered
        +---- forgotten ---+<----- lost ------+

A TCP candidate is a *door*: no datagram goes to it, but a connection is asked for, and what opens is a path. Paths
over relays are told by `handle_channels`; they are probed like any other and are there from the start, so that
frames flow while something better is looked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fabric.core.machine import NEVER, Draw, Instant
from fabric.core.one_path import Path, is_better, payload_limit, preference
from fabric.core.pace import Pace
from fabric.core.path_mtu import PathMtu
from fabric.core.path_rhythm import (
    AGAIN_DOOR_TRY,
    AGAIN_TRY,
    BUSY_SILENCE_S,
    DOOR_DELAY_S,
    HUSH_S,
    PATIENCE,
    RETRY_S,
    SPARE_INTERVAL_S,
    door_pause_s,
    question_pause_s,
    search_pause_s,
    spare_pause_s,
)
from fabric.core.reach import BEST_RANK, DIRECT_TCP_RANK, Network, is_one_host, is_relayed, kind_of
from fabric.core.talk import PAUSE_S, Talk
from fabric.wire.address import Address, Candidate, CandidateKind
from fabric.wire.path import TOKEN_BYTES

FLAPPING_S = 60.0
"""A primary that was lost so soon has to answer more often before it is primary again."""

MAX_PATHS = 40
MAX_STRAY_TRIES = 18
"""An address that was never offered and never proven is forgotten after one rhythm of probes."""

PROBES_AT_ONCE = 1000
PROBES_PER_S = 5.0
"""To addresses of one peer that never answered, for the peer may name a victim's, and ever new ones. Two rhythms for
24 candidates; then 500 bytes a second, less than the offers that it takes: 19,000 probes or 1.9 MB in an hour."""

STRAYS_AT_ONCE = 16
STRAYS_PER_S = 1.0
"""New addresses from which a peer's datagrams came before there was a session: whoever knows the gate can forge them,
and each would be asked, and let in where a flood is kept out."""

DOORS_AT_ONCE = 60
DOORS_PER_S = 0.5
"""The same for connections, each of which may be several SYNs: the patient rhythm of twelve doors."""

DENIED_S = 1.0
"""Until another look, where the allowance is used up."""

MAX_OUTSTANDING = 64
"""Replies of a line whose round trip is seconds long are still known when they come."""
MAX_REPLY_AGE_S = 10.0
"""A later reply was held back, by a network or a suspended host: it says nothing of the path as it is now."""


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """Send a probe with `token` to `to`, as a packet of `packet_bytes` where that is not 0."""

    token: bytes
    to: Address
    packet_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PrimaryChanged:
    """`to` is None once the last path is lost."""

    to: Address | None


@dataclass(frozen=True, slots=True)
class DoorDue:
    """Ask for a TCP connection to `to`."""

    to: Address


@dataclass(frozen=True, slots=True)
class LinkForgotten:
    """No path uses this TCP connection any more."""

    link: Address


@dataclass(frozen=True, slots=True)
class PrimaryDoubted:
    """The primary does not answer: what else there is should be looked at before it is given up."""


PathEvent = PrimaryChanged | DoorDue | LinkForgotten | PrimaryDoubted


class PathAgent:
    """The paths to one peer, for as long as that peer is known.

    `is_barred` tells the IPs that no path may lead to: the overlay's, or the tunnel would run through itself.
    `path_mtu` is the longest packet to be tried. `hole_interval_s` tells how often the own NAT has to see a datagram.
    """

    def __init__(
        self,
        draw: Draw,
        keepalive_s: float,
        is_barred: Callable[[str], bool] = lambda _ip: False,
        path_mtu: int = 1500,
        hole_interval_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._draw = draw
        self._keepalive_s = keepalive_s
        self._is_barred = is_barred
        self._path_mtu = path_mtu
        self._hole_interval_s = hole_interval_s
        self._networks: tuple[Network, ...] = ()
        self._paths: dict[Address, Path] = {}
        self._probes: deque[ProbeDue] = deque()
        self._events: deque[PathEvent] = deque()
        self._running = False
        # What keeps a path open, and the replies to it, are no conversation.
        self._talk = Talk(min(PAUSE_S, keepalive_s / 2))
        self._doors_at: Instant = NEVER
        self._probe_pace = Pace(1 / PROBES_PER_S, PROBES_AT_ONCE)
        self._door_pace = Pace(1 / DOORS_PER_S, DOORS_AT_ONCE)
        self._stray_pace = Pace(1 / STRAYS_PER_S, STRAYS_AT_ONCE)
        self.primary: Path | None = None
        self.copies = 1
        """Over how many relays each datagram goes, where the primary is one."""
        self.is_measuring = False
        """Whether long probes can be sent: only sealed ones may be longer than a handshake's pieces."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self._paths.values())

    @property
    def is_direct(self) -> bool:
        return self.primary is not None and not self.primary.is_relayed

    @property
    def has_best_udp(self) -> bool:
        """Whether frames go by UDP, with nobody in between."""
        return self.primary is not None and self.primary.rank < DIRECT_TCP_RANK

    @property
    def copy(self) -> Path | None:
        """The second relay's path, where each datagram is to take two."""
        primary = self.primary
        if self.copies < 2 or primary is None or not primary.is_relayed:
            return None
        others = [p for p in self._paths.values() if p.valid and p.is_relayed and p.address.ip != primary.address.ip]
        return min(others, key=lambda path: (path.rank, path.rtt_s or NEVER), default=None)

    def answering(self, address: Address) -> Path | None:
        """Returns the path to this address, where the peer has answered by it and not been lost there since."""
        path = self._paths.get(address)
        return path if path is not None and path.valid else None

    def admits(self, address: Address) -> bool:
        """Whether the peer may make us send there."""
        return is_one_host(address, self._networks) and not self._is_barred(address.ip)

    # what there is to try

    def handle_networks(self, networks: Sequence[Network]) -> None:
        """`networks` are those of the own interfaces: what lies in one is on the LAN."""
        self._networks = tuple(networks)
        for path in self._paths.values():
            path.kind = kind_of(path.address, self._networks)

    def handle_candidates(self, candidates: Iterable[Candidate], now: Instant, *, again: bool = False) -> None:
        """The peer's offer: these are probed from now on, and unproven ones that it no longer names forgotten."""
        offered = {c.address: c.kind for c in candidates if is_one_host(c.address, self._networks)}
        for path in [p for p in self._paths.values() if not p.valid and p.address not in offered]:
            if not (path.is_relayed or path.is_link):
                del self._paths[path.address]
        for address, kind in list(offered.items())[:MAX_PATHS]:
            named = self._add(address, kind, now)
            if named is not None:
                named.is_named = True
        self.restart(now, again=again)

    def handle_channels(self, channels: Sequence[Address], now: Instant) -> None:
        """The relays' channels that lead to the peer now, all of them."""
        for address in [p.address for p in self._paths.values() if p.is_relayed and p.address not in channels]:
            self._forget(self._paths[address], now)
        for address in channels:
            if address not in self._paths:
                self._paths[address] = self._make(address, CandidateKind.RELAYED, now)

    def handle_link(self, link: Address, asked: Address, now: Instant) -> bool:
        """A TCP connection that was asked for stands: it is a path once it has answered a probe. False where it was
        not asked for here."""
        door = self._paths.get(asked)
        path = self._add(link, door.candidate, now) if door is not None else None
        if path is not None:
            path.is_named = True
        return path is not None

    def handle_link_lost(self, link: Address, now: Instant) -> None:
        path = self._paths.get(link)
        if path is not None:
            self._forget(path, now)
            self._open_doors(now)

    def handle_connect_failed(self, to: Address, why: str) -> None:
        door = self._paths.get(to)
        if door is not None:
            door.why = why

    def restart(self, now: Instant, *, again: bool = False) -> None:
        """Probes every address from the start of the punching rhythm; with `again` from the middle of it, for a look
        at what did not open before."""
        self._running = True
        for path in self._paths.values():
            if path is not self.primary:
                path.tries = AGAIN_TRY if again else 0
                path.next_probe = now
        self._open_doors(now + DOOR_DELAY_S, tries=AGAIN_DOOR_TRY if again else 0)

    def hurry_doors(self, now: Instant) -> None:
        """UDP does not get through at one of the ends: there is nothing to wait for."""
        if self._doors_at > now:
            self._open_doors(now)

    def pause(self) -> None:
        """Forgets everything and probes nothing until the next candidates."""
        self._running = False
        for path in self._paths.values():
            if path.is_link:
                self._events.append(LinkForgotten(path.address))
        self._paths = {a: self._make(a, CandidateKind.RELAYED, NEVER) for a, p in self._paths.items() if p.is_relayed}
        self._set_primary(None, 0.0)

    def handle_moved(self, now: Instant) -> None:
        """The network of either end changed: what was proven in the old one is to be proven again, at once. Whatever
        answers first is primary then, of whichever class: the old one most likely is dead."""
        for path in self._paths.values():
            path.confirmed = False
            path.tries = 0
            path.unanswered = 0
            path.next_probe = now
            path.rtt_s = None
            path.replies = path.losses = 0
            path.mtu.handle_moved()
        for path in self._in_use():
            self._measure(path, now)
        self._open_doors(now + DOOR_DELAY_S)

    def doubt(self, now: Instant) -> None:
        """Handshakes on the primary fail although its probes came back once: every path is to be proven anew."""
        for path in self._paths.values():
            path.valid = False
        self.handle_moved(now)
        if self.primary is not None:
            self._set_primary(None, now)

    # what comes from the peer

    def handle_gated(self, source: Address, now: Instant) -> None:
        """A datagram through the gate came from `source`, or was forged by the peer to seem so."""
        if source in self._paths or self._stray_pace.try_take(now):
            self.handle_probe(source, now)

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
        sent, size = path.outstanding.pop(token, (None, 0)) if path is not None else (None, 0)
        if path is None or sent is None or now - sent > MAX_REPLY_AGE_S:
            return None
        sample = now - sent
        if size and sent >= path.mtu.since:
            path.mtu.handle_answer(size, now)
        elif not size:
            path.note_rtt(sample)
        path.replies += 1
        path.last_answer = now
        self._prove(path, now)
        return sample

    def follow(self, source: Address, now: Instant) -> None:
        """The peer sends on the path from `source`, as good as the primary: both ends should use the same.

        Several may open at once, through a NAT with a port for each destination; the ends must agree on which to keep
        before either lets the others go.
        """
        path, primary = self._paths.get(source), self.primary
        if path is None or primary is None or path is primary:
            return
        if path.valid and path.confirmed and path.rank == primary.rank and path.address.ip == primary.address.ip:
            self._set_primary(path, now)

    def handle_proven(self, source: Address, now: Instant) -> None:
        """A fresh challenge of a handshake came back from `source`: as good as a probe's reply."""
        path = self._paths.get(source) or self._add(source, CandidateKind.PEER_REFLEXIVE, now)
        if path is not None:
            self._running = True
            path.replies += 1
            self._prove(path, now)

    def handle_heard(self, now: Instant, records: int = 1) -> None:
        """Records of the session were opened: the primary lives, unless they may be the copies of another relay."""
        if self.primary is None or self.copy is not None:
            return
        self._mark_heard(self.primary, now)
        if self._talk.note(records, now):
            # Whoever only answers sends nothing once nothing comes: the end of a conversation is worth a question.
            self.primary.next_probe = min(self.primary.next_probe, now + HUSH_S)
            self._talk.reset()

    def handle_load(self, now: Instant, records: int) -> None:
        """So many records with data were sent: whether long ones still get through is worth a question."""
        for path in self._in_use():
            if self.is_measuring:
                path.mtu.handle_sealed(records, now)

    def handle_sealed(self, now: Instant) -> None:
        """Records were sent on the primary and none came, so silence means something."""
        primary = self.primary
        if primary is None:
            return
        if primary.heard is not None and not primary.unanswered:
            primary.next_probe = min(primary.next_probe, max(primary.heard, now - RETRY_S) + BUSY_SILENCE_S)

    def handle_live(self, now: Instant) -> None:
        """A session stands: sealed probes can find out what the primary carries.

        Anew where none was answered: a peer that restarted could not open those of the session before.
        """
        self.is_measuring = True
        for path in self._in_use():
            if not path.mtu.is_settled or path.mtu.confirmed is None:
                self._measure(path, now)

    def handle_too_long(self, to: Address, payload_bytes: int, now: Instant) -> None:
        """The own device refused a datagram of `payload_bytes` to `to`."""
        path = self._paths.get(to)
        if path is not None:
            path.mtu.handle_too_long(payload_bytes - payload_limit(to, 0), now)

    def probe(self, address: Address, now: Instant) -> bytes | None:
        """Sends one more probe to a known address, for a measurement; returns its token."""
        path = self._paths.get(address)
        return None if path is None else self._send(path, now)

    # time, and what the parent takes out

    def handle_timeout(self, now: Instant) -> None:
        for path in list(self._paths.values()):
            if self._running and path.next_probe <= now:
                self._handle_due(path, now)
        for path in self._in_use():
            if path.mtu.is_stopped:  # copies have begun to take it
                self._measure(path, now)
            if self.is_measuring and path.mtu.next_timeout() <= now:
                for size in path.mtu.take_due(now):
                    self._send(path, now, size)

    def next_timeout(self) -> Instant | None:
        if not self._running:
            return None
        soonest = min((path.next_probe for path in self._paths.values()), default=NEVER)
        if self.is_measuring:
            soonest = min((soonest, *(path.mtu.next_timeout() for path in self._in_use())))
        return None if soonest == NEVER else soonest

    def poll_probe(self) -> ProbeDue | None:
        return self._probes.popleft() if self._probes else None

    def poll_event(self) -> PathEvent | None:
        return self._events.popleft() if self._events else None

    # inside

    def _in_use(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.primary, self.copy) if path is not None)

    def _make(self, address: Address, kind: CandidateKind, now: Instant) -> Path:
        return Path(address, kind, kind_of(address, self._networks), now, PathMtu(self._path_mtu))

    def _add(self, address: Address, kind: CandidateKind, now: Instant) -> Path | None:
        """Returns the path, or None where the table is full, the address barred, or a relay not of this peer."""
        path = self._paths.get(address)
        if path is None:
            if is_relayed(address) or self._is_barred(address.ip):
                return None
            if len(self._paths) >= MAX_PATHS and not self._evict():
                return None
            path = self._paths[address] = self._make(address, kind, now)
        elif path.candidate is CandidateKind.PEER_REFLEXIVE:
            path.candidate = kind
        return path

    def _evict(self) -> bool:
        """Makes room by forgetting the oldest unproven address that only showed itself by a probe."""
        for path in self._paths.values():
            if not (path.is_named or path.is_relayed or path.valid):
                self._drop(path)
                return True
        return False

    def _drop(self, path: Path) -> None:
        del self._paths[path.address]
        if path.is_link:
            self._events.append(LinkForgotten(path.address))

    def _forget(self, path: Path, now: Instant) -> None:
        """The path is no more; if it was primary, another one is."""
        self._drop(path)
        if path is self.primary:
            path.valid = False
            self._replace_primary(now)

    def _open_doors(self, at: Instant, tries: int = 0) -> None:
        self._doors_at = at
        for path in self._paths.values():
            if path.is_door:
                path.tries = tries
                path.next_probe = at

    def _handle_due(self, path: Path, now: Instant) -> None:
        if path.is_door:
            self._handle_door_due(path, now)
            return
        if self._is_hopeless(path) or (path.valid and self._is_sibling(path)):
            self._drop(path)
            return
        if path.unanswered >= PATIENCE and path.valid:
            self._lose(path, now)
            if path.address not in self._paths:
                return
        if path.valid or path is self.primary:
            path.next_probe = now + question_pause_s(path)
        else:
            path.next_probe = now + search_pause_s(path, self.primary)
            if path.next_probe == NEVER:
                return
            if path.heard is None and not path.is_relayed and not self._probe_pace.try_take(now):
                path.next_probe = now + DENIED_S
                return
        path.unanswered += 1
        self._send(path, now)
        if path is self.primary:
            if path.unanswered == 2:
                self._events.append(PrimaryDoubted())
                self._ask_spares(now)
            self._choose(now)

    def _ask_spares(self, now: Instant) -> None:
        """Before the primary is given up: whatever took it may have taken spares as well."""
        for path in self._paths.values():
            if path.valid and path is not self.primary:
                path.next_probe = min(path.next_probe, now)

    def _is_hopeless(self, path: Path) -> bool:
        """Whether nobody ever said that the peer is there, and it has not answered for a whole rhythm."""
        if path.is_named or path.is_relayed or path.valid:
            return False
        return (path.total_tries if path.heard is None else path.tries) > MAX_STRAY_TRIES

    def _is_sibling(self, path: Path) -> bool:
        """Whether it opened by chance beside the primary, towards the same host: one such path is enough."""
        primary = self.primary
        if primary is None or path is primary or path.is_named or path.is_relayed or path.is_link:
            return False
        return path.address.ip == primary.address.ip

    def _handle_door_due(self, door: Path, now: Instant) -> None:
        if self.primary is not None and self.primary.rank <= DIRECT_TCP_RANK:
            door.next_probe = NEVER
            return
        if not self._door_pace.try_take(now):
            door.next_probe = now + DENIED_S
            return
        door.next_probe = now + door_pause_s(door)
        self._note_try(door, now)
        self._events.append(DoorDue(door.address))

    def _send(self, path: Path, now: Instant, packet_bytes: int = 0) -> bytes:
        token = self._draw(TOKEN_BYTES)
        if len(path.outstanding) >= MAX_OUTSTANDING:
            del path.outstanding[next(iter(path.outstanding))]
        path.outstanding[token] = (now, packet_bytes)
        if not packet_bytes:
            self._note_try(path, now)
        self._probes.append(ProbeDue(token, path.address, packet_bytes))
        return token

    def _note_try(self, path: Path, now: Instant) -> None:
        path.tries += 1
        path.total_tries += 1
        path.first_tried = now if path.first_tried is None else path.first_tried
        path.last_tried = now

    def _prove(self, path: Path, now: Instant) -> None:
        path.valid = path.confirmed = True
        path.tries = 0
        self._mark_heard(path, now)
        self._choose(now)

    def _mark_heard(self, path: Path, now: Instant) -> None:
        path.heard = now
        path.unanswered = 0
        path.next_probe = now + self._quiet_interval(path)

    def _quiet_interval(self, path: Path) -> float:
        """How long a path that answers is left alone."""
        primary = self.primary
        if path is primary or path is self.copy:
            return self._keepalive_s
        if primary is not None and path.rank < primary.rank and not path.is_steady:
            return RETRY_S
        if self._is_sibling(path):
            return SPARE_INTERVAL_S
        spares = sum(1 for other in self._paths.values() if other.valid and other is not primary)
        return spare_pause_s(path, spares, self._hole_interval_s())

    def _lose(self, path: Path, now: Instant) -> None:
        path.valid = False
        path.rtt_s = None
        path.replies = 0
        path.tries = 0
        if path is self.primary:
            is_flapping = path.chosen is not None and now - path.chosen < FLAPPING_S
            path.losses = min(path.losses + 1, 3) if is_flapping else 0
        if path.is_link:
            self._drop(path)
        if path is self.primary:
            self._replace_primary(now)

    def _replace_primary(self, now: Instant) -> None:
        if self.primary is not None:
            self.primary.mtu.stop()
        self.primary = None
        self._choose(now)
        if self.primary is None:
            self._events.append(PrimaryChanged(None))
            self.restart(now)
        elif self.primary.rank != BEST_RANK:
            self._wake(now)

    def _wake(self, now: Instant) -> None:
        """Searches again where nothing was searched for, because nothing could be better."""
        for path in self._paths.values():
            if path.next_probe == NEVER and not path.is_door:
                path.tries = 0
                path.next_probe = now
        if self.primary is None or self.primary.rank > DIRECT_TCP_RANK:
            self._open_doors(now + DOOR_DELAY_S)

    def _choose(self, now: Instant) -> None:
        least = self.primary is None  # then any path is better than none
        best = min(
            (p for p in self._paths.values() if p.is_steady or (least and p.valid)),
            key=lambda path: (least and path.unanswered > 0, *preference(path, now)),
            default=None,
        )
        if best is None or best is self.primary:
            return
        if self.primary is None or is_better(best, self.primary, now):
            self._set_primary(best, now)

    def _set_primary(self, path: Path | None, now: Instant) -> None:
        if self.primary is path:
            return
        if self.primary is not None:
            self.primary.mtu.stop()
        self.primary = path
        if path is not None and path.heard is not None:
            path.chosen = now
            path.next_probe = min(path.next_probe, path.heard + self._keepalive_s)
            self._measure(path, now)
        self._events.append(PrimaryChanged(path.address if path is not None else None))

    def _measure(self, path: Path, now: Instant) -> None:
        if self.is_measuring and not path.is_link:
            path.mtu.begin(now)
