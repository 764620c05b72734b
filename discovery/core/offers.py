"""Offers that wait for a recipient who is not connected: the newest of each sender, in memory, for its life only."""

from __future__ import annotations

from dataclasses import dataclass, field

from discovery.core.records import EndpointRecord
from discovery.core.settings import Settings
from fabric.errors import PolicyError
from fabric.wire.envelope import EnvelopeKind, decode_head


@dataclass(frozen=True, slots=True)
class WaitingOffer:
    """`expires` is in unix seconds."""

    sender: str
    envelope: bytes = field(repr=False)
    expires: float


def check_offer(sender: EndpointRecord, recipient: str, envelope: bytes, settings: Settings, unix: float) -> float:
    """Returns until when (unix seconds) the offer is worth forwarding; what is inside only its recipient can tell.

    Raises `DecodeError`, and `PolicyError` for another's, another kind, or one that is over.
    """
    header = decode_head(envelope)[0].header
    if header.kind is not EnvelopeKind.OFFER or header.sender_key != sender.public_key or header.recipient != recipient:
        raise PolicyError("the envelope is not an offer from this endpoint to that one")
    expires = min(header.created + header.life_s, unix + settings.max_offer_life_s)
    if expires <= unix:
        raise PolicyError("the offer is over")
    return expires


class WaitingOffers:
    """Bounded by count for each recipient and by bytes in all; what comes beyond that displaces the oldest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._offers: dict[str, dict[str, WaitingOffer]] = {}
        self.bytes = 0

    def keep(self, recipient: str, offer: WaitingOffer) -> None:
        waiting = self._offers.get(recipient, {})
        if offer.sender in waiting:
            self._drop(recipient, offer.sender)
        elif len(waiting) >= self._settings.max_offers:
            self._drop(recipient, next(iter(waiting)))
        while self._offers and self.bytes + len(offer.envelope) > self._settings.max_offer_bytes:
            oldest = next(iter(self._offers))
            self._drop(oldest, next(iter(self._offers[oldest])))
        self._offers.setdefault(recipient, {})[offer.sender] = offer
        self.bytes += len(offer.envelope)

    def take(self, recipient: str, unix: float) -> list[WaitingOffer]:
        """Returns and forgets what still lives of what waits for `recipient`."""
        waiting = self._offers.pop(recipient, {})
        self.bytes -= sum(len(offer.envelope) for offer in waiting.values())
        return [offer for offer in waiting.values() if unix < offer.expires]

    def forget(self, one: str, other: str) -> None:
        """The two are no longer introduced: nothing waits between them."""
        for recipient, sender in ((one, other), (other, one)):
            if sender in self._offers.get(recipient, {}):
                self._drop(recipient, sender)

    def sweep(self, unix: float) -> None:
        """Forgets what is over."""
        ended = [
            (recipient, offer.sender)
            for recipient, waiting in self._offers.items()
            for offer in waiting.values()
            if offer.expires <= unix
        ]
        for recipient, sender in ended:
            self._drop(recipient, sender)

    def _drop(self, recipient: str, sender: str) -> None:
        waiting = self._offers[recipient]
        self.bytes -= len(waiting.pop(sender).envelope)
        if not waiting:
            del self._offers[recipient]
