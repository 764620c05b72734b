"""What a hostile service, network, stranger or introduced peer may not do, and what must never get stuck.

Each test is a fault that once was there, or a promise of protocol.md sections 1 to 5 that nothing else holds to.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

import msgspec
import pytest

from fabric.core.events import PeerChanged, ServiceAccepted, StunNames
from fabric.core.machine import Calendar, drain
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.core.node import Node
from fabric.core.pace import PacePerSource
from fabric.core.path import MAX_PATHS, PathAgent
from fabric.core.settings import Settings
from fabric.core.status import PeerState
from fabric.dataplane.contract import Control, Traffic
from fabric.errors import DecodeError
from fabric.wire.address import Address, Candidate, CandidateKind
from fabric.wire.offer import Offer, encode_offer
from fabric.wire.path import Close, CloseReason, OfferUpdate, encode_control
from fabric.wire.rendezvous import (
    Challenge,
    DeliverOffer,
    Introduction,
    SendOffer,
    StateIntent,
    ToEndpoint,
    ToService,
    Welcome,
)
from tests.core.fake_lane import FakeLane
from tests.core.town import UNIX
from tests.core.village import House, Village

A, B, C = "a.home", "b.home", "c.home"
OFFSET = UNIX - 1000.0


@pytest.fixture
def village() -> Village:
    return Village(A, B)


def state(village: Village, of: str, peer: str) -> PeerState:
    return village.houses[of].status(peer, village.now).state


def do(village: Village, name: str, act: Callable[[Node], object]) -> None:
    house = village.houses[name]
    act(house.node)
    village.settle(house)


def wish(village: Village, one: str, two: str) -> None:
    do(village, one, lambda node: node.add(two, None, village.now))


def listen(village: Village, kind: type[ToService]) -> list[str]:
    """Returns a list that grows by the sender's name with every message of this kind to the service."""
    heard: list[str] = []
    serve = village._serve

    def overhear(house: House, message: ToService) -> None:
        if isinstance(message, kind):
            heard.append(house.name)
        serve(house, message)

    village._serve = overhear  # type: ignore[method-assign]
    return heard


def stamp(village: Village) -> int:
    """Returns a date in milliseconds that is newer than those of genuine offers, and still to be believed."""
    return int((OFFSET + village.now + 30.0) * 1000)


def say_in_session(village: Village, sender: str, target: str, payload: bytes) -> None:
    """A sealed control message of a peer that says what it likes."""
    house = village.houses[target]
    index = house.lane.sealing
    assert index is not None
    source = village.houses[sender].address
    house.node.handle_traffic([Traffic(sender, index, 1, 0, village.now, None, 0, None)], village.now)
    house.node.handle_control(Control(sender, index, payload, source), village.now)
    village.settle(house)


# paths


def host(*addresses: Address) -> list[Candidate]:
    return [Candidate(CandidateKind.HOST, address) for address in addresses]


def agent_with(*addresses: Address) -> PathAgent:
    agent = PathAgent(random.Random(1).randbytes, keepalive_s=7.0)
    agent.handle_networks([ipaddress.ip_network("192.168.1.0/24")])
    agent.handle_candidates(host(*addresses), 0.0)
    return agent


def answer_all(agent: PathAgent, now: float) -> None:
    agent.handle_timeout(now)
    for due in drain(agent.poll_probe):
        agent.handle_reply(due.token, due.to, now + 0.01)


PUBLIC = Address("198.51.100.7", 4000)
LAN = Address("192.168.1.9", 4000)
SECOND_LAN = Address("192.168.1.10", 4000)


def test_a_reply_that_was_held_back_for_long_proves_and_measures_nothing() -> None:
    agent = agent_with(PUBLIC)
    answer_all(agent, 0.0)
    token = agent.probe(PUBLIC, 1.0)
    assert token is not None
    assert agent.handle_reply(token, PUBLIC, 8 * 3600.0) is None
    assert agent.primary is not None
    assert agent.primary.rtt_s is not None
    assert agent.primary.rtt_s < 1.0


def test_records_copied_from_many_sources_do_not_lose_the_primary() -> None:
    agent = agent_with(PUBLIC)
    answer_all(agent, 0.0)
    for number in range(1, 31):
        agent.handle_probe(Address(f"203.0.113.{number}", 9), 1.0 + number / 1000)
        agent.handle_timeout(1.0 + number / 1000)
    assert agent.primary is not None
    assert agent.primary.address == PUBLIC
    assert agent.primary.unanswered <= 1


