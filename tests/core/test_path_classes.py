"""The path agent among classes of paths: relays from the first second, TCP when UDP fails, and the way back."""

from __future__ import annotations

import random

import pytest

from fabric.core.machine import drain
from fabric.core.one_path import STREAM_LIMIT_BYTES, payload_limit
from fabric.core.path import (
    DoorDue,
    LinkForgotten,
    PathAgent,
    PrimaryChanged,
)
from fabric.core.path_rhythm import DOOR_DELAY_S
from fabric.core.status import PathKind
from fabric.wire.address import Address, Candidate, CandidateKind, Transport

PUBLIC = Address("198.51.100.7", 4000)
DOOR = Address("198.51.100.7", 4000, Transport.TCP)
LINK = Address("198.51.100.7", 4000, Transport.TCP, via=3)
RELAY = Address("203.0.113.1", 3478, Transport.RELAY_UDP, via=77)
SECOND = Address("203.0.113.2", 3478, Transport.RELAY_UDP, via=78)
TLS = Address("203.0.113.1", 443, Transport.RELAY_TLS, via=79)


class Peer:
    """An agent and the addresses that answer it, each after its round trip in seconds."""

    def __init__(self) -> None:
        self.agent = PathAgent(random.Random(1).randbytes, keepalive_s=7.0)
        self.answering: dict[Address, float] = {}
        self.loss = 0.0
        self.now = 100.0
        self.sent: list[tuple[float, Address]] = []
        self.events: list[object] = []
        self._random = random.Random(3)

    def offer(self, *addresses: Address) -> None:
        self.agent.handle_candidates([Candidate(CandidateKind.HOST, address) for address in addresses], self.now)

    def run(self, duration_s: float) -> None:
        ends = self.now + duration_s
        waiting: list[tuple[float, bytes, Address]] = []
        while self.now < ends:
            self.agent.handle_timeout(self.now)
            for due in drain(self.agent.poll_probe):
                self.sent.append((self.now, due.to))
                if due.to in self.answering and self._random.random() >= self.loss:
                    waiting.append((self.now + self.answering[due.to], due.token, due.to))
            self.events += drain(self.agent.poll_event)
            self.now += 0.01
            for reply in [reply for reply in waiting if reply[0] <= self.now]:
                waiting.remove(reply)
                self.agent.handle_reply(reply[1], reply[2], self.now)

    @property
    def primary(self) -> Address | None:
        return self.agent.primary.address if self.agent.primary is not None else None


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_the_relay_is_the_path_from_the_start_and_a_direct_one_takes_over(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05}
    peer.agent.handle_channels([RELAY], peer.now)
    peer.offer(PUBLIC)
    peer.run(0.5)
    assert peer.primary == RELAY
    peer.answering[PUBLIC] = 0.02
    peer.run(2.0)
    assert peer.primary == PUBLIC
    assert PrimaryChanged(None) not in peer.events


def test_a_direct_path_that_dies_gives_way_to_the_relay_at_once_when_it_is_given_up(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, PUBLIC: 0.02}
    peer.agent.handle_channels([RELAY], peer.now)
    peer.offer(PUBLIC)
    peer.run(3.0)
    assert peer.primary == PUBLIC
    del peer.answering[PUBLIC]
    died = peer.now
    while peer.primary == PUBLIC:
        peer.agent.handle_sealed(peer.now)
        peer.run(0.1)
    assert peer.now - died < 3.0
    assert peer.primary == RELAY
    assert PrimaryChanged(None) not in peer.events


def test_the_order_of_the_classes_is_udp_tcp_relay_and_relay_over_tls(peer: Peer) -> None:
    peer.answering = {TLS: 0.001, RELAY: 0.002, LINK: 0.003, PUBLIC: 0.004}
    peer.agent.handle_channels([TLS], peer.now)
    peer.offer(DOOR)
    peer.run(0.5)
    assert peer.primary == TLS
    peer.agent.handle_channels([TLS, RELAY], peer.now)
    peer.run(0.5)
    assert peer.primary == RELAY
    assert peer.agent.handle_link(LINK, DOOR, peer.now)
    peer.run(0.5)
    assert peer.primary == LINK
    peer.offer(DOOR, PUBLIC)
    peer.run(0.5)
    assert peer.primary == PUBLIC
    kinds = [path.kind for path in sorted(peer.agent.paths, key=lambda path: path.rank) if not path.is_door]
    assert kinds == [PathKind.DIRECT_UDP, PathKind.DIRECT_TCP, PathKind.RELAY_UDP, PathKind.RELAY_TLS]


