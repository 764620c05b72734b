"""Looking for a better path: when it is begun, by what means, and when it is let be."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from fabric.core.guessing import GUESSES_AT_MOST, ROUND_S, SOCKETS
from fabric.core.machine import drain
from fabric.core.opener import MAX_ROUNDS, ROUND_PAUSE_S, Opener
from fabric.core.path import PathAgent
from fabric.core.seeking import GUESS_DELAY_S, INTERVALS_S, TCP_DELAY_S, TCP_WANTED_S, TURNS, Seek, Seeking
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from fabric.wire.nat import UNKNOWN_NAT, Filtering, Mapping, NatBehaviour
from fabric.wire.offer import Offer

HOST = Address("192.168.5.5", 4000)
SEEN = Address("198.51.100.7", 4000)
RELAY = Address("203.0.113.1", 3478, Transport.RELAY_UDP, via=77)
EASY = NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
HARD = NatBehaviour(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
VIAS = tuple(range(16, 16 + SOCKETS))


def offer(nat: NatBehaviour) -> Offer:
    candidates = (Candidate(CandidateKind.HOST, HOST), Candidate(CandidateKind.REFLEXIVE, SEEN))
    return Offer(1, 2, bytes(32), reply_wanted=False, candidates=candidates, nat=nat)


class Scene:
    """An opener with the paths that it is to better: over a relay at first."""

    def __init__(self, own: NatBehaviour, theirs: NatBehaviour) -> None:
        self.own = own
        self.offer = offer(theirs)
        self.paths = PathAgent(random.Random(2).randbytes, keepalive_s=7.0)
        self.paths.handle_networks([ipaddress.ip_network("192.168.5.0/24")])
        self.opener = Opener(random.Random(1).randbytes, self.paths.admits)
        self.paths.handle_channels([RELAY], 0.0)
        self.now = 0.0
        self.offers: list[float] = []
        self.guesses: list[Address] = []
        self.given_back: set[int] = set()
        self.lends = True

    def begin(self) -> None:
        self.opener.begin(self.own, self.offer, self.now)

    def open_directly(self) -> None:
        self._answer(SEEN)

    def run(self, duration_s: float) -> None:
        ends = self.now + duration_s
        while True:
            self._answer(RELAY)
            self.opener.plan(self.paths, self.now, is_live=True)
            self.guesses += drain(self.opener.poll_guess)
            if self.opener.take_offer_due():
                self.offers.append(self.now)
            self.given_back.update(self.opener.take_unwanted(self.paths, self.now))
            if self.opener.wants_sockets and self.lends:
                self.opener.handle_sockets(VIAS, self.offer, self.now)
            due = self.opener.next_timeout()
            if due is None or due > ends:
                self.now = ends
                return
            self.now = max(self.now, due)
            self.opener.handle_timeout(self.own, self.offer, self.paths, self.now)

    def _answer(self, address: Address) -> None:
        if address == SEEN:
            self.paths.handle_probe(SEEN, self.now)
        self.paths.restart(self.now)
        self.paths.handle_timeout(self.now)
        for due in drain(self.paths.poll_probe):
            if due.to == address:
                self.paths.handle_reply(due.token, due.to, self.now)


def test_the_end_with_one_port_guesses_once_punching_had_its_chance() -> None:
    scene = Scene(EASY, HARD)
    scene.begin()
    scene.run(GUESS_DELAY_S - 0.1)
    assert scene.guesses == []
    scene.run(2.0)
    assert len(scene.guesses) > 200
    assert {guess.ip for guess in scene.guesses} == {SEEN.ip}
    assert not scene.opener.wants_sockets


def test_the_end_with_many_ports_borrows_sockets_says_so_and_gives_them_back() -> None:
    scene = Scene(HARD, EASY)
    scene.begin()
    scene.run(GUESS_DELAY_S + 1.0)
    assert {guess.via for guess in scene.guesses} == set(VIAS)
    assert {(guess.ip, guess.port) for guess in scene.guesses} == {(SEEN.ip, SEEN.port)}
    assert len(scene.offers) == 1
    assert not scene.given_back
    scene.run(ROUND_S)
    assert scene.given_back == set(VIAS)


def test_sockets_that_a_path_lives_on_are_kept() -> None:
    scene = Scene(HARD, EASY)
    scene.begin()
    scene.run(GUESS_DELAY_S + 1.0)
    lucky = Address(SEEN.ip, SEEN.port, Transport.UDP, VIAS[7])
    scene.paths.handle_probe(lucky, scene.now)
    scene.paths.handle_timeout(scene.now)
    for due in drain(scene.paths.poll_probe):
        scene.paths.handle_reply(due.token, due.to, scene.now)
    assert scene.paths.primary is not None
    assert scene.paths.primary.address == lucky
    scene.opener.plan(scene.paths, scene.now, is_live=True)
    assert set(scene.opener.take_unwanted(scene.paths, scene.now)) == set(VIAS) - {VIAS[7]}


@pytest.mark.parametrize(("own", "theirs"), [(EASY, HARD), (HARD, EASY)])
def test_what_cannot_pay_is_stopped(own: NatBehaviour, theirs: NatBehaviour) -> None:
    scene = Scene(own, theirs)
    scene.begin()
    scene.run(24 * 3600.0)
    assert 0 < len(scene.guesses) <= max(GUESSES_AT_MOST, MAX_ROUNDS * 4 * SOCKETS)


@pytest.mark.parametrize(("own", "theirs"), [(EASY, HARD), (HARD, EASY)])
def test_a_peer_that_names_other_addresses_each_time_does_not_aim_us_at_a_victim(
    own: NatBehaviour, theirs: NatBehaviour
) -> None:
    scene = Scene(own, theirs)
    victim = Address("203.0.113.9", 4000)
    for number in range(240):
        seen = [victim, Address(f"203.0.113.{number}", 4000)][: 1 + number % 2]
        candidates = tuple(Candidate(CandidateKind.REFLEXIVE, address) for address in seen)
        scene.offer = replace(scene.offer, candidates=candidates)
        scene.begin()
        scene.run(15.0)
    bound = {EASY: 2 * GUESSES_AT_MOST + 1, HARD: (MAX_ROUNDS + 3600 / ROUND_PAUSE_S) * 6 * SOCKETS}[own]
    assert 0 < len(scene.guesses) <= bound


@pytest.mark.parametrize("ip", ["224.0.0.1", "255.255.255.255", "127.0.0.1", "192.168.5.255"])
@pytest.mark.parametrize(("own", "theirs"), [(EASY, HARD), (HARD, EASY)])
def test_nobody_is_made_to_guess_at_what_is_no_single_host(own: NatBehaviour, theirs: NatBehaviour, ip: str) -> None:
    scene = Scene(own, theirs)
    scene.offer = replace(scene.offer, candidates=(Candidate(CandidateKind.REFLEXIVE, Address(ip, 4000)),))
    scene.begin()
    scene.run(60.0)
    assert scene.guesses == []


def test_what_was_guessed_in_vain_from_another_network_does_not_count() -> None:
    scene = Scene(EASY, HARD)
    scene.begin()
    scene.run(7200.0)
    before = len(scene.guesses)
    scene.opener.hurry()
    scene.run(60.0)
    assert len(scene.guesses) > before


def test_a_wait_for_sockets_that_others_have_uses_up_no_round() -> None:
    scene = Scene(HARD, EASY)
    scene.lends = False
    scene.begin()
    scene.run(2000.0)
    assert scene.opener.wants_sockets
    scene.lends = True
    scene.run(1.0)
    assert len(scene.guesses) >= SOCKETS


@pytest.mark.parametrize(("own", "theirs"), [(EASY, EASY), (HARD, HARD), (UNKNOWN_NAT, UNKNOWN_NAT)])
def test_nothing_is_guessed_where_it_would_not_help(own: NatBehaviour, theirs: NatBehaviour) -> None:
    scene = Scene(own, theirs)
    scene.begin()
    scene.run(3600.0)
    assert scene.guesses == []


def test_a_better_path_is_looked_for_ever_more_rarely() -> None:
    scene = Scene(EASY, EASY)
    scene.begin()
    scene.run(4000.0)
    gaps = [later - former for former, later in pairwise(scene.offers)]
    assert scene.offers[0] == pytest.approx(INTERVALS_S[0])
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(TURNS * INTERVALS_S[-1])


def test_the_two_ends_take_turns_at_saying_that_they_look() -> None:
    one, other = Seeking(), Seeking()
    said: list[Seeking] = []
    for now in range(7200):
        for here, there in ((one, other), (other, one)):
            if Seek.OFFER in here.take_due(now):
                said.append(here)
                there.note_heard()
            here.plan(now, is_best=False, is_live=True, is_hopeless=False)
    assert said[0] is one  # both would have said it in the same second, and the other one heard it
    assert all(former is not later for former, later in pairwise(said))
    assert len(said) == pytest.approx(len(INTERVALS_S) + 7200 / INTERVALS_S[-1], abs=3)


def test_whoever_had_found_the_best_path_looks_as_soon_as_ever_once_it_is_lost() -> None:
    seeking = Seeking()
    seeking.plan(0.0, is_best=False, is_live=True, is_hopeless=False)
    assert Seek.OFFER in seeking.take_due(INTERVALS_S[0])
    seeking.plan(20.0, is_best=True, is_live=True, is_hopeless=False)
    seeking.plan(100.0, is_best=False, is_live=True, is_hopeless=False)
    assert seeking.next_timeout() == 100.0 + INTERVALS_S[0]


def test_nothing_is_looked_for_once_frames_go_directly() -> None:
    scene = Scene(EASY, HARD)
    scene.begin()
    scene.run(GUESS_DELAY_S + 0.2)
    scene.open_directly()
    scene.run(0.5)
    made = len(scene.guesses)
    scene.run(3600.0)
    assert len(scene.guesses) == made
    assert scene.offers == []
    assert not scene.opener.wants_tcp


def test_tcp_is_wanted_after_udp_had_its_chance_and_at_once_where_udp_is_hopeless() -> None:
    scene = Scene(EASY, EASY)
    scene.begin()
    scene.run(TCP_DELAY_S - 0.1)
    assert not scene.opener.wants_tcp
    scene.run(0.2)
    assert scene.opener.wants_tcp
    blocked = Scene(NatBehaviour(carries_udp=False), EASY)
    blocked.begin()
    blocked.run(0.01)
    assert blocked.opener.wants_tcp


def test_a_peer_that_is_away_for_long_keeps_no_port_open() -> None:
    scene = Scene(EASY, EASY)
    scene.paths.handle_channels([], 0.0)
    scene.begin()
    scene.run(TCP_DELAY_S + 0.1)
    assert scene.opener.wants_tcp
    scene.run(TCP_WANTED_S)
    assert not scene.opener.wants_tcp
    scene.begin()
    scene.run(TCP_DELAY_S + 0.1)
    assert scene.opener.wants_tcp


def test_the_end_of_the_acquaintance_gives_everything_back() -> None:
    scene = Scene(HARD, EASY)
    scene.begin()
    scene.run(GUESS_DELAY_S + 1.0)
    scene.opener.stop()
    assert set(scene.opener.take_unwanted(scene.paths, scene.now)) == set(VIAS)
    assert scene.opener.next_timeout() is None
    assert not scene.opener.wants_tcp
    assert not scene.opener.wants_sockets