def test_impatient_pings_do_not_lose_the_primary() -> None:
    agent = agent_with(PUBLIC)
    answer_all(agent, 0.0)
    for number in range(20):
        agent.probe(PUBLIC, 7.0 + number / 1000)
    agent.handle_timeout(7.02)
    assert agent.primary is not None


def test_strays_do_not_push_out_a_path_that_is_proven() -> None:
    agent = agent_with(PUBLIC)
    answer_all(agent, 0.0)
    spare = Address("198.51.100.8", 4000)
    agent.handle_probe(spare, 1.0)
    agent.handle_timeout(1.0)
    for due in drain(agent.poll_probe):
        agent.handle_reply(due.token, due.to, 1.01)
    for number in range(1, 200):
        agent.handle_probe(Address(f"203.0.113.{number}", 9), 2.0)
    assert {path.address for path in agent.paths if path.valid} >= {PUBLIC, spare}
    assert len(agent.paths) <= MAX_PATHS


def test_the_local_network_is_searched_again_once_it_is_no_longer_in_use() -> None:
    agent = agent_with(PUBLIC, LAN, SECOND_LAN)
    answered = {PUBLIC, LAN}
    now = 0.0
    probed: set[Address] = set()
    while now < 200.0:
        agent.handle_timeout(now)
        for due in drain(agent.poll_probe):
            if now > 80.0:
                probed.add(due.to)
            if due.to in answered:
                agent.handle_reply(due.token, due.to, now + 0.01)
        if now > 60.0:
            answered = {PUBLIC}
        now = max(now + 0.01, agent.next_timeout() or now)
    assert agent.primary is not None
    assert agent.primary.address == PUBLIC
    assert SECOND_LAN in probed


@pytest.mark.parametrize(
    "ip",
    ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "192.168.1.255", "::", "::1", "ff02::1", "::ffff:1.2.3.4"],
)
def test_an_offer_makes_nobody_probe_what_is_no_single_host(ip: str) -> None:
    agent = agent_with(Address(str(ipaddress.ip_address(ip)), 4000))
    agent.handle_timeout(0.0)
    assert list(drain(agent.poll_probe)) == []


def test_several_daemons_on_one_host_may_name_its_loopback() -> None:
    agent = PathAgent(random.Random(1).randbytes, keepalive_s=7.0)
    agent.handle_networks([ipaddress.ip_network("127.0.0.0/8")])
    agent.handle_candidates(host(Address("127.0.0.1", 4000)), 0.0)
    agent.handle_timeout(0.0)
    assert len(list(drain(agent.poll_probe))) == 1


def test_a_tunnel_is_never_led_through_the_overlay(village: Village) -> None:
    village.meet(A, B)
    overlay = str(village.town.identity(B).certificate.ipv4)
    offer = Offer(stamp(village), 7, bytes(32), False, tuple(host(Address(overlay, 4000), PUBLIC)))
    before = village.datagrams[A]
    sent: list[Address] = []
    send = village._send
    village._send = lambda h, to, p, index=None: (sent.append(to), send(h, to, p, index))  # type: ignore[method-assign,func-returns-value,assignment]
    say_in_session(village, B, A, encode_control(OfferUpdate(encode_offer(offer))))
    village.run(10.0)
    assert village.datagrams[A] > before
    assert {to.ip for to in sent} >= {PUBLIC.ip}
    assert overlay not in {to.ip for to in sent}


# a hostile peer that was introduced


def test_a_peer_s_flood_of_offers_is_no_flood_of_probes_or_writes(village: Village) -> None:
    village.meet(A, B)
    village.run(5.0)
    stored = len(village.houses[A].told)
    village.datagrams.clear()
    for number in range(200):
        victims = [Address(f"203.0.113.{i}", 1 + number) for i in range(1, 25)]
        offer = Offer(stamp(village) + number, 7, bytes(32), False, tuple(host(*victims)))
        say_in_session(village, B, A, encode_control(OfferUpdate(encode_offer(offer))))
        village.run(0.01)
    assert village.datagrams[A] < 1000
    assert len(village.houses[A].told) - stored < 10


def test_the_last_of_many_offers_is_the_one_that_counts(village: Village) -> None:
    village.meet(A, B)
    village.run(5.0)
    for number in range(5):
        offer = Offer(stamp(village) + number, 7, bytes([number]) * 32, False, tuple(host(village.houses[B].address)))
        say_in_session(village, B, A, encode_control(OfferUpdate(encode_offer(offer))))
    village.run(2.0)
    assert village.houses[A].records[B].offer == encode_offer(offer)