def test_a_connection_is_asked_for_only_after_udp_has_had_its_chance(peer: Peer) -> None:
    peer.offer(PUBLIC, DOOR)
    peer.run(DOOR_DELAY_S - 0.1)
    assert DoorDue(DOOR) not in peer.events
    peer.run(0.3)
    assert peer.events.count(DoorDue(DOOR)) == 1
    assert DOOR not in {to for _, to in peer.sent}, "no datagram goes to a TCP address"


def test_a_connection_is_asked_for_at_once_where_udp_is_hopeless(peer: Peer) -> None:
    peer.offer(PUBLIC, DOOR)
    peer.agent.hurry_doors(peer.now)
    peer.run(0.1)
    assert DoorDue(DOOR) in peer.events


def test_no_connection_is_asked_for_where_udp_works(peer: Peer) -> None:
    peer.answering = {PUBLIC: 0.01}
    peer.offer(PUBLIC, DOOR)
    peer.run(60.0)
    assert DoorDue(DOOR) not in peer.events


def test_a_lost_connection_is_asked_for_again_and_the_relay_carries_on(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, LINK: 0.01}
    peer.agent.handle_channels([RELAY], peer.now)
    peer.offer(DOOR)
    peer.run(DOOR_DELAY_S + 0.2)
    assert peer.agent.handle_link(LINK, DOOR, peer.now)
    peer.run(0.5)
    assert peer.primary == LINK
    peer.events.clear()
    peer.agent.handle_link_lost(LINK, peer.now)
    assert peer.primary == RELAY
    peer.run(0.1)
    assert DoorDue(DOOR) in peer.events


def test_a_connection_that_nobody_asked_for_here_is_not_taken(peer: Peer) -> None:
    peer.offer(PUBLIC)
    assert not peer.agent.handle_link(LINK, DOOR, peer.now)


def test_a_connection_on_which_no_peer_answers_is_given_back(peer: Peer) -> None:
    peer.agent.handle_probe(LINK, peer.now)
    peer.run(60.0)
    assert LinkForgotten(LINK) in peer.events


def test_the_end_of_everything_gives_connections_back(peer: Peer) -> None:
    peer.answering = {LINK: 0.01}
    peer.agent.handle_probe(LINK, peer.now)
    peer.run(0.5)
    peer.agent.pause()
    peer.run(0.1)
    assert LinkForgotten(LINK) in peer.events
    assert peer.primary is None


def test_a_peer_cannot_name_a_relay_as_its_own_address(peer: Peer) -> None:
    peer.offer(Address("203.0.113.99", 3478, Transport.RELAY_UDP))
    peer.agent.handle_probe(Address("203.0.113.99", 3478, Transport.RELAY_UDP, via=5), peer.now)
    peer.run(1.0)
    assert not peer.sent


def test_a_channel_that_is_gone_is_no_path_any_more(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, SECOND: 0.06}
    peer.agent.handle_channels([RELAY, SECOND], peer.now)
    peer.agent.restart(peer.now)
    peer.run(0.5)
    assert peer.primary == RELAY
    peer.agent.handle_channels([SECOND], peer.now)
    assert peer.primary == SECOND


def test_two_copies_go_through_two_relays_and_one_suffices_when_the_other_dies(peer: Peer) -> None:
    peer.agent.copies = 2
    peer.answering = {RELAY: 0.05, SECOND: 0.06}
    peer.agent.handle_channels([RELAY, SECOND], peer.now)
    peer.agent.restart(peer.now)
    peer.run(0.5)
    copy = peer.agent.copy
    assert (peer.primary, copy.address if copy is not None else None) == (RELAY, SECOND)
    del peer.answering[RELAY]
    peer.run(12.0)
    assert peer.primary == SECOND
    assert peer.agent.copy is None
    peer.answering[RELAY] = 0.05
    peer.run(70.0)
    assert peer.agent.copy is not None


