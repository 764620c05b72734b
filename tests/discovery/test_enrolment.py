"""Enrolment keys, names and addresses: who gets a certificate, and who gets a refusal that says nothing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from discovery.core.authority import revoke
from discovery.core.enrolment import KEY_UNPROVEN
from discovery.core.records import EndpointRecord
from discovery.core.settings import Settings
from discovery.shell.store_sqlite import SqliteStore
from fabric.errors import ExhaustedError
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.enrolment_key import enrolment_proof
from fabric.identity.fingerprint import key_hash
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.request import make_request
from fabric.identity.trust import Trust
from fabric.wire.rendezvous import EnrolmentAnswer, EnrolmentRefusal
from tests.discovery.conftest import MakeTown
from tests.discovery.town import NETWORK, Town

SEED = bytes(range(32))
OTHER_SEED = bytes(range(1, 33))


def certificate_in(answer: EnrolmentAnswer | EnrolmentRefusal) -> Certificate:
    assert isinstance(answer, EnrolmentAnswer), answer
    return decode_certificate(answer.certificate)


def code_of(answer: EnrolmentAnswer | EnrolmentRefusal) -> str:
    assert isinstance(answer, EnrolmentRefusal), answer
    return answer.code


def test_a_key_and_a_request_get_all_that_an_endpoint_needs(town: Town) -> None:
    key = town.create_key(tags=("web", "zone:a"))
    answer = town.enrol(key, make_request(SEED, "web-1"))
    assert isinstance(answer, EnrolmentAnswer)
    trust = Trust(answer.authority, NETWORK, answer.revocations)
    certificate = trust.check(answer.certificate, name="web-1.home", unix=town.unix, pinned_key=None)
    assert certificate.ipv4 == IPv4Address("100.64.0.1")
    assert certificate.ipv6 == ipv6_of(ula_prefix(trust.fingerprint), certificate.ipv4)
    assert certificate.tags == ("web", "zone:a")
    assert answer.service == ("service.example:443",)
    assert answer.stun == ("service.example:3478",)
    assert answer.overlay == ("100.64.0.0/10", str(ula_prefix(trust.fingerprint)))


def test_a_wrong_proof_and_an_unknown_key_read_the_same(town: Town) -> None:
    key = town.create_key()
    request = make_request(SEED, "web-1")
    assert town.enrol(key, request, proof=bytes(32)) == KEY_UNPROVEN
    assert town.enrol(replace(key, key_id="other"), request) == KEY_UNPROVEN
    assert town.store.endpoint("web-1.home") is None


def test_a_proof_holds_for_one_request_and_one_tls_certificate_only(town: Town) -> None:
    key = town.create_key()
    request, other = make_request(SEED, "web-1"), make_request(SEED, "web-2")
    stolen = enrolment_proof(key.secret, request, town.identity.certificate)
    assert town.enrol(key, other, proof=stolen) == KEY_UNPROVEN
    elsewhere = enrolment_proof(key.secret, request, town.new_identity().certificate)
    assert town.enrol(key, request, proof=elsewhere) == KEY_UNPROVEN


def test_a_key_serves_as_often_as_it_was_made_for(town: Town) -> None:
    key = town.create_key(uses_left=2)
    for name in ("a", "b"):
        certificate_in(town.enrol(key, make_request(town.draw(32), name)))
    assert code_of(town.enrol(key, make_request(SEED, "c"))) == "key"
    stored = town.store.key(key.key_id)
    assert stored is not None
    assert (stored.uses_left, stored.used) == (0, 2)


def test_an_expired_or_revoked_key_enrols_nobody(town: Town) -> None:
    short = town.create_key("short", expires=town.unix + 60)
    withdrawn = town.create_key("withdrawn", is_revoked=True)
    town.pass_time(60)
    assert code_of(town.enrol(short, make_request(SEED, "a"))) == "key"
    assert code_of(town.enrol(withdrawn, make_request(SEED, "a"))) == "key"


def test_an_identical_retry_gets_the_identical_answer_and_uses_nothing_up(town: Town) -> None:
    key = town.create_key(uses_left=1)
    request = make_request(SEED, "a")
    first = town.enrol(key, request)
    town.pass_time(30)
    assert town.enrol(key, request) == first
    town.start_service()
    assert town.enrol(key, request) == first


def test_a_name_in_use_is_never_issued_to_another_key(town: Town) -> None:
    key = town.create_key()
    first = certificate_in(town.enrol(key, make_request(SEED, "a")))
    assert code_of(town.enrol(key, make_request(OTHER_SEED, "a"))) == "name"
    town.pass_time(first.not_after - town.unix + 1)
    assert code_of(town.enrol(key, make_request(OTHER_SEED, "a"))) == "name"


def test_a_revoked_name_can_be_enrolled_with_another_key_and_keeps_its_address(town: Town) -> None:
    key = town.create_key()
    first = certificate_in(town.enrol(key, make_request(SEED, "a")))
    certificate_in(town.enrol(key, make_request(town.draw(32), "b")))
    revoke(town.store, "a.home", "lost", town.unix)
    town.service.handle_store_changed(town.now)
    second = certificate_in(town.enrol(key, make_request(OTHER_SEED, "a")))
    assert second.addresses == first.addresses
    assert second.public_key != first.public_key


def test_a_name_of_another_network_or_a_request_that_is_none_is_refused(town: Town) -> None:
    key = town.create_key()
    assert code_of(town.enrol(key, make_request(SEED, "a.work"))) == "name"
    assert code_of(town.enrol(key, b"no request")) == "request"
    forged = bytearray(make_request(SEED, "a"))
    forged[-1] ^= 1
    assert code_of(town.enrol(key, bytes(forged))) == "request"


def test_nobody_ever_has_anothers_address(make_town: MakeTown) -> None:
    town = make_town(Settings(overlay=IPv4Network("10.9.0.0/28")))
    key = town.create_key()
    addresses = []
    for number in range(14):
        town.start_service()
        addresses.append(certificate_in(town.enrol(key, make_request(town.draw(32), f"h{number}"))).ipv4)
    assert sorted(set(addresses)) == list(IPv4Network("10.9.0.0/28").hosts())
    assert code_of(town.enrol(key, make_request(SEED, "one-more"))) == "full"


def test_an_address_is_free_again_only_after_the_end_of_every_certificate_with_it(make_town: MakeTown) -> None:
    town = make_town(Settings(overlay=IPv4Network("10.9.0.0/30"), enrolment_rate=100))
    key = town.create_key()
    first = certificate_in(town.enrol(key, make_request(SEED, "a")))
    certificate_in(town.enrol(key, make_request(town.draw(32), "b")))
    town.service.revoke("a.home", "gone", town.now)
    assert code_of(town.enrol(key, make_request(OTHER_SEED, "c"))) == "full"
    town.pass_time(first.not_after - town.unix - 10)
    assert code_of(town.enrol(key, make_request(OTHER_SEED, "c"))) == "full"
    town.pass_time(3 * 3600)
    assert certificate_in(town.enrol(key, make_request(OTHER_SEED, "c"))).ipv4 == first.ipv4


def test_an_ephemeral_endpoint_frees_its_name_when_its_short_certificate_has_ended(town: Town) -> None:
    key = town.create_key(is_ephemeral=True)
    first = certificate_in(town.enrol(key, make_request(SEED, "job")))
    assert first.not_after - town.unix <= town.settings.ephemeral_life_s
    assert code_of(town.enrol(key, make_request(OTHER_SEED, "job"))) == "name"
    town.pass_time(town.settings.ephemeral_life_s + 3 * 3600)
    assert certificate_in(town.enrol(key, make_request(OTHER_SEED, "job"))).public_key != first.public_key


def test_attempts_are_limited_by_source_and_one_source_does_not_shut_out_another(make_town: MakeTown) -> None:
    town = make_town(Settings(enrolment_burst=3, enrolment_rate=0.1))
    key = town.create_key()
    for _ in range(3):
        assert code_of(town.enrol(key, b"", source="2001:db8::1", proof=bytes(32))) == "key"
    assert code_of(town.enrol(key, b"", source="2001:db8::2", proof=bytes(32))) == "limit"
    certificate_in(town.enrol(key, make_request(SEED, "a"), source="198.51.100.7"))
    town.pass_time(10)
    certificate_in(town.enrol(key, make_request(OTHER_SEED, "b"), source="2001:db8::3"))


def test_the_same_key_under_another_enrolment_continues_the_one_chain(town: Town) -> None:
    """A copy that holds the old certificate can't keep a second chain alive: its renewal is the second one."""
    endpoint = town.resident("a")
    again = town.create_key("k2", tags=("new",))
    town.pass_time(4 * 86_400)
    second = certificate_in(town.enrol(again, make_request(endpoint.seed, "a.home")))
    assert second.tags == ("new",)
    assert second.addresses == endpoint.certificate.addresses
    endpoint.connect()
    endpoint.renew("a")
    record = town.store.endpoint("a.home")
    assert record is not None
    assert record.revoked is not None


def test_two_processes_on_one_store_can_not_give_one_address_twice(tmp_path: Path) -> None:
    one, other = SqliteStore(tmp_path), SqliteStore(tmp_path)
    record = EndpointRecord("a.home", key_hash(b"a"), IPv4Address("10.0.0.1"), (), False, 0.0, b"", 1, 0.0)
    one.put_endpoint(record)
    with pytest.raises(ExhaustedError):
        other.put_endpoint(replace(record, name="b.home"))
    one.close()
    other.close()


def test_no_answer_and_no_event_shows_a_secret(town: Town) -> None:
    key = town.create_key()
    town.enrol(key, make_request(SEED, "a"))
    town.enrol(key, b"", proof=bytes(32))
    shown = repr(key) + "".join(repr(town.service.poll_event()) for _ in range(5))
    assert key.secret.hex() not in shown
    assert repr(key.secret) not in shown