def lift_limits(village: Village, hostile: str, victim: str) -> None:
    """Lets `hostile` begin and answer as many handshakes as it likes."""
    negotiation = village.houses[hostile].node._peers[victim]._keying._negotiation
    if isinstance(negotiation, ServerNegotiation):
        negotiation._pace = PacePerSource(0.0, 1, 1)
        return
    begin = negotiation.begin

    def begin_unpaced(to: Address, rtt_s: float | None, now: float, *, may_resume: bool = False) -> None:
        begin(to, rtt_s, now, may_resume=may_resume)
        negotiation.may_begin_at = 0.0

    negotiation.begin = begin_unpaced  # type: ignore[method-assign]


@pytest.mark.parametrize("hostile", [A, B])
def test_a_peer_that_wants_handshakes_without_end_gets_few(village: Village, hostile: str) -> None:
    victim = B if hostile == A else A
    village.meet(A, B)
    village.run(5.0)
    house = village.houses[hostile]
    lift_limits(village, hostile, victim)
    most = 0
    for _ in range(300):
        peer = house.node._peers[victim]
        if hostile == A:
            peer._keying.want()
            peer._settle(village.now)
        else:
            target = village.houses[victim].address
            village._send(house, target, peer._gateway.wrap_call(village.now))
        village.settle(house)
        village.run(0.03)
        most = max(most, len(village.houses[victim].lane.installed))
    assert most < 60
    assert village.run_until(lambda: village.are_connected(A, B), 10.0)


def test_a_peer_that_closes_again_and_again_gets_few_handshakes(village: Village) -> None:
    village.meet(A, B)
    lift_limits(village, B, A)
    village.datagrams.clear()
    for _ in range(300):
        if village.houses[A].lane.sealing is not None:
            say_in_session(village, B, A, encode_control(Close(CloseReason.STOPPED)))
        village.run(0.03)
    assert village.datagrams[A] < 200


# the service


def test_many_stun_servers_are_not_all_asked(village: Village) -> None:
    servers = [Address(f"203.0.113.{i}", 3478) for i in range(1, 250)]
    village.datagrams.clear()
    do(village, A, lambda node: node.handle_stun_servers(servers, village.now))
    village.run(19.0)
    assert 0 < village.datagrams[A] <= 8 * 5

    def lie(_to: str, message: ToEndpoint) -> ToEndpoint:
        if isinstance(message, Welcome):
            return msgspec.structs.replace(message, stun=tuple(f"victim-{i}.example:53" for i in range(5000)))
        return message

    village.lie = lie
    do(village, A, lambda node: node.handle_service_lost(1, village.now))
    village.connect(village.houses[A])
    village.run(1.0)
    told = [event for event in village.houses[A].told if isinstance(event, StunNames)]
    assert len(told[-1].names) <= 8


@pytest.mark.parametrize("lie", [float("nan"), float("inf"), -float("inf")])
def test_a_service_whose_clock_is_no_number_tells_no_time(village: Village, lie: float) -> None:
    village.run(1.0)
    village.lie = lambda _to, m: msgspec.structs.replace(m, unix_time=lie) if isinstance(m, Welcome) else m
    do(village, A, lambda node: node.handle_service_lost(1, village.now))
    village.houses[A].told.clear()
    village.connect(village.houses[A])
    village.run(1.0)
    assert village.houses[A].node.is_service_up
    assert not [event for event in village.houses[A].told if isinstance(event, ServiceAccepted)]


def test_peers_know_that_a_service_was_rejected(village: Village) -> None:
    wish(village, A, B)
    village.run(1.0)
    assert "no connection" not in village.houses[A].status(B, village.now).why
    village.tell(A, Challenge(bytes(32)))
    village.run(0.1)
    assert "no connection" in village.houses[A].status(B, village.now).why


def test_a_word_of_the_service_after_it_was_lost_is_dropped(village: Village) -> None:
    do(village, A, lambda node: node.handle_service_lost(1, village.now))
    before = len(village.houses[A].told)
    village.tell(A, Challenge(bytes(32)))
    village.run(0.1)
    assert len(village.houses[A].told) == before


