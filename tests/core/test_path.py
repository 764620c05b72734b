"""The path agent against a scripted peer: what it probes, when it believes, when it gives up."""

from __future__ import annotations

import ipaddress
import random

import pytest

from fabric.core.machine import drain
from fabric.core.path import MAX_PATHS, PathAgent, PrimaryChanged, ProbeDue
from fabric.core.path_rhythm import PATIENCE
from fabric.core.status import PathKind
from fabric.wire.address import Address, Candidate, CandidateKind, Transport

PUBLIC = Address("198.51.100.7", 4000)
OTHER = Address("198.51.100.8", 4000)
LAN = Address("192.168.1.9", 4000)
SIX = Address("2001:db8::7", 4000)


def make_agent() -> PathAgent:
    agent = PathAgent(random.Random(1).randbytes, keepalive_s=7.0)
    agent.handle_networks([ipaddress.ip_network("192.168.1.0/24")])
    return agent


def host(*addresses: Address) -> list[Candidate]:
    return [Candidate(CandidateKind.HOST, address) for address in addresses]


def probes(agent: PathAgent) -> list[ProbeDue]:
    return list(drain(agent.poll_probe))


def run(agent: PathAgent, now: float, until: float, answering: dict[Address, float]) -> float:
    """Lets time pass; addresses in `answering` reply after their round trip. Returns `until`."""
    replies: list[tuple[float, ProbeDue]] = []
    while True:
        agent.handle_timeout(now)
        replies += [(now + answering[due.to], due) for due in probes(agent) if due.to in answering]
        replies.sort(key=lambda reply: reply[0])
        times = [at for at in (agent.next_timeout(), replies[0][0] if replies else None) if at is not None]
        if not times or min(times) > until:
            return until
        now = max(now, min(times))
        while replies and replies[0][0] <= now:
            _, due = replies.pop(0)
            agent.handle_reply(due.token, due.to, now)


def test_every_candidate_is_probed_at_once_and_again_soon() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC, LAN), 0.0)
    agent.handle_timeout(0.0)
    assert {due.to for due in probes(agent)} == {PUBLIC, LAN}
    agent.handle_timeout(0.2)
    assert {due.to for due in probes(agent)} == {PUBLIC, LAN}


def test_a_path_is_primary_only_after_its_own_token_came_back_from_its_own_address() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC, OTHER), 0.0)
    agent.handle_timeout(0.0)
    sent = {due.to: due.token for due in probes(agent)}
    assert agent.handle_reply(sent[PUBLIC], OTHER, 0.01) is None
    assert agent.handle_reply(bytes(16), PUBLIC, 0.01) is None
    assert agent.primary is None
    assert agent.handle_reply(sent[PUBLIC], PUBLIC, 0.02) == pytest.approx(0.02)
    assert list(drain(agent.poll_event)) == [PrimaryChanged(PUBLIC)]
    assert agent.handle_reply(sent[PUBLIC], PUBLIC, 0.03) is None, "a token counts once"


def test_the_local_network_is_preferred_and_then_ipv6() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC, SIX), 0.0)
    now = run(agent, 0.0, 1.0, {PUBLIC: 0.001, SIX: 0.02})
    assert agent.primary is not None
    assert agent.primary.address == SIX
    agent.handle_candidates(host(PUBLIC, SIX, LAN), now)
    run(agent, now, now + 1.0, {PUBLIC: 0.001, SIX: 0.02, LAN: 0.03})
    assert agent.primary.address == LAN
    assert agent.primary.kind is PathKind.LAN


def test_a_private_address_on_no_own_network_is_not_the_lan() -> None:
    agent = make_agent()
    far = Address("10.9.9.9", 4000)
    agent.handle_candidates(host(far), 0.0)
    run(agent, 0.0, 1.0, {far: 0.01})
    assert agent.primary is not None
    assert agent.primary.kind is PathKind.DIRECT_UDP


def test_the_primary_stays_unless_another_is_clearly_faster() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 1.0, {PUBLIC: 0.030})
    agent.handle_candidates(host(PUBLIC, OTHER), now)
    now = run(agent, now, now + 120.0, {PUBLIC: 0.030, OTHER: 0.027})
    assert agent.primary is not None
    assert agent.primary.address == PUBLIC
    run(agent, now, now + 200.0, {PUBLIC: 0.030, OTHER: 0.010})
    assert agent.primary.address == OTHER