def test_one_copy_is_enough_on_a_direct_path(peer: Peer) -> None:
    peer.agent.copies = 2
    peer.answering = {RELAY: 0.05, SECOND: 0.06, PUBLIC: 0.01}
    peer.agent.handle_channels([RELAY, SECOND], peer.now)
    peer.offer(PUBLIC)
    peer.run(1.0)
    assert peer.primary == PUBLIC
    assert peer.agent.copy is None


def test_a_spare_that_died_with_the_primary_is_not_taken_for_a_relay_that_lives(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, LINK: 0.01, PUBLIC: 0.02}
    peer.agent.handle_channels([RELAY], peer.now)
    peer.offer(PUBLIC, DOOR)
    peer.agent.handle_link(LINK, DOOR, peer.now)
    peer.run(10.0)
    assert peer.primary == PUBLIC
    del peer.answering[PUBLIC], peer.answering[LINK]
    died = peer.now
    peer.events.clear()
    while peer.primary != RELAY:
        peer.agent.handle_sealed(peer.now)
        peer.run(0.1)
    assert peer.now - died < 3.0
    assert PrimaryChanged(LINK) not in peer.events


def test_whoever_only_answers_notices_the_silence_after_a_conversation(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, PUBLIC: 0.02}
    peer.agent.handle_channels([RELAY], peer.now)
    peer.offer(PUBLIC)
    peer.run(5.0)
    for _ in range(100):
        peer.agent.handle_heard(peer.now)
        peer.run(0.05)
    del peer.answering[PUBLIC]
    died = peer.now
    while peer.primary == PUBLIC:
        peer.run(0.1)
    assert peer.now - died < 5.5


def test_what_keeps_an_idle_path_open_is_no_conversation_whose_end_is_asked_about(peer: Peer) -> None:
    peer.answering = {PUBLIC: 0.02}
    peer.offer(PUBLIC)
    peer.run(30.0)
    peer.sent.clear()
    for _ in range(20):
        peer.agent.handle_heard(peer.now)  # the peer's probe, a record as all others
        peer.run(6.9)
    assert peer.sent == []


def test_a_path_that_came_and_went_has_to_show_more_before_it_is_primary_again(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, PUBLIC: 0.02}
    peer.agent.handle_channels([RELAY], peer.now)
    peer.offer(PUBLIC)
    peer.run(2.0)
    del peer.answering[PUBLIC]
    for _ in range(50):
        peer.agent.handle_sealed(peer.now)
        peer.run(0.1)
    assert peer.primary == RELAY
    path = next(path for path in peer.agent.paths if path.address == PUBLIC)
    peer.agent.handle_probe(PUBLIC, peer.now)
    peer.answering[PUBLIC] = 0.02
    peer.run(0.1)
    assert path.valid
    assert peer.primary == RELAY
    peer.run(3.0)
    assert peer.primary == PUBLIC


def test_on_a_line_that_loses_every_third_packet_the_direct_path_is_kept(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, PUBLIC: 0.02}
    peer.agent.handle_channels([RELAY], peer.now)
    peer.offer(PUBLIC)
    peer.run(5.0)
    peer.loss = 0.5  # of probe or reply
    direct = 0
    for _ in range(600):
        peer.agent.handle_heard(peer.now)
        peer.run(0.1)
        direct += peer.primary == PUBLIC
    assert direct > 550


def test_an_idle_path_with_relays_to_spare_costs_few_probes(peer: Peer) -> None:
    peer.answering = {RELAY: 0.05, SECOND: 0.05, PUBLIC: 0.02}
    peer.agent.handle_channels([RELAY, SECOND], peer.now)
    peer.offer(PUBLIC)
    peer.run(60.0)
    peer.sent.clear()
    peer.run(600.0)
    assert len(peer.sent) / 10 < 11, "probes a minute"


def test_payloads_fit_the_packets_of_their_transport() -> None:
    assert payload_limit(PUBLIC, 1500) == 1472
    assert payload_limit(Address("2001:db8::1", 9), 1500) == 1452
    assert payload_limit(RELAY, 1500) == 1444
    assert payload_limit(LINK, 1500) == STREAM_LIMIT_BYTES
