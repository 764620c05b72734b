"""Opening a NAT that gives every destination another port, from the other side of one that does not.

One end has a *dependent* mapping (RFC 4787 section 4.1): no server can tell which port it will have towards the
peer. The other end has one port for all, but lets in only those that it has sent to, port by port. So they meet in
the middle of the birthday paradox:

    the dependent end spreads: sends from SOCKETS sockets to the one port; each makes a mapping of its own
    the other end guesses:     sends from its one port to one port after another of the dependent end's NAT

The first guess that hits one of the mappings passes both NATs. With 256 of 64,512 ports mapped, a guess hits with
1/252: half of all pairs open within 175 guesses, 99.9 % within 1,740. Where the NAT hands out ports in a row, the
ports behind the last one seen are guessed first, and the first few dozen do. Both ends know from the offers which of
them does what. Two dependent ends would need 64,512 times as many: they stay on the relay.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Sequence

from fabric.core.machine import Draw, Instant
from fabric.core.pace import Pace
from fabric.wire.address import Address
from fabric.wire.nat import Filtering, Mapping, NatBehaviour

SOCKETS = 256
SPREAD_BATCH = 64
SPREAD_PAUSE_S = 0.05
SPREAD_AGAIN_S = 4.0
"""The mappings have to live through the round (30 s and more), but the first datagrams may get lost."""

ROUND_S = 12.0
"""How long the sockets are kept for one peer."""

GUESS_BATCH = 20
GUESS_PAUSE_S = 0.1
"""200 a second: 28 kB/s, a voice call's worth, and no flood in anybody's eyes."""

GUESSES_A_ROUND = 2000
GUESSES_AT_MOST = 8000
"""Four rounds without a hit have a probability of 10^-13: then it is no such NAT, and nothing is gained by more."""

GUESSES_PER_S = GUESSES_AT_MOST / 3600
"""Of one peer's, once these are spent: it may name other addresses in every offer, and a victim's among them."""

PREDICTED = 640
"""Ports ahead of the last one seen: those of the peer's own sockets, and as many that others may have taken."""

FIRST_PORT = 1024


class Role(enum.Enum):
    NONE = enum.auto()
    SPREAD = enum.auto()
    GUESS = enum.auto()


def role(own: NatBehaviour, peer: NatBehaviour) -> Role:
    """Returns what this end does; the peer finds the opposite from the same two values."""
    if Mapping.UNKNOWN in (own.mapping, peer.mapping):
        return Role.NONE  # it is known within a second or two, and told then
    if not (own.carries_udp and peer.carries_udp) or own.mapping.is_dependent == peer.mapping.is_dependent:
        return Role.NONE
    if own.mapping.is_dependent:
        return Role.SPREAD if _admits_only_known_ports(peer) else Role.NONE
    return Role.GUESS if _admits_only_known_ports(own) else Role.NONE


def is_hopeless(own: NatBehaviour, peer: NatBehaviour) -> bool:
    """Whether neither end has a port that the other could know: no punching and no guessing opens these two."""
    return own.mapping.is_dependent and peer.mapping.is_dependent


def _admits_only_known_ports(nat: NatBehaviour) -> bool:
    """Any other NAT lets the first probe in, whatever port it comes from."""
    return nat.filtering in (Filtering.UNKNOWN, Filtering.ADDRESS_AND_PORT_DEPENDENT)


