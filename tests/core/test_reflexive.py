"""Own reflexive addresses: when the servers are asked, what counts as an answer, and when it is doubted."""

from __future__ import annotations

import random

import pytest

from fabric.core.binding_query import RETRIES_S
from fabric.core.machine import Transmit, drain
from fabric.core.reflexive import CALL_PAUSE_S, CALLS_AT_ONCE, LOOKS_AT_ONCE, MAX_SERVERS, Reflexive
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.stun import ServerPlace, answer_binding, answer_binding_5780

ONE = Address("203.0.113.1", 3478)
TWO = Address("203.0.113.2", 3478)
SEEN = Address("198.51.100.7", 40000)
MOVED = Address("198.51.100.7", 50000)


def make(*servers: Address) -> Reflexive:
    reflexive = Reflexive(random.Random(1).randbytes, interval_s=20.0)
    reflexive.handle_servers(servers or (ONE,), 0.0)
    return reflexive


def asked(reflexive: Reflexive, now: float) -> list[Transmit]:
    reflexive.handle_timeout(now)
    return list(drain(reflexive.poll_transmit))


def answer(question: Transmit, seen: Address) -> bytes:
    payload = answer_binding(question.payload, seen)
    assert payload is not None
    return payload


def settle(reflexive: Reflexive, now: float, seen: Address = SEEN) -> None:
    for question in asked(reflexive, now):
        reflexive.handle_datagram_untrusted(question.to, answer(question, seen), now)


def silence(reflexive: Reflexive, now: float) -> float:
    """Lets every try go unanswered; returns when the last was made."""
    tries = 0
    while tries <= len(RETRIES_S):
        if asked(reflexive, now):
            tries, last = tries + 1, now
        now = reflexive.next_timeout() or 0.0
    return last


def test_every_server_is_asked_at_once_and_each_address_told_once() -> None:
    reflexive = make(ONE, TWO)
    settle(reflexive, 0.0)
    assert reflexive.addresses == (SEEN,)
    assert reflexive.next_timeout() == 20.0


def test_a_lost_question_is_asked_again_under_the_same_transaction() -> None:
    reflexive = make()
    (first,) = asked(reflexive, 0.0)
    (second,) = asked(reflexive, RETRIES_S[0])
    assert first == second
    assert reflexive.handle_datagram_untrusted(ONE, answer(first, SEEN), 1.0)


def test_only_the_open_transaction_with_this_server_is_answered() -> None:
    reflexive = make(ONE)
    (question,) = asked(reflexive, 0.0)
    with pytest.raises(DecodeError):
        reflexive.handle_datagram_untrusted(TWO, answer(question, MOVED), 0.1)
    other = make(ONE)
    (foreign,) = asked(other, 0.0)
    foreign = Transmit(ONE, foreign.payload[:-12] + bytes(12))
    with pytest.raises(DecodeError):
        reflexive.handle_datagram_untrusted(ONE, answer(foreign, MOVED), 0.1)
    reflexive.handle_datagram_untrusted(ONE, answer(question, SEEN), 0.2)
    with pytest.raises(DecodeError):
        reflexive.handle_datagram_untrusted(ONE, answer(question, MOVED), 0.3)
    assert reflexive.addresses == (SEEN,)


def test_an_address_is_forgotten_after_unanswered_tries() -> None:
    reflexive = make()
    settle(reflexive, 0.0)
    silence(reflexive, 20.0)
    assert reflexive.addresses == ()


def test_doubt_asks_a_server_that_has_answered_again_at_once() -> None:
    reflexive = make()
    settle(reflexive, 0.0)
    reflexive.doubt(5.0)
    settle(reflexive, 5.0, MOVED)
    assert reflexive.addresses == (MOVED,)


def test_doubt_asks_a_server_that_was_given_up_again_at_once_and_patiently() -> None:
    reflexive = make()
    now = silence(reflexive, 0.0)
    reflexive.doubt(now + 3.0)
    assert asked(reflexive, now + 3.0)
    assert reflexive.next_timeout() == now + 3.0 + RETRIES_S[0]


def test_doubt_does_not_disturb_a_question_under_way() -> None:
    reflexive = make()
    (question,) = asked(reflexive, 0.0)
    reflexive.doubt(0.01)
    assert asked(reflexive, 0.01) == []
    assert reflexive.handle_datagram_untrusted(ONE, answer(question, SEEN), 0.02)


def test_a_move_makes_an_answer_from_the_old_network_worthless() -> None:
    reflexive = make()
    (question,) = asked(reflexive, 0.0)
    reflexive.handle_moved(0.01)
    asked(reflexive, 0.01)
    with pytest.raises(DecodeError):
        reflexive.handle_datagram_untrusted(ONE, answer(question, SEEN), 0.02)


