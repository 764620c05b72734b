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
"""Whom to ask: a few peers of ours that are in reach. Each one more learns that the two know each other."""


class Passing:
    def __init__(self) -> None:
        self._asked: dict[str, deque[Instant]] = {}

    def may_ask(self, peer: str, now: Instant) -> bool:
        """Whether `peer` may have something passed on now."""
        asked = self._asked.setdefault(peer, deque(maxlen=BURST))
        if len(asked) == BURST and now < asked[0] + BURST * SPACING_S:
            return False
        asked.append(now)
        return True

    def forget(self, peer: str) -> None:
        self._asked.pop(peer, None)


def choose_passers(connected: Iterable[str], to: str) -> list[str]:
    """Returns whom to ask to pass something on to `to`."""
    return sorted(name for name in connected if name != to)[:MAX_PASSERS]