def test_a_refused_introduction_changes_nothing_that_is_shown_of_a_connected_peer(village: Village) -> None:
    village.meet(A, B)
    village.houses[A].told.clear()
    thief = village.town.make_identity(B)
    village.tell(A, msgspec.structs.replace(village.introduction(B, A), certificate=thief.certificate.der))
    village.run(1.0)
    assert village.houses[A].told == []


def test_an_older_introduction_changes_nothing(village: Village) -> None:
    village.meet(A, B)
    older = village.introduction(B, A)
    village.run(10.0)
    do(village, B, lambda node: node.handle_service_lost(1, village.now))
    village.connect(village.houses[B])
    village.run(1.0)
    newer = village.houses[A].records[B]
    assert newer.intent != older.intent
    village.tell(A, older)
    village.run(1.0)
    assert village.houses[A].records[B] == newer


def test_gate_and_share_outlive_whatever_the_service_says(village: Village) -> None:
    village.meet(A, B)
    before = village.houses[A].records[B]
    do(village, B, lambda node: node.disable(A, village.now))
    village.run(1.0)
    assert state(village, A, B) is PeerState.PENDING
    assert len(village.houses[A].node._peers.open_gates) == 0, "the gate entry is gone"
    do(village, B, lambda node: node.enable(A, village.now))
    assert village.run_until(lambda: village.are_connected(A, B))
    after = village.houses[A].records[B]
    assert (before.gate_index, before.gate_share) == (after.gate_index, after.gate_share)


def test_two_gates_never_share_an_index() -> None:
    village = Village(A, B, C)
    draw = village.houses[A].node._around.draw

    def poor(count: int) -> bytes:
        return bytes(4) if count == 4 and village._random.random() < 0.7 else draw(count)

    for house in village.houses.values():
        object.__setattr__(house.node._around, "draw", poor)
        house.node._peers._draw = poor
    village.meet(A, B)
    village.meet(A, C)
    records = village.houses[A].records
    assert records[B].gate_index != records[C].gate_index
    assert len(village.houses[A].node._peers.open_gates) == 2


# ends


def test_the_end_of_an_intent_ends_the_session_on_both_sides() -> None:
    village = Village(A, B, settings=Settings(intent_life_s=300.0))
    village.meet(A, B)
    do(village, B, lambda node: node.handle_service_lost(1, village.now))
    village.lie = lambda to, message: None if to == B else message
    village.run(280.0)
    assert village.are_connected(A, B)
    village.run(30.0)
    assert village.houses[A].lane.installed == set()
    assert village.houses[B].lane.installed == set()
    assert len(village.houses[A].node._peers.open_gates) == 0
    assert "intent" in village.houses[A].status(B, village.now).why


def test_an_intent_is_stated_again_before_it_ends() -> None:
    village = Village(A, B, settings=Settings(intent_life_s=300.0))
    village.meet(A, B)
    village.run(2000.0)
    assert village.are_connected(A, B)
    states = [e.state for e in village.houses[A].told if isinstance(e, PeerChanged)]
    assert states.count(PeerState.CONNECTED) == 1


def test_a_gate_ends_with_the_certificate_and_opens_for_the_next() -> None:
    village = Village()
    village.town.identity(A)
    village.town.identity(B, life_s=100.0)
    for name in (A, B):
        village.build(name)
    village.meet(A, B)
    village.run(110.0)
    assert len(village.houses[A].node._peers.open_gates) == 0
    assert "expired" in village.houses[A].status(B, village.now).why
    from fabric.wire.rendezvous import Renewed

    unix = OFFSET + village.now
    village.tell(B, Renewed(village.town.certify(B, unix - 1, unix + 9999)))
    village.run(0.1)
    do(village, B, lambda node: node.handle_service_lost(1, village.now))
    village.connect(village.houses[B])
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_a_peer_that_was_revoked_while_we_were_off_finds_no_gate(village: Village) -> None:
    village.meet(A, B)
    house = village.houses[A]
    serial = village.town.identity(B).certificate.serial
    unix = OFFSET + village.now
    crl = village.town.authority.issue_crl({serial: unix}, 1, unix, unix + 86400)
    village.town.identity(A).trust.update_revocations(crl)
    village.is_service_up = False
    restarted = village.build(A, house.records)
    assert len(restarted.node._peers.open_gates) == 0
    village.run(1.0)
    assert "revoked" in restarted.status(B, village.now).why


# liveness


