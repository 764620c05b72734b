"""What the service is asked for one peer, and when: the wish itself, and offers to be passed on.

An intent is stated at every meeting with the service, and again before it ends. Where no introduction stands it is
stated again all the same, ever more rarely: whatever kept the introduction away (a message lost, a clock set wrong)
may be over, and nobody else would say so. An offer goes out at once, though few in a row, and no more than one a
second; it is repeated, ever more rarely, while there is no session.

This decides when; what is said, its parent makes.
"""

from __future__ import annotations

import enum

from fabric.core.machine import Instant
from fabric.core.pace import Pace
from fabric.core.status import PeerState
from fabric.core.timers import Timers

INTENT_INTERVALS_S = (5.0, 15.0, 60.0, 300.0, 900.0)
INTENT_SHARE = 1 / 3
"""Of an intent's life, after which it is stated again: the rest is room for a service that is out of reach."""

OFFER_INTERVALS_S = (3.0, 10.0, 30.0, 60.0)
"""While connecting: a mapping that moved makes the last offer useless, and nobody else will say so."""

OFFER_SPACING_S = 1.0
OFFER_BURST = 3
"""Offers that go through the service, whatever happens: whoever has moved has more to tell within the first second (its
own addresses, then what servers see)."""


class Due(enum.Enum):
    INTENT = enum.auto()
    OFFER = enum.auto()
    """One that asks for the peer's, where no session stands."""
    REPLY = enum.auto()
    """One that the peer has asked for, and that asks for nothing: or two ends would ask each other for ever."""


class Petition:
    """Call `plan` after every change of state; then `take_due` at its time."""

    def __init__(self, intent_life_s: float) -> None:
        self._intent_life_s = intent_life_s
        self._timers: Timers[Due] = Timers()
        self._stated: Instant | None = None
        self._pace = Pace(OFFER_SPACING_S, OFFER_BURST)
        self._intents_made = 0
        self._offers_made = 0
        self._is_stale = False

    def note_stated(self, now: Instant) -> None:
        self._stated = now
        self._is_stale = False
        self._intents_made += 1

    def may_offer(self, now: Instant, *, reply_wanted: bool) -> bool:
        """Whether an offer may go out now; if not, it will be due as soon as it may."""
        if now < self._pace.free_at:
            self._timers.set(Due.OFFER if reply_wanted else Due.REPLY, self._pace.free_at)
            return False
        self._pace.take(now)
        return True

    def hurry(self) -> None:
        """Something has changed for the better, perhaps: starts again from the shortest intervals."""
        self._intents_made = self._offers_made = 0

    def ask_anew(self) -> None:
        """The introduction that stands, or the own intent, may be of no use: a fresh intent makes both fresh."""
        self._is_stale = True

    def forget_offers(self) -> None:
        """There is nobody to make them to."""
        self._timers.cancel(Due.OFFER)
        self._timers.cancel(Due.REPLY)

    def handle_live(self) -> None:
        """A session stands."""
        self.hurry()
        self.forget_offers()

    def plan(self, state: PeerState, now: Instant, *, is_service_up: bool) -> None:
        """While the peer is wished for, and the service or another peer can carry an offer."""
        if is_service_up:
            self._timers.set(Due.INTENT, now if self._stated is None else self._stated + self._intent_interval_s(state))
        else:
            self._timers.cancel(Due.INTENT)
        is_apart = state in (PeerState.INTRODUCED, PeerState.CONNECTING)
        interval_s = OFFER_INTERVALS_S[min(self._offers_made, len(OFFER_INTERVALS_S) - 1)]
        if is_apart and self._timers.set_if_unset(Due.OFFER, now + interval_s):
            self._offers_made += 1

    def stop(self) -> None:
        """The service is lost, or the peer is not wished for."""
        self._timers.clear()

    def take_due(self, now: Instant) -> list[Due]:
        return self._timers.take_due(now)

    def next_timeout(self) -> Instant | None:
        return self._timers.next()

    def _intent_interval_s(self, state: PeerState) -> float:
        standing = INTENT_SHARE * self._intent_life_s
        if state is not PeerState.PENDING and not self._is_stale:
            return standing
        return min(standing, INTENT_INTERVALS_S[min(self._intents_made, len(INTENT_INTERVALS_S) - 1)])
