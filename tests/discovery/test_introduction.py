"""Who is introduced to whom, when, and what each is told of the end of it."""

from __future__ import annotations

from dataclasses import replace

from discovery.core.settings import Settings
from discovery.core.store import MemoryStore
from fabric.wire.rendezvous import (
    DeliverOffer,
    IntentNoted,
    Introduction,
    PublishBundle,
    Refused,
    SendOffer,
    StateIntent,
    Withdrawn,
)
from tests.discovery.conftest import MakeTown
from tests.discovery.town import Resident, Town


def introduce(one: Resident, other: Resident) -> None:
    one.state_intent(other.name)
    other.state_intent(one.name)
    one.hear()
    other.hear()


def test_two_who_wish_it_are_introduced_to_each_other_with_what_each_has_signed(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name)
    assert ada.hear() == [IntentNoted(bob.name)]
    assert bob.hear() == []
    intent = bob.intent(ada.name)
    bob.say(StateIntent(intent))
    noted, about_ada = bob.hear()
    assert noted == IntentNoted(ada.name)
    assert isinstance(about_ada, Introduction)
    assert about_ada.peer == ada.name
    assert ada.hear() == [Introduction(bob.name, bob.certificate.der, intent, bob.bundle)]


def test_one_intent_alone_introduces_nobody_and_tells_the_other_nothing(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name)
    town.pass_time(3600)
    assert bob.hear() == []
    assert ada.hear() == [IntentNoted(bob.name)]


def test_an_introduction_waits_for_both_bundles(town: Town) -> None:
    ada, bob = town.online("ada"), town.resident("bob")
    bob.connect()
    introduce(ada, bob)
    assert ada.hear() == []
    bob.publish()
    assert [type(message) for message in (*ada.hear(), *bob.hear())] == [Introduction, Introduction]


