"""How often something may happen: so many times at once, then once in a while."""

from __future__ import annotations

from fabric.core.machine import Instant


class Allowance:
    """The generic cell rate algorithm of ITU-T I.371: one number, however much is counted."""

    def __init__(self, at_once: int, pause_s: float) -> None:
        self._slack_s = (at_once - 1) * pause_s
        self._pause_s = pause_s
        self.refill()

    def refill(self) -> None:
        self._whole_at: Instant = float("-inf")

    def take(self, now: Instant) -> bool:
        """Counts one, unless there are none left."""
        if self._whole_at - now > self._slack_s:
            return False
        self._whole_at = max(self._whole_at, now) + self._pause_s
        return True