def test_two_that_can_not_reach_each_other_do_not_talk_the_service_s_ear_off(village: Village) -> None:
    offers = listen(village, SendOffer)
    village.drop = lambda _source, _target: True
    for one, two in ((A, B), (B, A)):
        wish(village, one, two)
    village.run(600.0)
    assert len(offers) < 80
    assert village.datagrams[A] < 700


@pytest.mark.parametrize("early", [A, B])
def test_a_close_that_arrives_after_the_next_introduction_does_not_strand_anybody(village: Village, early: str) -> None:
    late = B if early == A else A
    village.meet(A, B)
    index = village.houses[late].lane.sealing
    assert index is not None
    village.drop = lambda _source, _target: True
    do(village, early, lambda node: node.disable(late, village.now))
    village.drop = lambda _source, _target: False
    do(village, early, lambda node: node.enable(late, village.now))
    village.run(0.05)
    control = Control(early, index, encode_control(Close(CloseReason.WITHDRAWN)), village.houses[early].address)
    do(village, late, lambda node: node.handle_control(control, village.now))
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


@pytest.mark.parametrize("early", [A, B])
def test_a_close_in_a_session_that_both_have_left_is_ignored(village: Village, early: str) -> None:
    late = B if early == A else A
    village.meet(A, B)
    index = village.houses[late].lane.sealing
    assert index is not None
    village.send_frame(A, B)
    village.run(122.0)
    assert village.houses[late].lane.sealing != index
    say_in_session(village, early, late, b"")
    control = Control(early, index, encode_control(Close(CloseReason.WITHDRAWN)), village.houses[early].address)
    do(village, late, lambda node: node.handle_control(control, village.now))
    assert village.are_connected(A, B)


def test_remove_and_add_in_one_breath(village: Village) -> None:
    village.meet(A, B)
    for _ in range(3):
        do(village, A, lambda node: node.remove(B, village.now))
        wish(village, A, B)
    assert village.run_until(lambda: village.are_connected(A, B) and village.now > 1010, 60.0)


def test_the_stop_of_a_daemon_asks_nobody_for_an_offer(village: Village) -> None:
    village.meet(A, B)
    offers = listen(village, SendOffer)
    do(village, A, lambda node: node.close(village.now))
    village.run(0.5)
    assert A not in offers


def test_an_introduction_that_came_too_early_for_the_own_clock_is_asked_for_again() -> None:
    village = Village(A, B)
    slow = village.houses[A].node
    slow.handle_clock_set(OFFSET - 7200.0, village.now)
    for one, two in ((A, B), (B, A)):
        wish(village, one, two)
    village.run(100.0)
    assert not village.are_connected(A, B)
    do(village, A, lambda node: node.handle_clock_set(OFFSET, village.now))
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_an_intent_of_a_clock_that_was_fast_is_stated_again_when_it_is_right() -> None:
    village = Village(A, B)
    village.houses[A].node.handle_clock_set(OFFSET + 7200.0, village.now)
    for one, two in ((A, B), (B, A)):
        wish(village, one, two)
    village.run(100.0)
    assert not village.are_connected(A, B)
    do(village, A, lambda node: node.handle_clock_set(OFFSET, village.now))
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