class Guesser:
    """The end with one port: whom to send a probe next. `spent` counts over all rounds towards the same targets."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._targets: tuple[Address, ...] = ()
        self._ports: Iterator[Address] = iter(())
        self._left = 0
        self._next: Instant | None = None
        self._pace = Pace(1 / GUESSES_PER_S, GUESSES_AT_MOST)
        self.spent = 0
        self._spent_on: frozenset[str] = frozenset()

    def begin(self, seen: Sequence[Address], stride: int, now: Instant) -> None:
        """`seen` are the outside addresses that servers saw the peer at; `stride` as in `NatBehaviour`."""
        hosts = frozenset(address.ip for address in seen)
        if hosts != self._spent_on:
            self._spent_on, self.spent = hosts, 0
        if not seen or self.spent >= GUESSES_AT_MOST:
            return
        self._ports = self._sequence(tuple(seen), stride)
        self._left = min(GUESSES_A_ROUND, GUESSES_AT_MOST - self.spent)
        self._next = now

    def stop(self) -> None:
        self._next = None

    def handle_moved(self) -> None:
        """The own network is another: what was in vain from the old one may not be from here."""
        self.spent = 0

    def take_due(self, now: Instant) -> list[Address]:
        """Returns the addresses to be probed now."""
        if self._next is None or self._next > now:
            return []
        batch: list[Address] = []
        while len(batch) < min(GUESS_BATCH, self._left) and self._pace.try_take(now):
            batch.append(next(self._ports))
        self._left -= len(batch)
        self.spent += len(batch)
        self._next = now + GUESS_PAUSE_S if self._left and batch else None
        return batch

    def next_timeout(self) -> Instant | None:
        return self._next

    def _sequence(self, seen: tuple[Address, ...], stride: int) -> Iterator[Address]:
        if stride:
            ports = [address.port for address in seen]
            base = max(ports) if stride > 0 else min(ports)
            for step in range(1, PREDICTED + 1):
                port = base + stride * step
                if FIRST_PORT <= port <= 65_535:
                    yield Address(seen[0].ip, port)
        hosts = tuple(dict.fromkeys(address.ip for address in seen))
        guessed: set[tuple[str, int]] = set()
        while True:
            random = int.from_bytes(self._draw(4))
            guess = (hosts[random % len(hosts)], FIRST_PORT + (random >> 8) % (65_536 - FIRST_PORT))
            if guess not in guessed:
                guessed.add(guess)
                yield Address(*guess)


class Spreader:
    """The dependent end: which of its sockets sends a probe to the peer's port next."""

    def __init__(self) -> None:
        self._vias: tuple[int, ...] = ()
        self._targets: tuple[Address, ...] = ()
        self._waiting: deque[Address] = deque()
        self._again_at: Instant = 0.0
        self._next: Instant | None = None
        self._ends: Instant = 0.0

    @property
    def vias(self) -> tuple[int, ...]:
        """The sockets that are on loan here."""
        return self._vias

    def begin(self, targets: Sequence[Address], vias: Sequence[int], now: Instant) -> None:
        """`targets` are where servers saw the peer: it has the same port for all."""
        self._vias, self._targets = tuple(vias), tuple(targets)
        self._ends = now + ROUND_S
        self._fill(now)

    def end(self) -> tuple[int, ...]:
        """Returns the sockets, which nothing here uses any more."""
        vias, self._vias, self._next = self._vias, (), None
        self._waiting.clear()
        return vias

    def is_over(self, now: Instant) -> bool:
        return bool(self._vias) and now >= self._ends

    def take_due(self, now: Instant) -> list[Address]:
        """Returns the addresses, each with the socket to use, to be probed now."""
        if self._next is None or self._next > now:
            return []
        if not self._waiting and now >= self._again_at:
            self._fill(now)
        batch = [self._waiting.popleft() for _ in range(min(SPREAD_BATCH, len(self._waiting)))]
        self._next = now + SPREAD_PAUSE_S if self._waiting else min(self._again_at, self._ends)
        if now >= self._ends:
            self._next = None
        return batch

    def next_timeout(self) -> Instant | None:
        return self._next if self._next is not None or not self._vias else self._ends

    def _fill(self, now: Instant) -> None:
        self._again_at = now + SPREAD_AGAIN_S
        self._next = now
        self._waiting.extend(Address(t.ip, t.port, t.transport, via) for t in self._targets for via in self._vias)
