"""Looks for a better path to one peer than the one in use, by all means that there are.

    begin --> punching (the paths' own rhythm) --fails--> guessing, where one end's NAT has a port for each destination
                                               --fails--> TCP
    again at the intervals of `Seeking`, for as long as frames do not go directly over UDP

It decides what to try and when; the sockets are the node's to lend, and the probes the parent's to wrap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fabric.core.guessing import Guesser, Role, Spreader, is_hopeless, role
from fabric.core.machine import Draw, Instant
from fabric.core.pace import Pace
from fabric.core.path import PathAgent
from fabric.core.reach import is_private
from fabric.core.seeking import Seek, Seeking
from fabric.wire.address import Address, CandidateKind, Transport
from fabric.wire.nat import NatBehaviour
from fabric.wire.offer import Offer

MAX_ROUNDS = 4
"""As the guesses of the other end: more without a hit gain nothing."""

ROUND_PAUSE_S = 900.0
"""Between rounds once these are spent, for a peer that names other addresses each time: a round of 1,536 probes at
most in a quarter of an hour."""

MAX_TARGETS = 2


class Opener:
    """`wants_tcp`: connections are to be taken, and the own TCP address told. `wants_sockets`: sockets to guess with
    are to be lent, by `handle_sockets`; `take_unwanted` gives them back."""

    def __init__(self, draw: Draw, admits: Callable[[Address], bool] = lambda _address: True) -> None:
        self._admits = admits
        self._seeking = Seeking()
        self._guesser = Guesser(draw)
        self._spreader = Spreader()
        self._rounds = 0
        self._rounds_for: tuple[Address, ...] = ()
        self._round_pace = Pace(ROUND_PAUSE_S, MAX_ROUNDS)
        self._lent: set[int] = set()
        self._guesses: deque[Address] = deque()
        self._offer_due = False
        self._is_hopeless = False
        self.wants_tcp = False
        self.wants_sockets = False

    @property
    def spent(self) -> int:
        """Probes that were spent on guessing."""
        return self._guesser.spent

    @property
    def is_spreading(self) -> bool:
        return bool(self._spreader.vias)

    @property
    def is_guessing(self) -> bool:
        return self.is_spreading or self.wants_sockets or self._guesser.next_timeout() is not None

    def begin(self, own: NatBehaviour, offer: Offer | None, now: Instant) -> None:
        """Both ends look from now on."""
        hopeless = not own.carries_udp or (offer is not None and not offer.nat.carries_udp)
        self._is_hopeless = offer is not None and is_hopeless(own, offer.nat)
        self._seeking.begin(now, udp_is_hopeless=hopeless)
        if hopeless:
            self._guesser.stop()

    def note_heard(self) -> None:
        """The peer has said that it looks: the own turn to say so is later."""
        self._seeking.note_heard()

    def hurry(self) -> None:
        """Something has changed: what failed before may succeed now."""
        self._seeking.hurry()
        self._guesser.handle_moved()
        self._rounds = 0

    def plan(self, paths: PathAgent, now: Instant, *, is_live: bool) -> None:
        if paths.has_best_udp:
            self._guesser.stop()
            self.wants_tcp = self.wants_sockets = False
        self._seeking.plan(
            now,
            is_best=paths.has_best_udp,
            is_live=is_live and paths.primary is not None,
            is_hopeless=self._is_hopeless,
        )

    def stop(self) -> None:
        self._seeking.stop()
        self._guesser.stop()
        self._spreader.end()
        self._rounds = 0
        self.wants_tcp = self.wants_sockets = False

    def handle_sockets(self, vias: tuple[int, ...], offer: Offer | None, now: Instant) -> None:
        """These sockets are lent: let each make a mapping towards the peer's one port."""
        self.wants_sockets = False
        self._lent.update(vias)
        if offer is not None and vias and self._round_pace.try_take(now):
            self._rounds += 1
            self._spreader.begin(self._seen(offer), vias, now)
            self._offer_due = True  # so that the peer guesses now, and knows the newest port

    def handle_timeout(self, own: NatBehaviour, offer: Offer | None, paths: PathAgent, now: Instant) -> None:
        if not own.carries_udp:
            self._guesser.stop()
        for due in self._seeking.take_due(now):
            match due:
                case Seek.OFFER:
                    self._offer_due = True
                    paths.restart(now, again=True)
                    self.begin(own, offer, now)
                case Seek.GUESS if offer is not None and not paths.has_best_udp:
                    self._guess(own, offer, now)
                case Seek.TCP if not paths.has_best_udp:
                    self.wants_tcp = True
                case Seek.TCP_OVER:
                    self.wants_tcp = False
                case _:
                    pass
        self._guesses.extend(self._guesser.take_due(now))
        self._guesses.extend(self._spreader.take_due(now))

    def next_timeout(self) -> Instant | None:
        parts = (self._seeking, self._guesser, self._spreader)
        return min((at for at in (part.next_timeout() for part in parts) if at is not None), default=None)

    def poll_guess(self) -> Address | None:
        """Returns an address that a probe is to go to."""
        return self._guesses.popleft() if self._guesses else None

    def take_offer_due(self) -> bool:
        """Returns whether the peer is to be told, once."""
        due, self._offer_due = self._offer_due, False
        return due

    def take_unwanted(self, paths: PathAgent, now: Instant) -> tuple[int, ...]:
        """Returns lent sockets that no path and no guess needs any more."""
        if not self._lent:
            return ()
        if paths.has_best_udp or self._spreader.is_over(now):
            self._spreader.end()
        used = {path.address.via for path in paths.paths if path.address.transport is Transport.UDP}
        unwanted = self._lent - used - set(self._spreader.vias)
        self._lent -= unwanted
        return tuple(sorted(unwanted))

    def _guess(self, own: NatBehaviour, offer: Offer, now: Instant) -> None:
        match role(own, offer.nat):
            case Role.GUESS:
                self._guesser.begin(self._seen(offer), offer.nat.stride, now)
            case Role.SPREAD if not self._spreader.vias:
                seen = self._seen(offer)
                if seen != self._rounds_for:
                    self._rounds_for, self._rounds = seen, 0
                self.wants_sockets = bool(seen) and self._rounds < MAX_ROUNDS and self._round_pace.free_at <= now
            case _:
                pass

    def _seen(self, offer: Offer) -> tuple[Address, ...]:
        """Returns where servers saw the peer, over IPv4 and UDP; its own public address where there is no NAT."""
        udp = [c for c in offer.candidates if c.address.transport is Transport.UDP and not c.address.is_ipv6]
        admitted = [c for c in udp if self._admits(c.address)]
        reflexive = [c.address for c in admitted if c.kind is CandidateKind.REFLEXIVE]
        public = [c.address for c in admitted if not is_private(c.address.ip)]
        return tuple((reflexive or public)[:MAX_TARGETS])
