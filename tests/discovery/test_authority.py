"""Renewal and revocation: one chain for each endpoint, one numbered list for everybody."""

from __future__ import annotations

from discovery.core import events
from discovery.core.authority import MAX_REVOCATIONS, revoke
from discovery.core.settings import DAY_S, Settings
from discovery.core.store import MemoryStore
from fabric.identity.certificate import decode_certificate
from fabric.identity.request import make_request
from fabric.identity.revocation import MAX_REVOCATIONS_BYTES
from fabric.identity.trust import Trust
from fabric.wire.rendezvous import (
    IntentNoted,
    Introduction,
    Message,
    Refused,
    Renew,
    Renewed,
    Revocations,
    StateIntent,
    Withdrawn,
    encode_message,
)
from tests.discovery.conftest import MakeTown
from tests.discovery.town import NETWORK, Resident, Town

DUE_S = 5 * DAY_S


def renewed(resident: Resident) -> bytes:
    (message,) = [message for message in resident.hear() if not isinstance(message, Revocations)]
    assert isinstance(message, Renewed), message
    return message.certificate


def all_events(town: Town) -> list[events.Event]:
    found = []
    while (event := town.service.poll_event()) is not None:
        found.append(event)
    return found


def is_revoked(town: Town, name: str) -> bool:
    record = town.store.endpoint(name)
    return record is not None and record.revoked is not None


def test_a_certificate_is_renewed_over_the_channel(town: Town) -> None:
    ada = town.online("ada")
    town.pass_time(DUE_S)
    ada.renew()
    certificate = decode_certificate(renewed(ada))
    assert certificate.not_after > ada.certificate.not_after
    assert certificate.addresses == ada.certificate.addresses
    assert certificate.public_key == ada.certificate.public_key
    Trust(town.authority.root_der, NETWORK, None).check(
        certificate.der, name="ada.home", unix=town.unix, pinned_key=ada.certificate.public_key
    )


def test_an_identical_retry_gets_the_identical_certificate_also_over_a_new_channel_and_after_a_restart(
    town: Town,
) -> None:
    ada = town.online("ada")
    town.pass_time(DUE_S)
    ada.renew()
    first = renewed(ada)
    ada.renew()
    assert renewed(ada) == first
    town.start_service()
    ada.connect()
    ada.renew()
    assert renewed(ada) == first


def test_renewals_follow_each_other_on_a_channel_that_stays_open(town: Town) -> None:
    ada = town.online("ada")
    ends = []
    for _ in range(4):
        town.pass_time(DUE_S)
        ada.renew()
        ada.certificate = decode_certificate(renewed(ada))
        ends.append(ada.certificate.not_after)
    assert ends == sorted(set(ends))


def test_hosts_of_before_whose_requests_are_all_alike_are_renewed_on_and_on(town: Town) -> None:
    ada = town.online("ada")
    request = Renew(make_request(ada.seed, ada.name))
    ends = []
    for _ in range(4):
        town.pass_time(DUE_S)
        ada.say(request)
        ends.append(decode_certificate(renewed(ada)).not_after)
    assert ends == sorted(set(ends))


def test_a_host_that_could_not_take_its_answer_gets_it_again_however_late(town: Town) -> None:
    ada = town.online("ada")
    town.pass_time(DUE_S)
    ada.renew()
    first = renewed(ada)
    town.pass_time(DUE_S)
    ada.renew()
    assert renewed(ada) == first
    ada.certificate = decode_certificate(first)
    ada.renew()
    assert renewed(ada) != first
    assert not is_revoked(town, "ada.home")


