"""How hard strangers press on the main sockets, and so how many of them are let in: none of it is about who they are.

    all ---- > LOUD a second ----> known indices ---- > LOUDER a second get in ----> one in `share` of those
        <---- HOLD_S of less -----                <---- HOLD_S of less, or no use --

A flood that is kept out is seen in what the kernel counts of it; what gets in of one in `share` tells of the rest.
Where a share makes nothing quieter it is not strangers who are loud, and it is given up: it would keep out only those
who belong here.
"""

from __future__ import annotations

import math

from fabric.core.machine import Instant

LOUD = 2000.0
"""Datagrams a second that open under no session: a hundred peers who meet at once, in the second when they do, come
near it. Half a processor can do so much in Python."""

LOUDER = 4000.0
"""As many of those that seem to be for somebody: as much as all gates together pass on (meter.c)."""

MAX_SHARE = 64
LOOK_S = 0.05
MEAN_S = 0.5
"""Over which a rate is taken once there is a filter: what honest peers send comes in bursts."""

DRAIN_S = 0.1
"""After that a main socket is empty of what had waited in it since before the filter."""

HOLD_S = 10.0
MAX_HOLD_S = 80.0
"""A flood that begins anew as soon as it is let in is waited for longer each time."""


class Pressure:
    def __init__(self) -> None:
        self.share = 0
        """What the main sockets take from who was not written to: 0 for all, else one in so many datagrams for a
        known index; a power of two."""
        self.rate = 0.0
        """Datagrams a second that began the last flood."""
        self._since: Instant = 0.0
        self._unopened = 0
        self._refused = 0
        self._hold_s = HOLD_S
        self._loud_until: Instant = 0.0
        self._opened_at: Instant = -math.inf
        self._is_fresh = False
        """Whether the filter is so young that what comes in may have waited in the socket since before it."""
        self._useless = 0.0
        """Where more than that comes in a second, the present share has taken too little away."""
        self._no_use_until: Instant = 0.0

    def handle_counts(self, unopened: int, refused: int, now: Instant) -> None:
        """Takes how many datagrams so far opened under no session, and how many the kernel has dropped unread."""
        passed_s = now - self._since
        if passed_s < self._look_s(unopened - self._unopened):
            return
        came, kept_out = (unopened - self._unopened) / passed_s, (refused - self._refused) / passed_s
        self._since, self._unopened, self._refused = now, unopened, refused
        if not self.share:
            if came > LOUD:  # without a filter, what is refused found no room: a burst of a friend's, perhaps
                self._begin(came, now)
        elif self.share == 1:
            self._judge_strangers(came, kept_out, now)
        else:
            self._judge_share(came, now)

    def _look_s(self, came: int) -> float:
        """What came in less time tells no rate; but that so many are too many for `MEAN_S` needs no waiting for it."""
        if not self.share:
            return LOOK_S
        is_settled = self.share == 1 and came > LOUDER * MEAN_S
        return DRAIN_S if self._is_fresh or is_settled else MEAN_S

    def _begin(self, came: float, now: Instant) -> None:
        is_back = now - self._opened_at < HOLD_S
        self._hold_s = min(2 * self._hold_s, MAX_HOLD_S) if is_back else HOLD_S
        self._loud_until = now + self._hold_s
        self.share, self.rate, self._is_fresh = 1, came, True

    def _judge_strangers(self, came: float, kept_out: float, now: Instant) -> None:
        is_fresh, self._is_fresh = self._is_fresh, False
        if came > LOUDER and now >= self._no_use_until and not is_fresh:
            self._lessen(came, now)
        elif came + kept_out > LOUD:
            self._loud_until = now + self._hold_s
        elif now >= self._loud_until:
            self.share, self._opened_at = 0, now

    def _judge_share(self, came: float, now: Instant) -> None:
        """What a busy host could not read does not show: only the least share of all tells that it is of no use."""
        if came > self._useless and self.share < MAX_SHARE:
            self.share, self._loud_until = MAX_SHARE, now + HOLD_S
        elif came > self._useless:
            self.share, self._no_use_until = 1, now + HOLD_S
        elif came > LOUDER and self.share < MAX_SHARE:
            self._lessen(came, now)
        elif came * self.share > LOUDER:
            self._loud_until = now + HOLD_S
        elif now >= self._loud_until:
            self.share = 1

    def _lessen(self, came: float, now: Instant) -> None:
        """It is of use where half of what it can take away is gone."""
        share = min(MAX_SHARE, self.share * 2 ** math.ceil(math.log2(came / LOUDER)))
        self._useless = came * (1 + self.share / share) / 2
        self._loud_until = now + HOLD_S
        self.share = share