@pytest.mark.parametrize(("busy", "bound_s"), [(True, 3.0), (False, 10.0)])
def test_a_dead_path_is_noticed_in_time(busy: bool, bound_s: float) -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 1.0, {PUBLIC: 0.01})
    assert agent.primary is not None
    heard = agent.primary.heard
    assert heard is not None
    died = now if busy else heard
    while agent.primary is not None:
        if busy:
            agent.handle_sealed(now)
        agent.handle_timeout(now)
        now = min(agent.next_timeout() or now + 0.1, now + 0.1)
    assert now - died <= bound_s
    assert PrimaryChanged(None) in list(drain(agent.poll_event))


def test_a_peer_that_slept_leaves_no_path_behind_that_is_waited_for_long() -> None:
    """Its answers came seconds late; then the path dies under traffic, before another has shown how fast it is."""
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 6.0, {PUBLIC: 5.9})
    assert agent.primary is not None
    assert agent.primary.rtt_s == pytest.approx(5.9)
    died = now
    while agent.primary is not None:
        agent.handle_sealed(now)
        agent.handle_timeout(now)
        now = min(agent.next_timeout() or now + 0.1, now + 0.1)
    assert now - died <= 7.0


def test_one_quick_answer_shows_that_what_held_up_the_others_is_over() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 6.0, {PUBLIC: 5.9})
    run(agent, now, now + 10.0, {PUBLIC: 0.01})
    assert agent.primary is not None
    assert agent.primary.rtt_s == pytest.approx(0.01)


def test_a_line_of_five_seconds_is_a_line() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 30.0, {PUBLIC: 5.0})
    list(drain(agent.poll_event))
    for _ in range(5):
        agent.handle_sealed(now)
        now = run(agent, now, now + 30.0, {PUBLIC: 5.0})
    assert not [event for event in drain(agent.poll_event) if isinstance(event, PrimaryChanged)]


def test_an_idle_path_is_kept_alive_with_few_probes() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 1.0, {PUBLIC: 0.01})
    sent = 0
    end = now + 60.0
    while now < end:
        agent.handle_timeout(now)
        for due in probes(agent):
            sent += 1
            agent.handle_reply(due.token, due.to, now)
        now = agent.next_timeout() or end
    assert 8 <= sent <= 10


def test_the_spare_path_takes_over_when_the_primary_dies() -> None:
    agent = make_agent()
    agent.handle_candidates(host(LAN, PUBLIC), 0.0)
    now = run(agent, 0.0, 2.0, {LAN: 0.001, PUBLIC: 0.02})
    now = run(agent, now, now + 15.0, {PUBLIC: 0.02})
    assert agent.primary is not None
    assert agent.primary.address == PUBLIC
    assert PrimaryChanged(None) not in list(drain(agent.poll_event))
    run(agent, now, now + 90.0, {LAN: 0.001, PUBLIC: 0.02})
    assert agent.primary.address == LAN, "the better one is taken up again when it is back"


def test_a_probe_from_an_unknown_address_is_checked_before_it_is_used() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    run(agent, 0.0, 1.0, {PUBLIC: 0.01})
    agent.handle_probe(OTHER, 1.0)
    agent.handle_timeout(1.0)
    assert OTHER in {due.to for due in probes(agent)}
    assert agent.primary is not None
    assert agent.primary.address == PUBLIC


def test_a_stranger_s_addresses_never_fill_the_table_with_proven_ones_lost() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 1.0, {PUBLIC: 0.01})
    for port in range(1, 200):
        agent.handle_probe(Address("203.0.113.1", port), now)
    assert len(agent.paths) <= MAX_PATHS
    assert agent.primary is not None
    assert agent.primary in agent.paths


def test_candidates_of_other_transports_are_left_alone() -> None:
    agent = make_agent()
    agent.handle_candidates(host(Address("198.51.100.7", 443, Transport.RELAY_TLS)), 0.0)
    agent.handle_timeout(0.0)
    assert probes(agent) == []


def test_a_lost_peer_is_looked_for_without_end_and_without_hurry() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    times = []
    now = 0.0
    while now < 3600.0:
        agent.handle_timeout(now)
        times += [now for _ in probes(agent)]
        due = agent.next_timeout()
        assert due is not None
        assert due > now
        now = due
    assert len([t for t in times if t < 5]) >= 10
    assert len([t for t in times if t > 3000]) <= 600 / 15
    assert times[-1] > 3500


def test_patience_is_stated_in_probes() -> None:
    agent = make_agent()
    agent.handle_candidates(host(PUBLIC), 0.0)
    now = run(agent, 0.0, 1.0, {PUBLIC: 0.01})
    asked = 0
    while agent.primary is not None:
        agent.handle_timeout(now)
        asked += len(probes(agent))
        now = agent.next_timeout() or now
    assert asked == PATIENCE + 1, "the one beyond is the first of the new search"
