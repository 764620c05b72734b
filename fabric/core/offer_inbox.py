"""A peer's offers as they come in: a few at once and then one a second are acted on, and always the newest.

Each one is stored, and makes us probe every address that it names: a peer that sends them without pause must not be
able to turn us against others, nor keep our disk busy. A genuine one waits for no longer than its sender did: whoever
has moved says so at once, and again as soon as it knows how the new network shows it to others.
"""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.machine import Instant
from fabric.core.pace import Pace
from fabric.wire.offer import Offer

SPACING_S = 1.0
BURST = 3


@dataclass(frozen=True, slots=True)
class IncomingOffer:
    """Authenticated, and newer than the last one accepted. `encoded` is as it came; `by_service` how it came."""

    offer: Offer
    encoded: bytes
    by_service: bool


class OfferInbox:
    def __init__(self) -> None:
        self._pace = Pace(SPACING_S, BURST)
        self._held: IncomingOffer | None = None

    def put(self, incoming: IncomingOffer) -> None:
        """An older one than the one held is dropped: nothing that it says is true any more."""
        if self._held is None or incoming.offer.created_ms > self._held.offer.created_ms:
            self._held = incoming

    def take_due(self, now: Instant) -> IncomingOffer | None:
        """Returns the one to act on now."""
        due = self.next_timeout()
        if due is None or now < due:
            return None
        held, self._held = self._held, None
        self._pace.take(now)
        return held

    def clear(self) -> None:
        self._held = None

    def next_timeout(self) -> Instant | None:
        return None if self._held is None else self._pace.free_at
