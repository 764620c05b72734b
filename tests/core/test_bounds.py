"""What a hostile peer can make an endpoint send to others: bounded, whatever it offers and however often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from fabric.core.machine import Instant, drain
from fabric.core.path import (
    DOORS_AT_ONCE,
    DOORS_PER_S,
    MAX_STRAY_TRIES,
    PROBES_AT_ONCE,
    PROBES_PER_S,
    STRAYS_AT_ONCE,
    STRAYS_PER_S,
    DoorDue,
    PathAgent,
)
from fabric.wire.address import Address, Candidate, CandidateKind, Transport

HOUR_S = 3600.0
VICTIM = "203.0.113.9"
PEER = Address("198.51.100.7", 4000)


def make_agent() -> PathAgent:
    return PathAgent(random.Random(1).randbytes, keepalive_s=7.0)


def offer_of(number: int, transport: Transport) -> list[Candidate]:
    """24 addresses of the victim, others in each offer."""
    ports = (2000 + (24 * number + i) % 60_000 for i in range(24))
    return [Candidate(CandidateKind.REFLEXIVE, Address(VICTIM, port, transport)) for port in ports]


def run(agent: PathAgent, until: Instant, each_second: Callable[[Instant], None]) -> Counter[tuple[str, Transport]]:
    """Returns what was sent, and asked to be connected to, by IP and transport."""
    sent: Counter[tuple[str, Transport]] = Counter()
    now, second = 0.0, 0.0
    while now < until:
        if now >= second:
            each_second(now)
            second += 1.0
        agent.handle_timeout(now)
        for due in drain(agent.poll_probe):
            sent[due.to.ip, due.to.transport] += 1
            if due.to == PEER:
                agent.handle_reply(due.token, due.to, now + 0.01)
        for event in drain(agent.poll_event):
            if isinstance(event, DoorDue):
                sent[event.to.ip, Transport.TCP] += 1
        due_at = agent.next_timeout()
        assert due_at is None or due_at > now, "it must not keep its driver busy"
        now = min(second, due_at if due_at is not None else second)
    return sent


@pytest.mark.slow
def test_a_peer_that_offers_ever_new_addresses_of_a_victim_does_not_aim_us_at_it() -> None:
    agent = make_agent()
    sent = run(agent, HOUR_S, lambda now: agent.handle_candidates(offer_of(int(now), Transport.UDP), now))
    assert sent[VICTIM, Transport.UDP] <= PROBES_AT_ONCE + PROBES_PER_S * HOUR_S + 1


def test_a_peer_whose_handshakes_always_fail_does_not_aim_us_at_a_victim() -> None:
    agent = make_agent()
    agent.handle_candidates([Candidate(CandidateKind.HOST, PEER), *offer_of(0, Transport.UDP)], 0.0)
    sent = run(agent, HOUR_S, lambda now: agent.doubt(now) if now % 3 == 0 else None)
    assert sent[VICTIM, Transport.UDP] <= PROBES_AT_ONCE + PROBES_PER_S * HOUR_S + 1
    assert agent.primary is not None, "what answers is not held back by what does not"


@pytest.mark.slow
def test_a_peer_that_speaks_from_a_victims_addresses_does_not_aim_us_at_it() -> None:
    agent = make_agent()

    def speak(now: Instant) -> None:
        for number in range(10):
            agent.handle_probe(Address(VICTIM, 2000 + (int(now) * 10 + number) % 60_000), now)

    sent = run(agent, HOUR_S, speak)
    assert sent[VICTIM, Transport.UDP] <= PROBES_AT_ONCE + PROBES_PER_S * HOUR_S + 1


def test_of_the_addresses_that_a_peer_forges_before_there_is_a_session_few_are_asked() -> None:
    """Whom we ask is let in where a flood is kept out: of a peer's flood nearly all would be."""
    agent, genuine = make_agent(), Address(VICTIM, 1999)
    agent.handle_gated(genuine, 0.0)
    asked: set[Address] = set()
    for tick in range(100):
        now = tick / 10
        for number in range(20):
            agent.handle_gated(Address(VICTIM, 2000 + tick * 20 + number), now)
        agent.handle_gated(genuine, now)
        agent.handle_timeout(now)
        asked |= {due.to for due in drain(agent.poll_probe)}
    assert genuine in asked
    assert STRAYS_AT_ONCE / 2 < len(asked) <= STRAYS_AT_ONCE + 10 * STRAYS_PER_S


@pytest.mark.slow
def test_connections_to_a_victims_ports_are_few() -> None:
    agent = make_agent()

    def offer(now: Instant) -> None:
        if now % 3 == 0:
            agent.handle_candidates(offer_of(int(now), Transport.TCP), now)
            agent.hurry_doors(now)

    sent = run(agent, HOUR_S, offer)
    assert 0 < sent[VICTIM, Transport.TCP] <= DOORS_AT_ONCE + DOORS_PER_S * HOUR_S + 1


@pytest.mark.parametrize(("port", "is_tried"), [(22, False), (80, False), (443, True), (1024, True)])
def test_no_peer_makes_us_knock_at_the_ports_of_other_services(port: int, is_tried: bool) -> None:
    agent = make_agent()
    door = Candidate(CandidateKind.REFLEXIVE, Address(VICTIM, port, Transport.TCP))
    sent = run(agent, 60.0, lambda now: agent.handle_candidates([door], now) if not now else None)
    assert bool(sent[VICTIM, Transport.TCP]) == is_tried


def test_an_address_that_only_spoke_is_tried_for_one_rhythm_however_often_we_begin_anew() -> None:
    agent = make_agent()
    agent.handle_probe(Address(VICTIM, 5000), 0.0)
    sent = run(agent, HOUR_S, lambda now: agent.restart(now, again=True) if now % 5 == 0 else None)
    assert sent[VICTIM, Transport.UDP] <= MAX_STRAY_TRIES + 1


def test_the_last_address_of_a_peer_that_is_away_is_tried_for_ever() -> None:
    agent = make_agent()
    agent.handle_candidates([Candidate(CandidateKind.PEER_REFLEXIVE, Address(VICTIM, 5000))], 0.0)
    run(agent, 2 * HOUR_S, lambda _now: None)
    assert [path.address.port for path in agent.paths] == [5000]
    assert agent.next_timeout() is not None