def test_a_second_different_renewal_revokes_the_chain_and_alarms(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name)
    bob.state_intent(ada.name)
    town.pass_time(DUE_S)
    ada.renew("ada.home")
    next_certificate = decode_certificate(renewed_of(ada))
    bob.hear()
    copy = Resident(town, "ada", ada.seed, ada.certificate)
    copy.connect()
    copy.renew("ada")
    assert is_revoked(town, "ada.home")
    assert copy.is_closed
    crl, withdrawn = [message for message in bob.hear() if not isinstance(message, Introduction)]
    assert isinstance(crl, Revocations)
    assert withdrawn == Withdrawn("ada.home")
    trust = Trust(town.authority.root_der, NETWORK, crl.crl)
    assert trust.is_revoked(ada.certificate)
    assert trust.is_revoked(next_certificate)
    assert [event for event in all_events(town) if isinstance(event, events.RenewalAlarm)]


def renewed_of(resident: Resident) -> bytes:
    return next(message.certificate for message in resident.hear() if isinstance(message, Renewed))


def test_an_alarm_names_both_sources_and_tells_both_hosts_why(town: Town) -> None:
    ada = town.online("ada")
    town.pass_time(DUE_S)
    ada.renew()
    copy = Resident(town, "ada", ada.seed, ada.certificate)
    copy.connect(source="198.51.100.66")
    copy.renew()
    assert is_revoked(town, "ada.home")
    for told in (ada, copy):
        (refused,) = [message for message in told.hear() if isinstance(message, Refused)]
        assert refused.regarding == "Renew"
        assert "192.0.2.1" in refused.why
        assert "198.51.100.66" in refused.why
    record = town.store.endpoint("ada.home")
    assert record is not None
    assert record.sources == ("192.0.2.1", "198.51.100.66")
    assert record.revoked == town.unix
    assert events.RenewalAlarm("ada.home", ("192.0.2.1", "198.51.100.66")) in all_events(town)


def test_who_is_revoked_and_comes_back_is_told_why_by_a_service_that_proves_itself(town: Town) -> None:
    ada = town.online("ada")
    ada.disconnect()
    town.service.revoke("ada.home", "the laptop was stolen", town.now)
    welcome = ada.connect()
    assert Trust(town.authority.root_der, NETWORK, welcome.revocations).is_revoked(ada.certificate)
    (refused,) = ada.hear()
    assert isinstance(refused, Refused)
    assert refused.why.endswith("UTC: the laptop was stolen")
    assert ada.is_closed


def test_who_only_holds_a_revoked_certificate_is_told_nothing(town: Town) -> None:
    ada = town.online("ada")
    town.service.revoke("ada.home", "stolen", town.now)
    stranger = Resident(town, "ada", town.draw(32), ada.certificate)
    challenge = stranger.open()
    stranger.say(stranger.proof(challenge))
    assert stranger.is_closed
    assert stranger.hear() == []


def test_a_certificate_that_is_still_young_is_not_renewed(town: Town) -> None:
    ada = town.online("ada")
    ada.renew()
    assert [type(message) for message in ada.hear()] == [Refused]
    assert not is_revoked(town, "ada.home")


