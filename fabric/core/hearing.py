"""What the service says once it has proven itself, and whom of the node's parts it concerns.

All of it is believed only as far as the two ends, or the authority, signed it: that is for the parts to verify.
"""

from __future__ import annotations

from collections import Counter, deque

from fabric.core.circle import Circle
from fabric.core.credentials import Credentials
from fabric.core.events import Event, RevocationsReplaced, ServiceRefused
from fabric.core.farewells import Farewells
from fabric.core.identity import Identity
from fabric.core.machine import Instant
from fabric.core.peer import Peer
from fabric.core.relays import Relays
from fabric.wire.rendezvous import (
    DeliverOffer,
    Granted,
    IntentNoted,
    Introduction,
    PublishBundle,
    Refused,
    Renewed,
    Revocations,
    ToEndpoint,
    Withdrawn,
)


class Hearing:
    """`counters` are the node's. Whom a message concerned is to be settled afterwards, also where it raised."""

    def __init__(
        self,
        identity: Identity,
        peers: Circle,
        relays: Relays,
        credentials: Credentials,
        farewells: Farewells,
        counters: Counter[str],
    ) -> None:
        self._identity = identity
        self._peers = peers
        self._relays = relays
        self._credentials = credentials
        self._farewells = farewells
        self._counters = counters
        self._events: deque[Event] = deque()

    def concerned(self, message: ToEndpoint) -> Peer | None:
        """Returns the one peer that the message is about."""
        match message:
            case Introduction(peer=name) | Granted(peer=name) | Withdrawn(peer=name) | DeliverOffer(sender=name):
                return self._peers.get(name)
            case _:
                return None

    def handle_message_untrusted(self, message: ToEndpoint, now: Instant) -> bool:
        """Returns whether all peers have changed by it. Raises `AuthenticationError` or `DecodeError`."""
        match message:
            case Introduction(peer=name) | Granted(peer=name) | Withdrawn(peer=name) | DeliverOffer(sender=name) if (
                name in self._peers
            ):
                self._handle_of_untrusted(self._peers[name], message, now)
            case Revocations(crl=crl):
                return self.handle_revocations_untrusted(crl, now)
            case Renewed(certificate=certificate):
                return self._handle_renewed_untrusted(certificate, now)
            case Refused(regarding=regarding, why=why):
                if regarding == PublishBundle.__name__:
                    self._counters["refused_bundle"] += 1
                    self._credentials.handle_bundle_refused(now)
                self._events.append(ServiceRefused(regarding, why))
            case IntentNoted(peer=name):
                self._farewells.handle_noted(name)
            case _:
                self._counters["unexpected_message"] += 1
        return False

    def handle_revocations_untrusted(self, crl: bytes, now: Instant) -> bool:
        """Returns whether they are newer than those known."""
        if not crl or not self._identity.trust.update_revocations(crl):
            return False
        self._events.append(RevocationsReplaced(crl))
        for peer in self._peers:
            peer.handle_trust_changed(now)
        return True

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def _handle_of_untrusted(
        self, peer: Peer, message: Introduction | Granted | Withdrawn | DeliverOffer, now: Instant
    ) -> None:
        match message:
            case Introduction():
                peer.handle_introduction_untrusted(message, now)
            case Granted(grant=grant, relays=relays):
                if peer.handle_granted(message, now):
                    self._relays.handle_granted(peer.name, grant, relays, now)
            case Withdrawn():
                peer.handle_withdrawn(now)
            case DeliverOffer(envelope=envelope):
                peer.handle_envelope_untrusted(envelope, now)

    def _handle_renewed_untrusted(self, certificate: bytes, now: Instant) -> bool:
        if not self._credentials.handle_renewed_untrusted(certificate, now):
            return False
        for peer in self._peers:
            peer.handle_own_certificate(now)
        return True
