"""Enrolment keys can't be guessed, nor tried at speed, and who guesses locks nobody out."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from discovery.cli.main import main
from discovery.core import events
from discovery.core.enrolment import KEY_UNPROVEN, LIMIT
from discovery.core.limits import FREE_TRIES, MAX_PAUSE_S, TRIES_IN_ALL, WrongTries
from discovery.core.records import KeyRecord
from discovery.core.settings import Settings
from discovery.core.store import MemoryStore
from discovery.shell.store_sqlite import SqliteStore
from fabric.identity.enrolment_key import SECRET_BYTES, EnrolmentKey
from fabric.identity.request import make_request
from fabric.wire.rendezvous import EnrolmentAnswer, EnrolmentRefusal
from tests.discovery.town import Town

YEAR_S = 365.25 * 86_400
REQUEST = make_request(bytes(32), "eve")


def guess(town: Town, key: KeyRecord, source: str, step_s: float = 0.0) -> EnrolmentAnswer | EnrolmentRefusal:
    town.now += step_s
    return town.enrol(key, REQUEST, source, proof=town.draw(32))


def unlimited() -> Settings:
    """What there is by source anyhow is out of the way."""
    return Settings(enrolment_rate=1e6, enrolment_burst=1e6)


def test_a_secret_has_256_random_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--state", str(tmp_path / "s"), "--network", "home", "--address", "svc.example"]) == 0
    secrets = set()
    for _ in range(3):
        assert main(["key", "create", "--state", str(tmp_path / "s")]) == 0
        secrets.add(EnrolmentKey.parse(capsys.readouterr().out).secret)
    assert len(secrets) == 3
    assert {len(secret) for secret in secrets} == {SECRET_BYTES} == {32}


def test_one_source_gets_some_fifteen_tries_in_an_hour_however_often_it_asks(
    record_property: Callable[[str, object], None],
) -> None:
    town = Town(MemoryStore(), unlimited())
    key = town.create_key()
    answers = Counter(str(guess(town, key, "198.51.100.1", step_s=0.25)) for _ in range(4 * 3600))
    looked_at = answers[str(KEY_UNPROVEN)]
    assert answers[str(LIMIT)] == 4 * 3600 - looked_at
    assert FREE_TRIES < looked_at <= 15
    record_property("figure", f"wrong tries of one source at one key that are looked at in an hour: {looked_at}")


def test_a_key_lasts_longer_than_the_stars_against_every_address_that_one_could_have(
    record_property: Callable[[str, object], None],
) -> None:
    sources = 2**32  # a whole IPv6 /32 of /64 networks, as a provider has it
    tries_per_s = (sources / MAX_PAUSE_S) + TRIES_IN_ALL.per_second
    years = 2 ** (8 * SECRET_BYTES - 1) / tries_per_s / YEAR_S
    assert years > 1e60
    assert 2**127 / tries_per_s / YEAR_S > 1e24  # were it 128 bits
    record_property(
        "figure",
        f"an enrolment key, {tries_per_s:.0f} tries a second from 2^32 networks: {years:.0e} years to even odds",
    )


def test_a_burst_of_wrong_tries_from_everywhere_locks_nothing_for_the_right_one_from_elsewhere(town: Town) -> None:
    key, other = town.create_key("k1"), town.create_key("k2")
    for number in range(400):
        guess(town, key, f"198.51.{number // 200}.{number % 200}")
    right = make_request(town.draw(32), "web-1")
    assert isinstance(town.enrol(key, right, "192.0.2.77"), EnrolmentAnswer)
    guesser = "198.51.1.5"
    assert guess(town, key, guesser) == LIMIT
    assert isinstance(town.enrol(other, make_request(town.draw(32), "web-2"), guesser), EnrolmentAnswer)


def test_beyond_the_bound_of_all_together_one_wrong_try_earns_the_longest_pause(town: Town) -> None:
    key = town.create_key()
    for number in range(int(TRIES_IN_ALL.burst)):
        assert guess(town, key, f"198.51.0.{number}") == KEY_UNPROVEN
    assert guess(town, key, "203.0.113.1") == KEY_UNPROVEN
    assert guess(town, key, "203.0.113.1", step_s=MAX_PAUSE_S - 1) == LIMIT
    assert guess(town, key, "203.0.113.1", step_s=2) == KEY_UNPROVEN


def test_many_tries_at_a_key_are_told_once_an_hour_and_at_none_not_at_all(town: Town) -> None:
    key = town.create_key()
    made_up = replace(key, key_id="made-up")
    for number in range(300):
        for each in (key, made_up):
            guess(town, each, f"198.51.{number // 200}.{number % 200}")
    told = []
    while (event := town.service.poll_event()) is not None:
        told.append(event)
    assert [event for event in told if isinstance(event, events.KeyGuessed)] == [events.KeyGuessed("k1")]


def test_a_key_that_there_is_and_one_that_there_is_not_answer_alike_at_every_turn(town: Town) -> None:
    key = town.create_key()
    made_up = replace(key, key_id="made-up")
    turns = [(number % 7, 0.2 * (number % 5)) for number in range(300)]
    seen = []
    for each, network in ((key, 1), (made_up, 2)):
        town.now += 10_000.0
        seen.append([guess(town, each, f"198.51.{network}.{host}", step_s) for host, step_s in turns])
    assert seen[0] == seen[1]
    assert {LIMIT, KEY_UNPROVEN} == set(seen[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_an_unknown_key_takes_as_long_as_a_wrong_proof(
    kind: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    town = Town(MemoryStore() if kind == "memory" else SqliteStore(tmp_path), unlimited())
    known, unknown = town.create_key("known"), KeyRecord("other", bytes(32), town.unix, None, None)
    took: dict[str, list[int]] = {"known": [], "other": []}
    for number in range(3000):
        pair = (known, unknown) if number % 2 else (unknown, known)
        for key in pair:
            source, proof = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", town.draw(32)
            begun = time.perf_counter_ns()
            assert town.enrol(key, REQUEST, source, proof) == KEY_UNPROVEN
            took[key.key_id].append(time.perf_counter_ns() - begun)
    one, other = (statistics.median(took[key_id]) / 1000 for key_id in ("known", "other"))
    record_property("figure", f"refusing an enrolment, {kind}: wrong proof {one:.1f} us, unknown key {other:.1f} us")
    assert 0.75 < one / other < 1.33  # a connection over TLS to be refused takes a hundred times the difference


def test_what_is_remembered_of_guesses_is_bounded() -> None:
    tries = WrongTries(limit=10)
    for number in range(1000):
        tries.note(f"198.51.100.{number % 250}", f"key-{number}", float(number))
    assert len(tries._by_source) == len(tries._in_all) == 10


def test_one_network_of_addresses_is_one_source() -> None:
    tries = WrongTries()
    for number in range(FREE_TRIES + 1):
        tries.note(f"2001:db8:1:2::{number}", "k1", 0.0)
    assert not tries.allows("2001:db8:1:2:ffff::1", "k1", 0.5)
    assert tries.allows("2001:db8:1:3::1", "k1", 0.5)
    assert tries.allows("2001:db8:1:2::1", "k2", 0.5)