def test_the_service_can_t_name_targets_without_end() -> None:
    reflexive = make(*(Address("203.0.113.9", port) for port in range(1, 100)))
    assert len(asked(reflexive, 0.0)) == MAX_SERVERS


@pytest.mark.parametrize(
    ("ip", "server"),
    [
        ("224.0.0.251", "203.0.113.1"),
        ("255.255.255.255", "203.0.113.1"),
        ("0.0.0.0", "203.0.113.1"),
        ("127.0.0.1", "203.0.113.1"),
        ("169.254.1.1", "203.0.113.1"),
        ("ff02::1", "2001:db8::1"),
        ("fe80::1", "2001:db8::1"),
        ("::1", "2001:db8::1"),
        ("::ffff:198.51.100.7", "2001:db8::1"),
    ],
)
def test_a_server_can_t_have_peers_told_of_an_address_that_is_no_host_s(ip: str, server: str) -> None:
    reflexive = make(Address(server, 3478))
    (question,) = asked(reflexive, 0.0)
    with pytest.raises(DecodeError):
        reflexive.handle_datagram_untrusted(question.to, answer(question, Address(ip, 40000)), 0.0)
    assert reflexive.addresses == ()


@pytest.mark.parametrize(
    ("seen", "server"),
    [
        (Address("10.1.2.3", 40000), "10.9.9.9"),
        (Address("127.0.0.1", 40000), "127.0.0.1"),
        (Address("169.254.3.4", 40000), "169.254.1.1"),
        (Address("100.64.0.1", 443), "203.0.113.1"),
    ],
)
def test_what_a_server_on_the_same_side_sees_is_believed(seen: Address, server: str) -> None:
    reflexive = make(Address(server, 3478))
    settle(reflexive, 0.0, seen)
    assert reflexive.addresses == (seen,)


def test_servers_that_are_groups_or_nobody_are_not_asked() -> None:
    hosts = ("224.0.0.251", "0.0.0.0", "255.255.255.255", "ff02::1")
    reflexive = make(*(Address(ip, 5353) for ip in hosts))
    assert asked(reflexive, 0.0) == []
    assert reflexive.next_timeout() is None


def in_an_hour(reflexive: Reflexive, now: float, each_s: float = 1e9, meanwhile: object = None) -> int:
    """Returns how many requests an hour brings in which nobody answers; every `each_s` seconds, `meanwhile` is done."""
    end, sent, at = now + 3600.0, 0, now + each_s
    while now < end:
        if now >= at and callable(meanwhile):
            meanwhile(now)
            at += each_s
        sent += len(asked(reflexive, now))
        due = reflexive.next_timeout()
        assert due is None or due > now, "a timeout that is never done"
        now = min(at, end, due or end)
    return sent


def test_servers_that_never_answered_are_asked_ever_more_rarely() -> None:
    victims = [Address("203.0.113.66", port) for port in range(1, 9)]
    reflexive = make(*victims)
    assert in_an_hour(reflexive, 0.0) < 8 * 22
    assert in_an_hour(reflexive, 3600.0) <= 8 * (13 + 6), "and a look"


def test_a_service_that_names_others_all_the_time_can_t_keep_requests_coming() -> None:
    reflexive = make()
    names = iter(range(1, 65_000))

    def rename(now: float) -> None:
        reflexive.handle_servers([Address("203.0.113.66", next(names)) for _ in range(8)], now)

    assert in_an_hour(reflexive, 0.0, 1.0, rename) <= CALLS_AT_ONCE + 3600 / CALL_PAUSE_S + 1


def test_doubts_without_end_can_t_keep_requests_to_strangers_coming() -> None:
    reflexive = make(*(Address("203.0.113.66", port) for port in range(1, 9)))
    assert in_an_hour(reflexive, 0.0, 1.0, reflexive.doubt) <= CALLS_AT_ONCE + 3600 / CALL_PAUSE_S + 1
    reflexive.handle_moved(3600.0)
    assert len(asked(reflexive, 3600.0)) == 8, "another network is another chance"


def test_named_and_unnamed_all_the_time_a_server_that_answers_can_t_keep_looks_coming() -> None:
    """Its other address may be that of a victim."""
    reflexive = make()
    victim = Address("203.0.113.66", 53)
    at_victim = 0
    for now in range(3600):
        reflexive.handle_servers([] if now % 2 else [ONE], float(now))
        for question in asked(reflexive, float(now)):
            if question.to == ONE:
                place = ServerPlace(ONE, victim.ip, victim.port)
                reply = answer_binding_5780(question.payload, SEEN, place)
                assert reply is not None
                reflexive.handle_datagram_untrusted(ONE, reply.payload, float(now))
        at_victim += sum(question.to.ip == victim.ip for question in drain(reflexive.poll_transmit))
    assert 0 < at_victim <= 4 * 3 * (LOOKS_AT_ONCE + 2 * 12 + 1)
