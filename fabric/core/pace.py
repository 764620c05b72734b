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
