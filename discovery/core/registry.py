"""The directory of intents and key bundles, and which pairs they introduce.

Nothing here tells an endpoint whether somebody exists: stating an intent does the same work and gets the same answer
whether the other exists, has stated none, or was revoked (a revoked endpoint's intents are deleted, so all three are
one look-up that finds nothing).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from discovery.core.records import EndpointRecord, IntentRecord
from discovery.core.settings import Settings
from discovery.core.store import Store
from fabric.errors import ExhaustedError, PolicyError
from fabric.identity.bundle import open_bundle, peek_bundle
from fabric.identity.intent import open_intent
from fabric.wire.rendezvous import Introduction


@dataclass(frozen=True, slots=True)
class Registry:
    """Reads and writes the store; keeps nothing itself."""

    network: str
    store: Store
    settings: Settings

    def publish_bundle(self, record: EndpointRecord, bundle: bytes) -> bool:
        """Stores a bundle that the endpoint signed; returns whether it is another than before.

        Raises `DecodeError`, `AuthenticationError`, and `PolicyError` for an older serial or another's name.
        """
        if bundle == record.bundle:
            return False
        opened = open_bundle(bundle, record.public_key)
        if opened.name != record.name:
            raise PolicyError(f'the bundle is for "{opened.name}"')
        if record.bundle is not None and opened.serial < peek_bundle(record.bundle).serial:
            raise PolicyError("a newer bundle is stored")
        with self.store.change():
            self.store.put_endpoint(replace(record, bundle=bundle))
        return True

    def state_intent(self, record: EndpointRecord, data: bytes, unix: float) -> tuple[str, bool]:
        """Stores an intent that the endpoint signed; returns its recipient and whether anything changed.

        Raises `DecodeError`, `AuthenticationError`, `PolicyError`, and `ExhaustedError` where there are too many.
        """
        intent = open_intent(data, record.public_key)
        if intent.network != self.network or intent.sender != record.name:
            raise PolicyError("the intent is another's")
        if intent.expires <= unix:
            raise PolicyError("the intent has ended")
        stored = self.store.intent(intent.sender, intent.recipient)
        if stored is not None and (stored.intent == data or intent.created < stored.created):
            return intent.recipient, False
        if stored is None and self.store.count_intents(intent.sender) >= self.settings.max_intents:
            raise ExhaustedError(f"{self.settings.max_intents} intents are the most that one endpoint can state")
        stated = IntentRecord(
            sender=intent.sender,
            recipient=intent.recipient,
            created=intent.created,
            not_before=intent.not_before,
            expires=intent.expires,
            intent=data,
            was_introduced=stored is not None and stored.was_introduced,
        )
        with self.store.change():
            self.store.put_intent(stated)
        return intent.recipient, True

    def withdraw(self, sender: str, recipient: str) -> None:
        if self.store.intent(sender, recipient) is not None:
            with self.store.change():
                self.store.delete_intent(sender, recipient)

    def are_mutual(self, one: str, other: str, unix: float) -> bool:
        """Returns whether both intents stand now."""
        for sender, recipient in ((one, other), (other, one)):
            intent = self.store.intent(sender, recipient)
            if intent is None or not intent.holds(unix):
                return False
        return True

    def introductions(self, one: str, other: str, unix: float) -> tuple[Introduction, Introduction] | None:
        """Returns (what `one` is told, what `other` is told) where both intents stand and both can be reached.

        From then on both are owed the news of an end (`was_introduced`).
        """
        if not self.are_mutual(one, other, unix):
            return None
        about_other, about_one = self._introduction(other, one, unix), self._introduction(one, other, unix)
        if about_other is None or about_one is None:
            return None
        self._mark_introduced(one, other)
        return about_other, about_one

    def is_introduced(self, one: str, other: str, unix: float) -> bool:
        """Returns whether both intents stand and both sides have been told so."""
        intent = self.store.intent(one, other)
        return intent is not None and intent.was_introduced and self.are_mutual(one, other, unix)

    def take_ended(self, unix: float) -> Iterator[IntentRecord]:
        """Deletes the intents that have ended and yields those whose other side may have to be told."""
        ended = list(self.store.expired_intents(unix))
        if ended:
            with self.store.change():
                for intent in ended:
                    self.store.delete_intent(intent.sender, intent.recipient)
        yield from ended

    def _introduction(self, subject: str, to: str, unix: float) -> Introduction | None:
        record, intent = self.store.endpoint(subject), self.store.intent(subject, to)
        if record is None or intent is None or record.revoked is not None:
            return None
        if record.bundle is None or unix >= record.not_after:
            return None
        return Introduction(peer=subject, certificate=record.certificate, intent=intent.intent, bundle=record.bundle)

    def _mark_introduced(self, one: str, other: str) -> None:
        intents = [self.store.intent(one, other), self.store.intent(other, one)]
        fresh = [intent for intent in intents if intent is not None and not intent.was_introduced]
        if fresh:
            with self.store.change():
                for intent in fresh:
                    self.store.put_intent(replace(intent, was_introduced=True))
