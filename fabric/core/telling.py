"""An offer told in the session: nothing acknowledges it, so it is told again, in the very same words.

The peer takes the first that arrives, and knows the others for old by their date.
"""

from __future__ import annotations

from fabric.core.machine import Instant

AGAIN_S = (1.0, 3.0)
"""Of a network that loses every third datagram, one offer in forty is lost all three times."""


class Telling:
    def __init__(self) -> None:
        self._offer = b""
        self._times: list[Instant] = []

    def begin(self, offer: bytes, now: Instant) -> None:
        """`offer` was just told."""
        self._offer = offer
        self._times = [now + after_s for after_s in AGAIN_S]

    def stop(self) -> None:
        self._times.clear()

    def take_due(self, now: Instant) -> bytes | None:
        """Returns the offer that is to be told again now."""
        if not self._times or self._times[0] > now:
            return None
        del self._times[0]
        return self._offer

    def next_timeout(self) -> Instant | None:
        return self._times[0] if self._times else None