def test_who_connects_again_is_introduced_again_and_so_is_its_peer(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    ada.disconnect()
    ada.connect()
    assert [message.peer for message in ada.hear() if isinstance(message, Introduction)] == [bob.name]
    assert [message.peer for message in bob.hear() if isinstance(message, Introduction)] == [ada.name]


def test_an_introduction_survives_a_restart_of_the_service(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    town.start_service()
    ada.connect()
    assert [type(message) for message in ada.hear()] == [Introduction]
    bob.connect()
    assert [type(message) for message in ada.hear()] == [Introduction]


def test_the_same_intent_stated_again_is_noted_and_introduces_nobody_anew(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    intent = ada.intent(bob.name)
    ada.say(StateIntent(intent))
    bob.state_intent(ada.name)
    ada.hear(), bob.hear()
    ada.say(StateIntent(intent))
    assert ada.hear() == [IntentNoted(bob.name)]
    assert bob.hear() == []


def test_a_newer_intent_replaces_an_older_one_and_never_the_other_way_round(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    older = ada.intent(bob.name)
    town.now += 10
    newer = ada.intent(bob.name)
    ada.say(StateIntent(newer))
    ada.say(StateIntent(older))
    bob.state_intent(ada.name)
    introduction = bob.hear()[-1]
    assert isinstance(introduction, Introduction)
    assert introduction.intent == newer


def test_a_withdrawal_is_told_to_the_peer_at_once(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    ada.withdraw(bob.name)
    assert bob.hear() == [Withdrawn(ada.name)]
    assert ada.hear() == [IntentNoted(bob.name)]


def test_a_withdrawal_is_told_to_a_peer_that_connects_only_later(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    bob.disconnect()
    ada.withdraw(bob.name)
    town.start_service()
    bob.connect()
    assert bob.hear() == [Withdrawn(ada.name)]


def test_the_end_of_an_intent_is_told_to_both(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name, life_s=600)
    bob.state_intent(ada.name)
    ada.hear(), bob.hear()
    town.pass_time(600 + town.settings.sweep_s)
    assert bob.hear() == [Withdrawn(ada.name)]
    assert town.store.intent(ada.name, bob.name) is None


def test_an_intent_that_begins_later_introduces_then(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.say(StateIntent(ada.intent(bob.name, begins_in_s=7200)))
    bob.state_intent(ada.name)
    assert [type(message) for message in bob.hear()] == [IntentNoted]
    town.pass_time(7200)
    assert [type(message) for message in bob.hear()] == [Introduction]


def test_a_new_bundle_reaches_the_peers_that_are_introduced(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    ada.replace_bundle()
    ada.publish()
    (introduction,) = bob.hear()
    assert isinstance(introduction, Introduction)
    assert introduction.bundle == ada.bundle


def test_an_older_bundle_or_another_ones_is_refused(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    old = ada.bundle
    ada.replace_bundle()
    ada.publish()
    ada.say(PublishBundle(old))
    ada.say(PublishBundle(bob.bundle))
    ada.say(PublishBundle(b"\0" * 200))
    assert [message.regarding for message in ada.hear() if isinstance(message, Refused)] == ["PublishBundle"] * 3
    record = town.store.endpoint(ada.name)
    assert record is not None
    assert record.bundle == ada.bundle


def test_an_intent_that_another_signed_or_that_names_another_sender_is_refused(town: Town) -> None:
    ada, bob, eve = town.online("ada"), town.online("bob"), town.online("eve")
    eve.say(StateIntent(ada.intent(bob.name)))
    forged = replace(eve, certificate=ada.certificate)
    eve.say(StateIntent(forged.intent(bob.name)))
    bob.state_intent(ada.name)
    assert [message.regarding for message in eve.hear() if isinstance(message, Refused)] == ["StateIntent"] * 2
    assert bob.hear() == [IntentNoted(ada.name)]


def test_the_answer_is_the_same_for_a_peer_unknown_unwilling_or_revoked(town: Town) -> None:
    ada, bob, eve = town.online("ada"), town.online("bob"), town.online("eve")
    eve.state_intent(ada.name)
    town.service.revoke(eve.name, "test", town.now)
    town.drain()
    ada.hear()
    for name in ("nobody.home", bob.name, eve.name):
        ada.state_intent(name)
        assert ada.hear() == [IntentNoted(name)]


class CountingStore:
    """Writes down every question that is put to the store behind it."""

    def __init__(self, store: object) -> None:
        self._store = store
        self.asked: list[str] = []

    def __getattr__(self, verb: str) -> object:
        self.asked.append(verb)
        return getattr(self._store, verb)


def test_the_work_is_the_same_for_a_peer_unknown_unwilling_or_revoked() -> None:
    store = CountingStore(MemoryStore())
    town = Town(store)  # type: ignore[arg-type]
    ada, bob, eve = town.online("ada"), town.online("bob"), town.online("eve")
    eve.state_intent(ada.name)
    town.service.revoke(eve.name, "test", town.now)
    town.drain()
    work = []
    for name in ("nobody.home", bob.name, eve.name):
        store.asked.clear()
        ada.state_intent(name)
        work.append(list(store.asked))
    assert work[0] == work[1] == work[2]


def test_offers_travel_between_the_introduced_only(town: Town) -> None:
    ada, bob, eve = town.online("ada"), town.online("bob"), town.online("eve")
    introduce(ada, bob)
    envelope = ada.send_offer(bob)
    assert bob.hear() == [DeliverOffer(ada.name, envelope)]
    eve.send_offer(bob)
    eve.say(SendOffer("nobody.home", eve.envelope(bob)))
    to_bob, to_nobody = eve.hear()
    assert to_bob == to_nobody
    assert isinstance(to_bob, Refused)
    assert bob.hear() == []


def test_the_newest_offer_waits_for_a_peer_that_is_away(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    bob.disconnect()
    ada.send_offer(bob, b"first")
    second = ada.send_offer(bob, b"second")
    bob.connect()
    heard = bob.hear()
    assert [message for message in heard if isinstance(message, DeliverOffer)] == [DeliverOffer(ada.name, second)]
    assert isinstance(heard[0], Introduction)
    bob.disconnect()
    bob.connect()
    assert not [message for message in bob.hear() if isinstance(message, DeliverOffer)]


def test_an_offer_waits_no_longer_than_it_lives(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    bob.disconnect()
    ada.send_offer(bob, life_s=60)
    town.pass_time(61)
    bob.connect()
    assert not [message for message in bob.hear() if isinstance(message, DeliverOffer)]


def test_an_offer_does_not_outlive_the_introduction(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    introduce(ada, bob)
    bob.disconnect()
    ada.send_offer(bob)
    ada.withdraw(bob.name)
    ada.state_intent(bob.name)
    bob.connect()
    assert not [message for message in bob.hear() if isinstance(message, DeliverOffer)]


def test_an_offer_in_anothers_name_is_refused(town: Town) -> None:
    ada, bob, eve = town.online("ada"), town.online("bob"), town.online("eve")
    introduce(ada, bob)
    ada.say(SendOffer(bob.name, eve.envelope(bob)))
    ada.say(SendOffer(bob.name, b"\xff" * 300))
    assert [type(message) for message in ada.hear()] == [Refused, Refused]
    assert bob.hear() == []


def test_the_number_of_intents_is_bounded(make_town: MakeTown) -> None:
    town = make_town(Settings(max_intents=3))
    ada = town.online("ada")
    for name in ("a.home", "b.home", "c.home", "d.home"):
        ada.state_intent(name)
    assert [type(message) for message in ada.hear()] == [IntentNoted] * 3 + [Refused]


def test_the_bytes_that_wait_are_bounded(make_town: MakeTown) -> None:
    town = make_town(Settings(max_offer_bytes=5000))
    ada, bob, eve = town.online("ada"), town.online("bob"), town.online("eve")
    introduce(ada, bob)
    introduce(eve, bob)
    bob.disconnect()
    ada.send_offer(bob, b"a" * 2000)
    newest = eve.send_offer(bob, b"e" * 2000)
    bob.connect()
    assert [m for m in bob.hear() if isinstance(m, DeliverOffer)] == [DeliverOffer(eve.name, newest)]
