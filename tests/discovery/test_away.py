"""A service whose authority is away: requests wait, within bounds, a person carries them, and nothing else stops."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.core import events
from discovery.core.answers import Taken, take_answers
from discovery.core.authority import Ledger, purge, revoke
from discovery.core.orders import (
    Answers,
    Requests,
    certificate_requests,
    encode_answers,
    list_request,
    open_answers,
    open_requests,
    seal_requests,
)
from discovery.core.records import KeyRecord, OrderRecord
from discovery.core.settings import DAY_S, Settings
from discovery.core.signatory import AWAY_LIFE_S, Away
from discovery.core.signing import Journal, judge, sign
from discovery.core.store import MemoryStore
from discovery.shell.store_sqlite import DATABASE_FILE, SqliteStore
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError
from fabric.identity.certificate import decode_certificate
from fabric.identity.request import Request, make_request
from fabric.identity.trust import Trust
from fabric.wire.rendezvous import (
    EnrolmentAnswer,
    EnrolmentRefusal,
    Introduction,
    Refused,
    Renewed,
    Revocations,
    Withdrawn,
)
from tests.discovery.conftest import MakeTown
from tests.discovery.town import NETWORK, Resident, Town, make_authority

DUE_S = 5 * DAY_S


def take_away(town: Town) -> None:
    """The key goes; what a detached service has been left is in the store: a list."""
    town.signatory = Away(town.authority.root)
    town.start_service()
    town.drain()


def carried(town: Town) -> Requests:
    """What a person carries, through the file and back out of it."""
    ledger = Ledger(town.signatory, town.store, town.settings, town.draw)
    due = ledger.waiting_list(town.unix)
    revoked = town.store.revoked_certificates(town.unix)
    requests = Requests(
        NETWORK,
        town.authority.fingerprint,
        town.unix,
        certificates=certificate_requests(town.store, town.store.orders()),
        revocations=list_request(due, revoked, AWAY_LIFE_S) if due is not None else None,
    )
    file = seal_requests(requests, town.identity.signer, town.identity.certificate)
    assert open_requests(file, town.authority.root) == requests
    return requests


def signed(town: Town, journal: Journal | None = None, refuse: tuple[str, ...] = ()) -> Answers:
    journal = journal if journal is not None else Journal()
    verdict = judge(carried(town), town.authority.root, journal, town.unix, refuse)
    answers, entries = sign(verdict, town.authority, journal, town.unix)
    journal.add(entries)
    return open_answers(encode_answers(answers), town.authority.root)


def bring(town: Town, answers: Answers) -> Taken:
    taken = take_answers(Ledger(town.signatory, town.store, town.settings, town.draw), answers, town.unix)
    town.service.handle_store_changed(town.now)
    town.drain()
    return taken


def ask(town: Town, key: KeyRecord, name: str, seed: bytes) -> EnrolmentAnswer | EnrolmentRefusal:
    return town.enrol(key, make_request(seed, name), source="192.0.2.9")


def code_of(answer: EnrolmentAnswer | EnrolmentRefusal) -> str:
    return answer.code if isinstance(answer, EnrolmentRefusal) else "issued"


def all_events(town: Town) -> list[events.Event]:
    found = []
    while (event := town.service.poll_event()) is not None:
        found.append(event)
    return found


def test_an_enrolment_waits_for_a_person_and_the_identical_request_picks_the_certificate_up(town: Town) -> None:
    key = town.create_key(uses_left=1, tags=("web",))
    take_away(town)
    seed = town.draw(32)
    waiting = ask(town, key, "ada", seed)
    assert isinstance(waiting, EnrolmentRefusal)
    assert waiting.code == "waiting"
    (order,) = town.store.orders()
    assert f"{order.serial:032x}"[:8] in waiting.why
    assert ask(town, key, "ada", seed) == waiting
    assert len(list(town.store.orders())) == 1
    assert events.SignatureAwaited("ada.home", f"{order.serial:032x}"[:8], is_renewal=False) in all_events(town)
    taken = bring(town, signed(town))
    assert (taken.issued, taken.faults) == (("ada.home",), ())
    answer = ask(town, key, "ada", seed)
    assert isinstance(answer, EnrolmentAnswer)
    certificate = Trust(town.authority.root_der, NETWORK, answer.revocations).check(
        answer.certificate, name="ada.home", unix=town.unix, pinned_key=None
    )
    assert certificate.tags == ("web",)
    assert certificate.ipv4 == order.ipv4
    assert list(town.store.orders()) == []
    stored = town.store.key("k1")
    assert stored is not None
    assert (stored.uses_left, stored.used) == (0, 1)


def test_all_else_goes_on(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    take_away(town)
    for resident in (ada, bob):
        resident.connect()
        resident.publish()
    ada.state_intent(bob.name)
    bob.state_intent(ada.name)
    assert [message for message in bob.hear() if isinstance(message, Introduction)]
    envelope = ada.send_offer(bob)
    assert envelope in [getattr(message, "envelope", None) for message in bob.hear()]


def test_a_renewal_waits_and_is_pushed_over_the_channel_when_it_was_signed(town: Town) -> None:
    ada = town.online("ada")
    take_away(town)
    ada.connect()
    town.pass_time(DUE_S)
    ada.renew()
    (refused,) = ada.hear()
    assert isinstance(refused, Refused)
    assert "waits as request" in refused.why
    ada.renew()
    ada.hear()
    assert len(list(town.store.orders())) == 1
    bring(town, signed(town))
    (renewed,) = ada.hear()
    assert isinstance(renewed, Renewed)
    assert decode_certificate(renewed.certificate).not_after > ada.certificate.not_after
    ada.renew()
    assert ada.hear() == [renewed]


def test_a_renewal_that_was_signed_while_the_host_was_off_is_the_answer_to_its_retry(town: Town) -> None:
    ada = town.online("ada")
    take_away(town)
    ada.connect()
    town.pass_time(DUE_S)
    ada.renew()
    ada.disconnect()
    answers = signed(town)
    town.start_service()
    bring(town, answers)
    ada.connect()
    assert ada.hear() == []
    ada.renew()
    (renewed,) = ada.hear()
    assert isinstance(renewed, Renewed)


def test_a_copy_that_renews_while_the_first_renewal_waits_is_found_out(town: Town) -> None:
    ada = town.online("ada")
    take_away(town)
    ada.connect()
    town.pass_time(DUE_S)
    ada.renew()
    copy = Resident(town, "ada", ada.seed, ada.certificate)
    copy.connect(source="198.51.100.66")
    copy.renew()
    record = town.store.endpoint("ada.home")
    assert record is not None
    assert record.revoked is not None
    assert record.sources == ("192.0.2.1", "198.51.100.66")
    assert list(town.store.orders()) == []
    assert ada.is_closed
    assert copy.is_closed


def test_who_is_revoked_is_out_at_once_and_the_list_follows_when_it_was_signed(town: Town) -> None:
    ada, eve = town.online("ada"), town.online("eve")
    take_away(town)
    for resident in (ada, eve):
        resident.connect()
        resident.publish()
    ada.state_intent(eve.name)
    eve.state_intent(ada.name)
    ada.hear()
    assert revoke(town.store, "eve.home", "stolen", town.unix)
    town.service.handle_store_changed(town.now)
    town.drain()
    assert eve.is_closed
    assert ada.hear() == [Withdrawn("eve.home")]
    assert events.ListAwaited(1) in all_events(town)
    challenge = eve.open()
    eve.say(eve.proof(challenge))
    assert eve.is_closed
    assert bring(town, signed(town)).is_list_new
    (crl,) = ada.hear()
    assert isinstance(crl, Revocations)
    assert Trust(town.authority.root_der, NETWORK, crl.crl).is_revoked(eve.certificate)
    assert carried(town).revocations is None


def test_a_revocation_that_waits_is_told_once_and_not_at_every_turn(town: Town) -> None:
    town.online("eve")
    take_away(town)
    revoke(town.store, "eve.home", "stolen", town.unix)
    for _ in range(3):
        town.service.handle_store_changed(town.now)
    told = [event for event in all_events(town) if isinstance(event, events.ListAwaited | events.EndpointRevoked)]
    assert len(told) == 2


def test_no_list_is_asked_for_while_nobody_is_revoked_and_the_last_is_young(town: Town) -> None:
    town.online("ada")
    take_away(town)
    town.now += 200 * DAY_S
    assert carried(town).revocations is None
    town.now += 60 * DAY_S
    assert carried(town).revocations is not None


def test_a_service_without_any_list_does_not_start() -> None:
    town = Town()
    town.signatory, town.store = Away(town.authority.root), MemoryStore()
    with pytest.raises(ConfigurationError):
        town.start_service()


def test_what_was_refused_at_the_authority_is_told_and_given_back(town: Town) -> None:
    key = town.create_key(uses_left=1)
    take_away(town)
    seed = town.draw(32)
    ask(town, key, "ada", seed)
    (order,) = town.store.orders()
    taken = bring(town, signed(town, refuse=(f"{order.serial:032x}"[:8],)))
    assert taken.refused == ("ada.home",)
    answer = ask(town, key, "ada", seed)
    assert isinstance(answer, EnrolmentRefusal)
    assert answer.code == "authority"
    assert "a person decided so" in answer.why
    assert carried(town).certificates == ()
    town.pass_time(town.settings.max_wait_s + DAY_S)
    purge(town.store, town.settings, town.unix)
    stored = town.store.key("k1")
    assert stored is not None
    assert (stored.uses_left, stored.used) == (1, 0)
    assert code_of(ask(town, key, "bob", seed)) == "waiting"


def test_two_keys_can_not_wait_for_one_name_nor_two_names_for_one_address(town: Town) -> None:
    key = town.create_key()
    ada = town.resident("ada")
    take_away(town)
    assert code_of(ask(town, key, "bob", town.draw(32))) == "waiting"
    assert code_of(ask(town, key, "bob", town.draw(32))) == "name"
    assert code_of(ask(town, key, "eve", town.draw(32))) == "waiting"
    addresses = [order.ipv4 for order in town.store.orders()]
    assert len({*addresses, ada.certificate.ipv4}) == 3


def test_what_waits_is_bounded_by_key_and_in_all(make_town: MakeTown) -> None:
    town = make_town(Settings(max_waiting=5, max_waiting_per_key=3))
    one, other = town.create_key("k1"), town.create_key("k2")
    take_away(town)
    codes = [code_of(ask(town, one, f"a{number}", town.draw(32))) for number in range(4)]
    assert codes == ["waiting"] * 3 + ["full"]
    codes = [code_of(ask(town, other, f"b{number}", town.draw(32))) for number in range(3)]
    assert codes == ["waiting"] * 2 + ["full"]
    assert len(list(town.store.orders())) == 5
    stored = town.store.key("k1")
    assert stored is not None
    assert stored.used == 3


def test_a_key_that_was_revoked_meanwhile_picks_nothing_up(town: Town) -> None:
    key = town.create_key()
    take_away(town)
    seed = town.draw(32)
    ask(town, key, "ada", seed)
    town.store.put_key(replace(key, is_revoked=True))
    bring(town, signed(town))
    assert code_of(ask(town, key, "ada", seed)) == "key"


def order_in(town: Town) -> OrderRecord:
    (order,) = town.store.orders()
    return order


@pytest.mark.parametrize("change", ["key", "address", "tags", "life", "serial", "root", "garbage"])
def test_an_answer_that_is_not_what_was_asked_for_is_not_used(town: Town, change: str) -> None:
    key = town.create_key()
    take_away(town)
    seed = town.draw(32)
    ask(town, key, "ada", seed)
    order = order_in(town)
    certificate = decode_certificate(signed(town).certificates[0][1])
    authority = make_authority(town.random) if change == "root" else town.authority
    der = authority.issue_endpoint(
        Request("ada.home", town.draw(32) if change == "key" else certificate.public_key),
        "ada.home",
        addresses=[order.ipv4 + 1] if change == "address" else certificate.addresses,
        tags=("root",) if change == "tags" else (),
        serial=order.serial + (change == "serial"),
        not_before=town.unix - 300,
        not_after=town.unix + order.life_s * (2 if change == "life" else 1),
    )
    der = der[:-1] if change == "garbage" else der
    serial = order.serial.to_bytes(16)
    taken = bring(town, Answers(NETWORK, town.authority.fingerprint, certificates=((serial, der),)))
    assert taken.issued == ()
    assert len(taken.faults) == 1
    assert order_in(town) == order
    assert town.store.endpoint("ada.home") is None


def test_answers_taken_twice_and_answers_to_nothing_change_nothing(town: Town) -> None:
    key = town.create_key()
    take_away(town)
    ask(town, key, "ada", town.draw(32))
    answers = signed(town)
    assert bring(town, answers).issued == ("ada.home",)
    again = bring(town, answers)
    assert (again.issued, again.refused, again.faults, again.is_list_new) == ((), (), (), False)


def test_an_older_list_brought_late_is_not_used(town: Town) -> None:
    town.online("eve")
    town.online("mal")
    take_away(town)
    revoke(town.store, "eve.home", "stolen", town.unix)
    first = signed(town)
    town.pass_time(10)
    revoke(town.store, "mal.home", "stolen", town.unix)
    assert bring(town, signed(town)).is_list_new
    newest = town.store.revocations()
    assert not bring(town, first).is_list_new
    assert town.store.revocations() == newest


def test_requests_of_another_network_and_answers_for_it_are_refused(make_town: MakeTown) -> None:
    town, other = make_town(), Town(seed=2)
    take_away(town)
    file = seal_requests(carried(town), town.identity.signer, town.identity.certificate)
    with pytest.raises(AuthenticationError):
        open_requests(file, other.authority.root)
    with pytest.raises(AuthenticationError):
        open_answers(encode_answers(signed(town)), other.authority.root)
    forged = seal_requests(carried(town), other.identity.signer, town.identity.certificate)
    with pytest.raises(AuthenticationError):
        open_requests(forged, town.authority.root)


def test_a_file_with_any_byte_turned_or_cut_off_is_refused() -> None:
    town = Town()
    key = town.create_key()
    take_away(town)
    ask(town, key, "ada", town.draw(32))
    file = seal_requests(carried(town), town.identity.signer, town.identity.certificate)
    for at in range(len(file)):
        for changed in (file[:at] + bytes((file[at] ^ 1,)) + file[at + 1 :], file[:at]):
            with pytest.raises((DecodeError, AuthenticationError)):
                open_requests(changed, town.authority.root)
    answers = encode_answers(signed(town))
    for at in range(len(answers)):
        with pytest.raises((DecodeError, AuthenticationError)):
            open_answers(answers[:at], town.authority.root)


SOME = Town().authority.root


@given(st.binary(max_size=300), st.sampled_from([b"", b"fabric requests 1\n", b"fabric answers 1\n"]))
def test_any_bytes_as_a_file_are_refused_by_the_errors_there_are_for_it(data: bytes, magic: bytes) -> None:
    with pytest.raises((DecodeError, AuthenticationError)):
        open_requests(magic + data, SOME)
    with pytest.raises((DecodeError, AuthenticationError)):
        open_answers(magic + data, SOME)


def test_what_waits_survives_a_crash(tmp_path: Path) -> None:
    town = Town(SqliteStore(tmp_path))
    key = town.create_key(tags=("a", "b"))
    town.resident("ada")
    take_away(town)
    seed = town.draw(32)
    ask(town, key, "bob", seed)
    before = list(town.store.orders())
    answers = signed(town)
    # Nothing is closed: another process sees what is on the disk.
    town.store = SqliteStore(tmp_path)
    assert list(town.store.orders()) == before
    town.start_service()
    bring(town, answers)
    assert code_of(ask(town, key, "bob", seed)) == "issued"


def test_a_store_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    town = Town(SqliteStore(tmp_path))
    ada = town.resident("ada")
    old = sqlite3.connect(tmp_path / DATABASE_FILE, isolation_level=None)
    for statement in (
        "DROP TABLE orders",
        "ALTER TABLE endpoints DROP COLUMN sources",
        "ALTER TABLE certificates DROP COLUMN source",
        "PRAGMA user_version = 1",
    ):
        old.execute(statement)
    old.close()
    store = SqliteStore(tmp_path)
    record = store.endpoint("ada.home")
    assert record is not None
    assert (record.certificate, record.sources) == (ada.certificate.der, ())
    issued = store.certificate(ada.certificate.serial)
    assert issued is not None
    assert issued.source == ""
    assert store.orders() == []
    store.close()
