"""Introduces pairs that both wish it, tells them of the end of it, and carries offers between them.

intent of one          nothing happens, nothing is told
intents of both        Introduction and Granted to each, again whenever one of them connects or changes its bundle
a grant is old         Granted again
one ends or is revoked Withdrawn to the other, also when it connects only later
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from discovery.core.events import Introduced, PairEnded
from discovery.core.grants import Granter
from discovery.core.offers import WaitingOffer, WaitingOffers, check_offer
from discovery.core.records import MAX_CLOCK_SKEW_S, EndpointRecord, IntentRecord
from discovery.core.registry import Registry
from discovery.core.settings import Settings
from discovery.core.store import Store
from fabric.errors import PolicyError
from fabric.wire.rendezvous import DeliverOffer, IntentNoted, Introduction, ToEndpoint, Withdrawn

Say = Callable[[str, ToEndpoint], bool]
"""Queues a message for the endpoint of this name; False where it is not connected."""


MAX_REGRANTS = 64
"""Endpoints that are granted anew in one sweep: after a restart of the service all are due at once."""


class Introducer:
    """Keeps in memory only what waits: offers, pairs whose intent begins later, and when whose grants grow old."""

    def __init__(
        self,
        network: str,
        store: Store,
        settings: Settings,
        granter: Granter,
        say: Say,
        tell: Callable[[PairEnded], None],
    ) -> None:
        self._registry = Registry(network, store, settings)
        self._store = store
        self._settings = settings
        self._granter = granter
        self._say = say
        self._tell = tell
        self._offers = WaitingOffers(settings)
        self._beginnings: dict[tuple[str, str], float] = {}
        self._regrants: dict[str, float] = {}

    def handle_arrival(self, name: str, unix: float) -> None:
        """An endpoint has connected: it and each of its peers are introduced (again), and it gets what waited."""
        for intent in self._store.intents_from(name):
            self._await_beginning(intent, unix)
            if not self._introduce(name, intent.recipient, unix):
                self._tell_if_ended(intent, unix)
        for offer in self._offers.take(name, unix):
            if self._registry.is_introduced(name, offer.sender, unix):
                self._say(name, DeliverOffer(offer.sender, offer.envelope))

    def publish_bundle(self, name: str, bundle: bytes, unix: float) -> None:
        """Raises as `Registry.publish_bundle`."""
        if self._registry.publish_bundle(self._endpoint(name), bundle):
            for intent in self._store.intents_from(name):
                self._introduce(name, intent.recipient, unix)

    def state_intent(self, name: str, data: bytes, unix: float) -> Introduced | None:
        """Answers `IntentNoted` before anything depends on the other. Raises as `Registry.state_intent`."""
        recipient, is_changed = self._registry.state_intent(self._endpoint(name), data, unix)
        self._say(name, IntentNoted(recipient))
        if not is_changed:
            return None
        intent = self._store.intent(name, recipient)
        if intent is not None:
            self._await_beginning(intent, unix)
        return Introduced(name, recipient) if self._introduce(name, recipient, unix) else None

    def withdraw(self, name: str, peer: str, unix: float) -> None:
        """Answers `IntentNoted`, so that the endpoint need not say it again at the next meeting."""
        self._say(name, IntentNoted(peer))
        intent = self._store.intent(name, peer)
        if intent is not None:
            self._registry.withdraw(name, peer)
            self._beginnings.pop((name, peer), None)
            self._handle_end(intent, unix)

    def send_offer(self, name: str, to: str, envelope: bytes, unix: float) -> None:
        """Raises `DecodeError`, `PolicyError`: the same one whoever `to` is, unless the two are introduced."""
        if not self._registry.is_introduced(name, to, unix):
            raise PolicyError("the two are not introduced")
        expires = check_offer(self._endpoint(name), to, envelope, self._settings, unix)
        if not self._say(to, DeliverOffer(name, envelope)):
            self._offers.keep(to, WaitingOffer(name, envelope, expires))

    def handle_revoked(self, name: str, unix: float) -> None:
        """An endpoint was revoked, and its intents are gone: whoever had been introduced to it is told."""
        for intent in self._store.intents_towards(name):
            self._offers.forget(name, intent.sender)
            if intent.was_introduced:
                self._tell(PairEnded(self._granter.pair_of(name, intent.sender)))
            self._tell_if_ended(intent, unix)

    def sweep(self, unix: float) -> None:
        """Tells the ends of intents, introduces those whose intent begins, and grants anew what grows old."""
        for intent in self._registry.take_ended(unix):
            self._handle_end(intent, unix)
        for (sender, recipient), begins in list(self._beginnings.items()):
            if begins <= unix:
                del self._beginnings[sender, recipient]
                self._introduce(sender, recipient, unix)
        self._offers.sweep(unix)
        for name in [name for name, due in self._regrants.items() if due <= unix][:MAX_REGRANTS]:
            del self._regrants[name]
            self._grant_all(name, unix)

    def note_seen(self, record: EndpointRecord, unix: float) -> None:
        with self._store.change():
            self._store.put_endpoint(replace(record, last_seen=unix))

    def _introduce(self, one: str, other: str, unix: float) -> bool:
        """Returns whether the two are introduced; where they are, each is told, if it is connected."""
        introductions: tuple[Introduction, Introduction] | None = self._registry.introductions(one, other, unix)
        if introductions is None:
            return False
        to_one, to_other = introductions
        for name, peer, introduction in ((one, other, to_one), (other, one, to_other)):
            if self._say(name, introduction):
                self._grant(name, peer, unix)
        return True

    def _grant_all(self, name: str, unix: float) -> None:
        for intent in self._store.intents_from(name):
            if self._registry.is_introduced(name, intent.recipient, unix):
                self._grant(name, intent.recipient, unix)

    def _grant(self, to: str, peer: str, unix: float) -> None:
        """The two are introduced: tells `to` which relays it may use with `peer`, and remembers to do so again."""
        records = self._store.endpoint(to), self._store.endpoint(peer)
        intents = self._store.intent(to, peer), self._store.intent(peer, to)
        if records[0] is None or records[1] is None or intents[0] is None or intents[1] is None:
            return
        if min(record.not_after for record in records if record) <= unix:
            return
        granted = self._granter.grant(records[0], records[1], (intents[0], intents[1]), unix)
        if granted is not None and self._say(to, granted[0]):
            due = unix + min(self._settings.regrant_s, (granted[1] - unix) / 2)
            self._regrants[to] = min(due, self._regrants.get(to, due))

    def _handle_end(self, intent: IntentRecord, unix: float) -> None:
        """An intent is gone. What its sender was told ends too, by its own wish; the other has to be told."""
        sender, recipient = intent.sender, intent.recipient
        self._offers.forget(sender, recipient)
        if intent.was_introduced:
            self._tell(PairEnded(self._granter.pair_of(sender, recipient)))
        back = self._store.intent(recipient, sender)
        if back is not None:
            self._tell_if_ended(back, unix)

    def _tell_if_ended(self, intent: IntentRecord, unix: float) -> None:
        if intent.was_introduced and not self._registry.are_mutual(intent.sender, intent.recipient, unix):
            self._say(intent.sender, Withdrawn(intent.recipient))

    def _await_beginning(self, intent: IntentRecord, unix: float) -> None:
        if intent.not_before - MAX_CLOCK_SKEW_S > unix:
            self._beginnings[intent.sender, intent.recipient] = intent.not_before - MAX_CLOCK_SKEW_S

    def _endpoint(self, name: str) -> EndpointRecord:
        record = self._store.endpoint(name)
        if record is None or record.revoked is not None:
            raise PolicyError("the endpoint is not enrolled")
        return record
