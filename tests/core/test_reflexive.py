"""Own reflexive addresses: when the servers are asked, what counts as an answer, and when it is doubted."""

from __future__ import annotations

import random

import pytest

from fabric.core.machine import Transmit, drain
from fabric.core.reflexive import MAX_SERVERS, RETRIES_S, Reflexive
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.stun import answer_binding

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
