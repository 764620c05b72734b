"""When to look for a better path, while frames go over one that is not the best: again and again, ever more rarely.

Both ends have to look at the same time, for a hole needs both. So whoever looks says so by an offer, over the path
that there is, and whoever gets one looks as well:

    seek --> offer --> peer seeks
      |--- GUESS_DELAY_S, ordinary punching has failed ---> guess
      |--- TCP_DELAY_S, and UDP at all -----------------> TCP

They take turns, so that each hears where the other is: an offer that was lost is not missing for ever.
"""

from __future__ import annotations

import enum

from fabric.core.machine import Instant
from fabric.core.timers import Timers

INTERVALS_S = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""A network that lets nothing better through seldom changes without a sign; an offer and its probes are 5 kB."""

TURNS = 2
"""Whoever has just said it leaves the next time to the other."""

GUESS_DELAY_S = 1.2
"""Two round trips of the longest kind: whatever opens by itself has opened by then."""

TCP_DELAY_S = 2.0
TCP_WANTED_S = 1500.0
"""Longer than the longest pause between two looks of one end. A peer that is away for months keeps no port open."""


class Seek(enum.Enum):
    OFFER = enum.auto()
    GUESS = enum.auto()
    TCP = enum.auto()
    TCP_OVER = enum.auto()


class Seeking:
    def __init__(self) -> None:
        self._timers: Timers[Seek] = Timers()
        self._made = 0
        self._has_said = False

    def begin(self, now: Instant, *, udp_is_hopeless: bool) -> None:
        """Both ends look from now on."""
        self._timers.set_if_unset(Seek.GUESS, now + GUESS_DELAY_S)
        self._timers.set(Seek.TCP_OVER, now + TCP_WANTED_S)
        self._timers.set_if_unset(Seek.TCP, now if udp_is_hopeless else now + TCP_DELAY_S)

    def plan(self, now: Instant, *, is_best: bool, is_live: bool, is_hopeless: bool) -> None:
        """After every change: nothing is looked for where nothing is better, or nobody can be told; and seldom where
        nothing is known that could open."""
        if is_best:
            self.stop()
        elif not is_live:
            self._timers.cancel(Seek.OFFER)
        elif self._timers.set_if_unset(Seek.OFFER, now + self._interval_s(is_hopeless=is_hopeless)):
            self._made += 1
            self._has_said = False

    def _interval_s(self, *, is_hopeless: bool) -> float:
        interval_s = INTERVALS_S[-1 if is_hopeless else min(self._made, len(INTERVALS_S) - 1)]
        return interval_s * TURNS if self._has_said else interval_s

    def note_heard(self) -> None:
        """The peer has said it: the own turn comes an interval later."""
        self._timers.cancel(Seek.OFFER)

    def hurry(self) -> None:
        """Something has changed: from the shortest interval again."""
        self._made = 0
        self._has_said = False
        self._timers.cancel(Seek.OFFER)

    def stop(self) -> None:
        self._timers.clear()
        self._made = 0
        self._has_said = False

    def take_due(self, now: Instant) -> list[Seek]:
        due = self._timers.take_due(now)
        self._has_said = self._has_said or Seek.OFFER in due
        return due

    def next_timeout(self) -> Instant | None:
        return self._timers.next()
