"""How often something may be done: a few times in a row, and on average once in so many seconds (RFC 2697's bucket)."""

from __future__ import annotations

from fabric.core.machine import NEVER, Instant


class Pace:
    def __init__(self, spacing_s: float, burst: int) -> None:
        self._spacing_s = spacing_s
        self._slack_s = (burst - 1) * spacing_s
        self._paid_until: Instant = -NEVER

    @property
    def free_at(self) -> Instant:
        """When it may be done next; in the past where it may at once."""
        return self._paid_until - self._slack_s

    def refill(self) -> None:
        """What was done before counts no more."""
        self._paid_until = -NEVER

    def try_take(self, now: Instant) -> bool:
        """It is done where that is allowed now."""
        if now < self.free_at:
            return False
        self.take(now)
        return True

    def take(self, now: Instant) -> None:
        """It is done."""
        self._paid_until = max(self._paid_until, now) + self._spacing_s

    def is_full(self, now: Instant) -> bool:
        """Whether nothing of what was done before counts any more."""
        return self._paid_until <= now


class PacePerSource:
    """A pace for each of so many sources, and one for all others: who floods uses up nobody's but its own."""

    def __init__(self, spacing_s: float, burst: int, sources: int) -> None:
        self._spacing_s, self._burst, self._sources = spacing_s, burst, sources
        self._others = Pace(spacing_s, burst)
        self._paces: dict[str, Pace] = {}

    def try_take(self, source: str, now: Instant) -> bool:
        """It is done for `source` where that is allowed now."""
        if source not in self._paces and len(self._paces) >= self._sources:
            self._paces = {name: pace for name, pace in self._paces.items() if not pace.is_full(now)}
        if source not in self._paces and len(self._paces) < self._sources:
            self._paces[source] = Pace(self._spacing_s, self._burst)
        return self._paces.get(source, self._others).try_take(now)
