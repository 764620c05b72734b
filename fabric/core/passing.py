"""Passing sealed offers on between two peers of ours, for those who have lost the discovery service.

Whoever asks must be in a session with us, and so must the one it is for. We see that the two know each other, and
nothing else; what we pass is sealed and signed by its ends, and we can but drop it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fabric.core.machine import Instant

SPACING_S = 0.25
"""Of what one peer has passed on: it may look for several others at once, but not make us flood anybody."""

BURST = 16
MAX_PASSERS = 4
"""Whom to ask at once: each of them learns that the two know each other."""


class Passing:
    def __init__(self) -> None:
        self._asked: dict[str, deque[Instant]] = {}
        self._turns: dict[str, int] = {}
        self._passers: dict[str, str] = {}

    def may_ask(self, peer: str, now: Instant) -> bool:
        """Whether `peer` may have something passed on now."""
        asked = self._asked.setdefault(peer, deque(maxlen=BURST))
        if len(asked) == BURST and now < asked[0] + BURST * SPACING_S:
            return False
        asked.append(now)
        return True

    def note_passed(self, sender: str, by: str) -> None:
        """`by` has brought a genuine offer of `sender`: so it knows the way back."""
        self._passers[sender] = by

    def choose(self, connected: Iterable[str], to: str) -> list[str]:
        """Returns whom to ask to pass something on to `to`: who has done so before, and others each time."""
        others = sorted(name for name in connected if name != to)
        turn = self._turns[to] = self._turns.get(to, 1 - MAX_PASSERS) + MAX_PASSERS - 1
        start = turn % len(others) if others else 0
        chosen = others[start:] + others[:start]
        chosen.sort(key=lambda name: name != self._passers.get(to))
        return chosen[:MAX_PASSERS]

    def forget(self, peer: str) -> None:
        for known in (self._asked, self._turns, self._passers):
            known.pop(peer, None)
