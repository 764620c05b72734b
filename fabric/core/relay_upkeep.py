"""When a relay is looked for, and when its channels are refreshed: the times of both, and nothing of the wire."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence

from fabric.core.machine import NEVER, Instant
from fabric.errors import DecodeError
from fabric.wire.relay import MAX_REFRESHED

LOOKS_S = (0.2, 0.3, 0.3)
"""Pauses behind the looks of a series: after 0.8 s of silence UDP is taken for blocked."""
LOOK_PAUSE_S = 1.25

REFRESH_RETRIES_S = (0.5, 1.0, 1.0)
REFRESH_RETRIES_MOVED_S = (0.25, 0.35, 0.4)
"""The way may be gone with the network that it led through: the next is looked for after a second."""


class Sight(enum.Enum):
    LOOK = "look"
    SILENCE = "silence"


class Lookout:
    """A series of looks, then single ones with pauses that double."""

    def __init__(self) -> None:
        self.due: Instant = NEVER
        self._tries = 0
        self._pause_s = LOOK_PAUSE_S

    def begin(self, at: Instant) -> None:
        self.due = at
        self._tries = 0
        self._pause_s = LOOK_PAUSE_S

    def stop(self) -> None:
        self.due = NEVER

    def handle_due(self, now: Instant, limit_s: float, jitter: float) -> Sight:
        """Returns whether to look now, or to take the last look for unanswered. `jitter` is from 0 to 1."""
        if self._tries < len(LOOKS_S):
            self.due = now + LOOKS_S[self._tries]
            self._tries += 1
            return Sight.LOOK
        pause_s = min(self._pause_s, limit_s)
        self.due = now + pause_s * (0.75 + jitter / 2)
        self._pause_s = min(2 * pause_s, limit_s)
        self._tries = len(LOOKS_S) - 1
        return Sight.SILENCE


class Upkeep:
    """REFRESH of all channels on one way, in parts, one part under way at a time: an answer doesn't say to what."""

    def __init__(self) -> None:
        self.due: Instant = NEVER
        self._began: Instant = -NEVER
        self._parts: deque[tuple[int, ...]] = deque()
        self._tries = 0
        self._retries_s: Sequence[float] = REFRESH_RETRIES_S

    @property
    def is_under_way(self) -> bool:
        return bool(self._parts)

    def begin(self, channels: Sequence[int], now: Instant, retries_s: Sequence[float] = REFRESH_RETRIES_S) -> None:
        """Asks for all of them anew, whatever was under way; for none at all, rests."""
        parts = range(0, len(channels), MAX_REFRESHED)
        self._parts = deque(tuple(channels[at : at + MAX_REFRESHED]) for at in parts)
        self._retries_s = retries_s
        self._tries = 0
        self._began = now
        self.due = now if self._parts else NEVER

    def stop(self) -> None:
        self._parts.clear()
        self.due = NEVER

    def plan(self, at: Instant) -> None:
        """The next refresh, where none is planned or under way."""
        if self.due == NEVER:
            self.due = at

    def question(self, now: Instant) -> tuple[int, ...] | None:
        """Returns the channels to ask for now; None where they were asked for in vain."""
        if self._tries == len(self._retries_s):
            return None
        self.due = now + self._retries_s[self._tries]
        self._tries += 1
        return self._parts[0]

    def answer(self, standing: Sequence[int], now: Instant, interval_s: float) -> list[int]:
        """Returns the channels that stand no longer. Raises `DecodeError` for an answer to another question."""
        if not self._parts or not self._tries or not set(standing) <= set(self._parts[0]):
            raise DecodeError("an answer to no refresh")
        missing = set(self._parts[0]) - set(standing)
        asked = self._parts.popleft()
        self._tries = 0
        self.due = now if self._parts else self._began + interval_s
        return [channel for channel in asked if channel in missing]