def test_a_request_for_another_name_or_key_renews_nothing(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    town.pass_time(DUE_S)
    ada.renew("bob.home")
    bob.seed = ada.seed
    bob.renew()
    heard: list[Message] = [*ada.hear(), *bob.hear()]
    assert [type(message) for message in heard] == [Refused, Refused]


def test_a_host_that_was_off_beyond_its_certificate_renews_it_and_nothing_else(town: Town) -> None:
    ada = town.online("ada")
    ada.disconnect()
    town.pass_time(30 * DAY_S)
    ada.connect()
    ada.say(StateIntent(ada.intent("bob.home")))
    (refused,) = ada.hear()
    assert isinstance(refused, Refused)
    ada.renew()
    ada.certificate = decode_certificate(renewed(ada))
    assert ada.certificate.not_after > town.unix
    assert ada.is_closed
    ada.connect()
    ada.state_intent("bob.home")
    assert ada.hear() == [IntentNoted("bob.home")]


def test_a_lost_answer_that_has_ended_meanwhile_is_followed_by_one_that_has_not(town: Town) -> None:
    ada = town.online("ada")
    town.pass_time(DUE_S)
    ada.renew()
    town.pass_time(30 * DAY_S)
    ada.connect()
    ada.renew()
    assert decode_certificate(renewed_of(ada)).not_after > town.unix


def test_who_was_off_for_too_long_must_enrol_again(town: Town) -> None:
    ada = town.online("ada")
    ada.disconnect()
    town.pass_time(town.settings.late_renewal_s + 8 * DAY_S)
    challenge = ada.open()
    ada.say(ada.proof(challenge))
    assert ada.is_closed


def test_a_revocation_reaches_all_who_are_connected_at_once_and_ends_the_channel(town: Town) -> None:
    ada, bob, eve = town.online("ada"), town.online("bob"), town.online("eve")
    eve.state_intent(ada.name)
    ada.state_intent(eve.name)
    ada.hear()
    assert town.service.revoke("eve.home", "stolen", town.now)
    town.drain()
    assert eve.is_closed
    crl, withdrawn = ada.hear()
    assert isinstance(crl, Revocations)
    assert withdrawn == Withdrawn("eve.home")
    assert bob.hear() == [crl]
    trust = Trust(town.authority.root_der, NETWORK, crl.crl)
    assert trust.is_revoked(eve.certificate)
    assert not trust.is_revoked(ada.certificate)


def test_a_revocation_by_another_process_takes_effect_when_the_store_is_seen_to_have_changed(town: Town) -> None:
    ada, eve = town.online("ada"), town.online("eve")
    ada.hear()
    assert revoke(town.store, "eve.home", "stolen", town.unix)
    town.service.handle_store_changed(town.now)
    town.drain()
    assert eve.is_closed
    assert [type(message) for message in ada.hear()] == [Revocations]


def test_a_revocation_while_the_service_is_down_is_on_the_list_when_it_starts(town: Town) -> None:
    eve = town.online("eve")
    assert revoke(town.store, "eve.home", "stolen", town.unix)
    town.start_service()
    bob = town.resident("bob")
    welcome = bob.connect()
    assert Trust(town.authority.root_der, NETWORK, welcome.revocations).is_revoked(eve.certificate)
    challenge = eve.open()
    eve.say(eve.proof(challenge))
    assert eve.is_closed


def test_lists_are_numbered_upwards_also_over_restarts_and_a_store_that_was_set_back(town: Town) -> None:
    trust = Trust(town.authority.root_der, NETWORK, None)
    numbers = []
    for name in ("a", "b", "c"):
        town.online(name)
        town.pass_time(1)
        town.service.revoke(f"{name}.home", "test", town.now)
        town.start_service()
        revocations = town.store.revocations()
        assert revocations is not None
        assert trust.update_revocations(revocations.der)
        numbers.append(revocations.number)
    assert numbers == sorted(set(numbers))
    town.pass_time(1)
    town.store = MemoryStore()
    town.start_service()
    set_back = town.store.revocations()
    assert set_back is not None
    assert set_back.number > numbers[-1]


def test_an_old_list_is_issued_again_without_waking_anybody(town: Town) -> None:
    ada = town.online("ada")
    first = town.store.revocations()
    town.pass_time(2 * DAY_S)
    second = town.store.revocations()
    assert first is not None
    assert second is not None
    assert second.number > first.number
    assert ada.hear() == []


def test_a_certificate_leaves_the_list_after_its_end(town: Town) -> None:
    town.online("eve")
    town.service.revoke("eve.home", "test", town.now)
    town.pass_time(9 * DAY_S)
    newest = town.store.revocations()
    assert newest is not None
    assert newest.serials == frozenset()


def test_the_longest_list_fits_a_message(make_town: MakeTown) -> None:
    town = make_town(Settings())
    revoked = {int.from_bytes(town.draw(16)) >> 1: town.unix for _ in range(MAX_REVOCATIONS)}
    crl = town.authority.issue_crl(revoked, number=2**40, this_update=town.unix, next_update=town.unix + 1)
    assert len(crl) <= MAX_REVOCATIONS_BYTES
    assert len(encode_message(Revocations(crl))) <= MAX_REVOCATIONS_BYTES