@pytest.mark.parametrize("name", [A, B])
def test_a_host_that_booted_with_a_fast_clock_is_reached_as_soon_as_that_is_set(village: Village, name: str) -> None:
    village.meet(A, B)
    house = village.houses[name]
    lane = FakeLane()
    node = Node(
        village.town.identity(name),
        lane,
        Calendar(OFFSET + 7200.0),
        village._random.randbytes,
        village.settings,
        list(house.records.values()),
        village.now,
    )
    village.is_service_up = False
    village.houses[name] = House(name, house.address, node, lane, records=house.records)
    node.handle_interfaces([ipaddress.ip_interface(f"{house.address.ip}/24")], house.address.port, village.now)
    village.run(20.0)
    assert not village.are_connected(A, B)
    do(village, name, lambda node: node.handle_clock_set(OFFSET, village.now))
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_a_peer_enrolled_anew_before_the_first_meeting_is_met(village: Village) -> None:
    """Its bundles start again at serial 1, and its clock may be behind the first one's."""
    village.drop = lambda _source, _target: True
    for one, two in ((A, B), (B, A)):
        wish(village, one, two)
    village.run(5.0)
    assert state(village, A, B) is PeerState.CONNECTING
    signer = village.town.identity(B).signer
    for _ in range(3):
        bundle = signer.next_bundle(B, UNIX)  # type: ignore[attr-defined]
    village._bundles[B] = bundle
    village.tell(A, village.introduction(B, A))
    village.run(1.0)
    village.town._identities[B] = village.town.make_identity(B)
    village._bundles.pop(B)
    village._intents.pop((B, A))
    village.build(B)
    wish(village, B, A)
    village.drop = lambda _source, _target: False
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_a_wish_with_the_right_fingerprint_after_a_wrong_one(village: Village) -> None:
    wrong = village.town.identity(C).certificate.fingerprint
    right = village.town.identity(B).certificate.fingerprint
    do(village, A, lambda node: node.add(B, wrong, village.now))
    wish(village, B, A)
    village.run(300.0)
    assert state(village, A, B) is PeerState.PENDING
    do(village, A, lambda node: node.add(B, right, village.now))
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_an_offer_that_was_lost_is_made_again_until_it_is_answered(village: Village) -> None:
    lost: list[ToEndpoint] = []

    def lie(_to: str, message: ToEndpoint) -> ToEndpoint | None:
        if isinstance(message, DeliverOffer) and len(lost) < 4:
            lost.append(message)
            return None
        return message

    village.lie = lie
    for one, two in ((A, B), (B, A)):
        wish(village, one, two)
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_an_introduction_that_was_lost_is_asked_for_again(village: Village) -> None:
    lost: list[ToEndpoint] = []

    def lie(to: str, message: ToEndpoint) -> ToEndpoint | None:
        if isinstance(message, Introduction) and to == A and not lost:
            lost.append(message)
            return None
        return message

    village.lie = lie
    for one, two in ((A, B), (B, A)):
        wish(village, one, two)
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_a_wish_that_nobody_answers_is_repeated_rarely(village: Village) -> None:
    intents = listen(village, StateIntent)
    wish(village, A, B)
    village.run(3600.0)
    assert 2 <= len(intents) <= 12


@pytest.mark.parametrize("name", [A, B])
def test_a_certificate_renewed_in_the_midst_of_a_handshake_is_shown_all_the_same(name: str) -> None:
    from fabric.wire.rendezvous import Renewed

    village = Village()
    village.town.identity(A)
    village.town.identity(B)
    for each in (A, B):
        village.build(each)
    other = B if name == A else A
    for one, two in ((A, B), (B, A)):
        wish(village, one, two)
    renewed = village.town.certify(name, UNIX, UNIX + 30 * 86400.0)

    def is_under_way() -> bool:
        peer = village.houses[A].node._peers[B]
        negotiation = peer._keying._negotiation
        return isinstance(negotiation, ClientNegotiation) and negotiation.is_busy

    assert village.run_until(is_under_way)
    village.run(0.011)
    do(village, name, lambda node: node.handle_service_message(1, Renewed(renewed), village.now))
    village.run(20.0)
    assert village.houses[other].records[name].certificate == renewed


def test_a_name_of_another_network_is_refused_before_it_spoils_anything(village: Village) -> None:
    with pytest.raises(DecodeError):
        village.houses[A].node.add("b.elsewhere", None, village.now)
    village.meet(A, B)


@pytest.mark.parametrize("fast", [A, B])
def test_offers_of_a_clock_that_was_fast_do_not_outrank_those_of_the_right_one(village: Village, fast: str) -> None:
    """Added anew, it no longer knows what it once dated, and the other has not heard that it was removed."""
    slow = B if fast == A else A
    village.meet(A, B)
    do(village, fast, lambda node: node.handle_clock_set(OFFSET + 8 * 86400.0, village.now))
    village.move(village.houses[fast], "203.0.113.5")
    village.run(5.0)
    village.drop = lambda _source, _target: True
    do(village, fast, lambda node: node.remove(slow, village.now))
    village.run(1.0)
    do(village, fast, lambda node: node.handle_clock_set(OFFSET, village.now))
    wish(village, fast, slow)
    village.run(5.0)
    village.drop = lambda _source, _target: False
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_an_offer_from_the_future_is_not_believed(village: Village) -> None:
    village.meet(A, B)
    stored = village.houses[A].records[B].offer
    offer = Offer(2**61, 7, bytes(32), False, tuple(host(PUBLIC)))
    say_in_session(village, B, A, encode_control(OfferUpdate(encode_offer(offer))))
    village.run(5.0)
    assert village.houses[A].records[B].offer == stored
