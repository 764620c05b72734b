"""Guessing ports: the two ends against NATs that are small models of real ones."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.guessing import (
    FIRST_PORT,
    GUESS_BATCH,
    GUESS_PAUSE_S,
    GUESSES_A_ROUND,
    GUESSES_AT_MOST,
    ROUND_S,
    SOCKETS,
    Guesser,
    Role,
    Spreader,
    role,
)
from fabric.wire.address import Address
from fabric.wire.nat import Filtering, Mapping, NatBehaviour

SEEN = Address("198.51.100.9", 20_000)
EASY = NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
HARD = NatBehaviour(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)

behaviours = st.builds(
    NatBehaviour, st.sampled_from(Mapping), st.sampled_from(Filtering), st.sampled_from((0, 1, -2)), st.booleans()
)


@given(behaviours, behaviours)
def test_both_ends_agree_on_who_does_what(one: NatBehaviour, other: NatBehaviour) -> None:
    opposite = {Role.NONE: Role.NONE, Role.SPREAD: Role.GUESS, Role.GUESS: Role.SPREAD}
    assert role(other, one) is opposite[role(one, other)]


@pytest.mark.parametrize(
    ("own", "peer", "expected"),
    [
        (HARD, EASY, Role.SPREAD),
        (EASY, HARD, Role.GUESS),
        (HARD, HARD, Role.NONE),
        (EASY, EASY, Role.NONE),
        (HARD, NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT), Role.NONE),
        (HARD, NatBehaviour(Mapping.NONE, Filtering.ENDPOINT_INDEPENDENT), Role.NONE),
        (HARD, NatBehaviour(carries_udp=False), Role.NONE),
    ],
)
def test_guessing_is_for_a_changing_port_against_a_strict_filter(
    own: NatBehaviour, peer: NatBehaviour, expected: Role
) -> None:
    assert role(own, peer) is expected


def guesses(stride: int, seed: int = 1, rounds: int = 1) -> list[Address]:
    guesser = Guesser(random.Random(seed).randbytes)
    made: list[Address] = []
    now = 0.0
    for _ in range(rounds):
        guesser.begin([SEEN], stride, now)
        while (due := guesser.next_timeout()) is not None:
            now = due
            made += guesser.take_due(now)
    return made


def test_a_round_is_paced_and_ends() -> None:
    guesser = Guesser(random.Random(1).randbytes)
    guesser.begin([SEEN], 0, 5.0)
    now, total = 5.0, 0
    while (due := guesser.next_timeout()) is not None:
        assert due >= now
        now = due
        batch = guesser.take_due(now)
        assert 0 < len(batch) <= GUESS_BATCH
        total += len(batch)
    assert total == GUESSES_A_ROUND
    assert now - 5.0 == pytest.approx((GUESSES_A_ROUND / GUESS_BATCH - 1) * GUESS_PAUSE_S)
    assert now - 5.0 < ROUND_S


def test_no_port_is_guessed_twice_in_a_round_and_none_below_the_dynamic_ones() -> None:
    made = guesses(stride=0)
    assert len(set(made)) == len(made)
    assert all(guess.ip == SEEN.ip and FIRST_PORT <= guess.port <= 65_535 for guess in made)


def test_what_cannot_pay_is_stopped() -> None:
    assert len(guesses(stride=0, rounds=20)) == GUESSES_AT_MOST


def test_another_network_of_the_peer_is_worth_new_guesses() -> None:
    guesser = Guesser(random.Random(1).randbytes)
    for _ in range(20):
        guesser.begin([SEEN], 0, 0.0)
        while (due := guesser.next_timeout()) is not None:
            guesser.take_due(due)
    assert guesser.spent == GUESSES_AT_MOST
    guesser.begin([Address("203.0.113.7", 9)], 0, 0.0)
    assert guesser.next_timeout() is not None


@pytest.mark.parametrize("stride", [1, 2, -1])
def test_the_ports_behind_the_last_one_seen_are_guessed_first(stride: int) -> None:
    made = guesses(stride)[:50]
    assert made[0].port == SEEN.port + stride
    assert all(later.port - former.port == stride for former, later in pairwise(made))


def test_a_sequence_that_leaves_the_ports_that_there_are_goes_on_at_random() -> None:
    guesser = Guesser(random.Random(1).randbytes)
    guesser.begin([Address(SEEN.ip, 65_530)], 1, 0.0)
    assert all(FIRST_PORT <= guess.port <= 65_535 for guess in guesser.take_due(0.0))


@pytest.mark.parametrize("seed", range(40))
def test_a_random_nat_is_opened_within_a_round(seed: int) -> None:
    """256 of the ports are mapped: the chance that 2,000 guesses miss them all is 3 in 10,000."""
    mapped = set(random.Random(seed).sample(range(FIRST_PORT, 65_536), SOCKETS))
    hit = next(i for i, guess in enumerate(guesses(0, seed=seed + 1000)) if guess.port in mapped)
    assert hit < GUESSES_A_ROUND


def test_a_sequential_nat_that_others_use_too_is_opened_within_a_few_guesses() -> None:
    mapped = set(range(SEEN.port + 40, SEEN.port + 40 + 2 * SOCKETS, 2))
    hit = next(i for i, guess in enumerate(guesses(1)) if guess.port in mapped)
    assert hit < 50


def test_each_socket_speaks_to_the_one_port_and_again_for_those_that_got_lost() -> None:
    spreader = Spreader()
    vias = tuple(range(16, 16 + SOCKETS))
    spreader.begin([SEEN], vias, 0.0)
    sent: list[tuple[float, Address]] = []
    now = 0.0
    while (due := spreader.next_timeout()) is not None and not spreader.is_over(due):
        now = due
        sent += [(now, address) for address in spreader.take_due(now)]
    assert {address.via for _, address in sent} == set(vias)
    assert {(address.ip, address.port) for _, address in sent} == {(SEEN.ip, SEEN.port)}
    assert len([at for at, _ in sent if at < 1.0]) == SOCKETS
    assert len(sent) <= 4 * SOCKETS
    assert spreader.is_over(ROUND_S)
    assert spreader.end() == vias
    assert spreader.next_timeout() is None
