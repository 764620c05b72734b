"""How long the datagrams on a path may be after moves and late answers, and two relays at once."""

from __future__ import annotations

import random
from collections.abc import Mapping

from fabric.core.machine import Instant, drain
from fabric.core.path import PathAgent, ProbeDue
from fabric.core.path_mtu import BASE_BYTES
from fabric.dataplane.contract import Traffic
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from tests.core.village import House, Village

A, B = "a.home", "b.home"

PEER = Address("198.51.100.7", 4000)
RELAY = Address("203.0.113.1", 3478, Transport.RELAY_UDP, via=77)
SECOND_RELAY = Address("203.0.113.2", 3478, Transport.RELAY_UDP, via=78)


def make_agent(*addresses: Address) -> PathAgent:
    agent = PathAgent(random.Random(1).randbytes, keepalive_s=7.0)
    agent.handle_channels([address for address in addresses if address.via], 0.0)
    agent.handle_candidates([Candidate(CandidateKind.HOST, address) for address in addresses], 0.0)
    agent.handle_live(0.0)
    return agent


def run(agent: PathAgent, now: Instant, until: Instant, widths: Mapping[Address, int]) -> list[ProbeDue]:
    """Answers after 10 ms what a path of such a width carries. Returns what was lost."""
    lost = []
    while now < until:
        agent.handle_timeout(now)
        for due in drain(agent.poll_probe):
            if due.packet_bytes <= widths.get(due.to, -1):
                agent.handle_reply(due.token, due.to, now + 0.01)
            else:
                lost.append(due)
        now += 0.05
    return lost


def limit_of(agent: PathAgent, address: Address) -> int:
    return next(path.mtu.limit for path in agent.paths if path.address == address)


def test_a_move_begins_from_what_every_path_carries() -> None:
    agent = make_agent(PEER)
    run(agent, 0.0, 5.0, {PEER: 1500})
    assert limit_of(agent, PEER) == 1500
    agent.handle_moved(5.0)
    assert limit_of(agent, PEER) == BASE_BYTES
    run(agent, 5.0, 10.0, {PEER: 1420})
    assert limit_of(agent, PEER) == 1420


def test_a_peer_that_restarted_while_its_path_was_measured_does_not_leave_it_narrow() -> None:
    """Long probes are sealed: those of the session that it has forgotten get through, and are not answered."""
    agent = make_agent(PEER)
    agent.handle_live(0.0)
    run(agent, 0.0, 3.0, {PEER: 0})
    assert limit_of(agent, PEER) < BASE_BYTES
    agent.handle_live(3.0)
    run(agent, 3.0, 6.0, {PEER: 1500})
    assert limit_of(agent, PEER) == 1500


def test_what_the_device_of_the_old_network_refused_is_tried_in_the_new_one() -> None:
    agent = make_agent(PEER)
    run(agent, 0.0, 1.0, {PEER: 1500})
    agent.handle_too_long(PEER, 1400 - 28 + 1, 1.0)
    run(agent, 1.0, 5.0, {PEER: 1500})
    assert limit_of(agent, PEER) == 1400
    agent.handle_moved(5.0)
    run(agent, 5.0, 10.0, {PEER: 1500})
    assert limit_of(agent, PEER) == 1500


def test_an_answer_from_before_a_path_became_narrower_is_not_believed() -> None:
    agent = make_agent(PEER)
    lost = run(agent, 0.0, 2.0, {PEER: BASE_BYTES})
    late = next(due for due in lost if due.packet_bytes == 1500)
    agent.handle_moved(2.0)
    run(agent, 2.0, 4.0, {PEER: BASE_BYTES})
    agent.handle_reply(late.token, PEER, 4.0)
    assert limit_of(agent, PEER) == BASE_BYTES


class NarrowVillage(Village):
    """Its network drops what is longer than `width` bytes."""

    width = 2000

    def _send(self, sender: House, to: Address, payload: bytes, index: int | None = None) -> None:
        if len(payload) <= self.width:
            super()._send(sender, to, payload, index)


def test_who_hears_and_answers_all_the_time_notices_a_narrower_path_too() -> None:
    """A lane may tell of both in one report: then no silence shows what has become of the long ones."""
    village = NarrowVillage(A, B)
    village.meet(A, B)
    village.run(5.0)
    house = village.houses[B]
    index, full = house.lane.sealing, house.lane.steered[A][1]
    assert index is not None
    village.width = BASE_BYTES
    for _ in range(30):
        house.node.handle_traffic([Traffic(A, index, 1, 1, village.now, village.now, 0, None)], village.now)
        village.settle(house)
        village.run(0.2)
    assert house.lane.steered[A][1] < BASE_BYTES < full


def test_copies_that_come_by_the_other_relay_do_not_keep_a_dead_one_primary() -> None:
    agent = make_agent(RELAY, SECOND_RELAY)
    agent.copies = 2
    run(agent, 0.0, 20.0, {RELAY: 1500, SECOND_RELAY: 1500})
    assert agent.primary is not None
    dead = agent.primary.address
    alive = RELAY if dead == SECOND_RELAY else SECOND_RELAY
    for tick in range(60):
        now = 20.0 + tick / 20
        agent.handle_heard(now)
        agent.handle_sealed(now)
        run(agent, now, now + 0.05, {alive: 1500})
    assert agent.primary.address == alive


def test_the_path_of_the_copies_is_measured_too() -> None:
    agent = make_agent(RELAY, SECOND_RELAY)
    agent.copies = 2
    run(agent, 0.0, 20.0, {RELAY: 1500, SECOND_RELAY: 1420})
    assert agent.copy is not None
    assert {limit_of(agent, RELAY), limit_of(agent, SECOND_RELAY)} == {1500, 1420}
