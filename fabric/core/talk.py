"""Telling a conversation from what an idle host says by itself: a solicitation or a name asked for, now and then."""

from __future__ import annotations

from fabric.core.machine import NEVER, Instant

RECORDS = 4
PAUSE_S = 10.0
"""Four records, none of them so long after the one before: what a kernel says to a LAN that nobody uses comes alone."""


class Talk:
    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s
        self._records = 0
        self._last: Instant = -NEVER

    def note(self, records: int, now: Instant) -> bool:
        """So many records passed just now; returns whether that makes a conversation."""
        self._records = records + (self._records if now - self._last < self._pause_s else 0)
        self._last = now
        return self._records >= RECORDS

    def reset(self) -> None:
        self._records = 0
