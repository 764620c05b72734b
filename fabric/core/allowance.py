"""A bound on what others can make this endpoint send: so much at once, and so much a second from then on."""

from __future__ import annotations

from fabric.core.machine import Instant


class Allowance:
    """A token bucket, full at the start."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = float(burst)
        self._at: Instant | None = None

    def left(self, now: Instant) -> int:
        """Returns how many may be taken now."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        return int(self._left)

    def take(self, now: Instant) -> bool:
        """Takes one; False where none is left."""
        if not self.left(now):
            return False
        self._left -= 1
        return True
