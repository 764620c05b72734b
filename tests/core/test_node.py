"""Nodes that meet, lose and find each other, and what they refuse to believe."""

from __future__ import annotations

import msgspec
import pytest

from fabric.core.events import ForgetRecord, PathChanged, PeerChanged, Pong, StoreRecord
from fabric.core.settings import Settings
from fabric.core.status import PathKind, PeerState
from fabric.wire.address import Address
from fabric.wire.offer import decode_offer
from fabric.wire.path import GatedKind
from fabric.wire.rendezvous import DeliverOffer, Introduction, Refused, ToEndpoint, Withdrawn
from tests.core.town import UNIX
from tests.core.village import House, Village

A, B, C = "a.home", "b.home", "c.home"


@pytest.fixture
def village() -> Village:
    return Village(A, B)


def state(village: Village, of: str, peer: str) -> PeerState:
    return village.houses[of].status(peer, village.now).state


def test_two_that_wish_to_meet_are_connected_within_a_second(village: Village) -> None:
    began = village.now
    village.meet(A, B)
    assert village.now - began < 1.0
    status = village.houses[A].status(B, village.now)
    assert status.path is not None
    assert status.path.kind is PathKind.DIRECT_UDP
    assert status.path.remote == village.houses[B].address
    assert status.mac == village.town.identity(B).certificate.mac.hex(":")


def test_one_wish_alone_stays_pending_and_sends_nothing(village: Village) -> None:
    village.houses[A].node.add(B, None, village.now)
    village.settle(village.houses[A])
    village.run(120.0)
    assert state(village, A, B) is PeerState.PENDING
    assert village.datagrams == {}


def test_the_name_decides_nothing_about_who_can_meet() -> None:
    village = Village("zz.home", A)
    village.meet("zz.home", A)
    assert village.are_connected(A, "zz.home")


def test_a_ping_tells_the_round_trip_and_the_path(village: Village) -> None:
    village.meet(A, B)
    house = village.houses[A]
    assert house.node.ping(B, 7, village.now)
    village.settle(house)
    village.run(1.0)
    (pong,) = [event for event in house.told if isinstance(event, Pong)]
    assert pong.token == 7
    assert pong.rtt_s == pytest.approx(0.02)
    assert not house.node.ping("nobody.home", 8, village.now)


def test_remove_ends_it_at_once_on_both_sides(village: Village) -> None:
    village.meet(A, B)
    house = village.houses[A]
    assert house.node.remove(B, village.now)
    village.settle(house)
    assert house.lane.keys == {}
    assert house.records[B].removed
    village.run(0.1)
    assert house.records[B].past
    assert house.records[B].is_met
    assert village.houses[B].lane.keys == {}
    assert village.houses[B].lane.ports == {}
    assert state(village, B, A) is PeerState.PENDING


def test_a_removed_peer_is_not_met_again_until_it_is_added_again(village: Village) -> None:
    village.meet(A, B)
    house = village.houses[A]
    house.node.remove(B, village.now)
    village.settle(house)
    village.run(60.0)
    assert state(village, B, A) is PeerState.PENDING
    house.node.add(B, None, village.now)
    village.settle(house)
    assert village.run_until(lambda: village.are_connected(A, B))


def test_a_removal_while_the_service_is_away_is_told_when_it_is_back(village: Village) -> None:
    village.meet(A, B)
    house = village.houses[A]
    village.is_service_up = False
    house.node.handle_service_lost(1, village.now)
    house.node.remove(B, village.now)
    village.settle(house)
    assert house.records[B].removed
    restarted = village.build(A, house.records)
    assert restarted.node.status(village.now) == ()
    village.is_service_up = True
    village.connect(restarted)
    village.run(1.0)
    assert restarted.records[B].past


def test_a_peer_that_was_never_met_is_forgotten_altogether(village: Village) -> None:
    house = village.houses[A]
    house.node.add(B, None, village.now)
    village.settle(house)
    house.node.remove(B, village.now)
    village.settle(house)
    village.run(1.0)
    assert ForgetRecord(B) in house.told
    assert B not in house.records


def test_disable_and_enable(village: Village) -> None:
    village.meet(A, B)
    house = village.houses[A]
    house.node.disable(B, village.now)
    village.settle(house)
    village.run(0.5)
    assert state(village, A, B) is PeerState.DISABLED
    assert state(village, B, A) is PeerState.PENDING
    assert not house.node.disable("nobody.home", village.now)
    house.node.enable(B, village.now)
    village.settle(house)
    assert village.run_until(lambda: village.are_connected(A, B))


@pytest.mark.parametrize("name", [A, B])
def test_a_killed_endpoint_is_back_within_a_second_without_the_service(village: Village, name: str) -> None:
    village.meet(A, B)
    village.is_service_up = False
    for house in village.houses.values():
        house.node.handle_service_lost(1, village.now)
        village.settle(house)
    village.run(30.0)
    village.build(name, village.houses[name].records)
    began = village.now
    assert village.run_until(lambda: village.are_connected(A, B))
    assert village.now - began < 1.5


def test_running_sessions_do_not_notice_that_the_service_is_gone(village: Village) -> None:
    village.meet(A, B)
    village.is_service_up = False
    for house in village.houses.values():
        house.node.handle_service_lost(1, village.now)
        house.told.clear()
        village.settle(house)
    village.run(1000.0)
    assert village.are_connected(A, B)
    changes = [e for h in village.houses.values() for e in h.told if isinstance(e, PathChanged)]
    assert changes == []


@pytest.mark.parametrize("sender", [A, B])
def test_a_session_in_use_by_either_end_is_rekeyed_after_two_minutes(village: Village, sender: str) -> None:
    village.meet(A, B)
    before = village.houses[A].lane.installed
    village.send_frame(sender, B if sender == A else A)
    village.run(119.0)
    assert village.houses[A].lane.installed == before
    village.run(12.0)
    assert village.houses[A].lane.installed != before


def test_an_idle_session_is_rekeyed_after_five_minutes_and_at_its_first_frame_before(village: Village) -> None:
    village.meet(A, B)
    before = village.houses[A].lane.installed
    village.run(295.0)
    assert village.houses[A].lane.installed == before
    village.run(10.0)
    second = village.houses[A].lane.installed
    assert second != before
    village.run(200.0)
    village.send_frame(A, B)
    village.run(0.5)
    assert village.houses[A].lane.installed - second
    assert village.are_connected(A, B)


def test_sessions_are_rekeyed_in_time_and_old_keys_wiped(village: Village) -> None:
    village.meet(A, B)
    before = village.houses[A].lane.installed
    village.send_frame(A, B)
    village.run(125.0)
    after = village.houses[A].lane.installed
    assert before & after == before, "the old keys serve stragglers"
    assert len(after) == 2
    village.run(15.0)
    assert len(village.houses[A].lane.installed) == 1
    assert not village.houses[A].lane.installed & before
    states = [e.state for e in village.houses[A].told if isinstance(e, PeerChanged)]
    assert states[-1] is PeerState.CONNECTED
    assert states.count(PeerState.CONNECTED) == 1


def test_a_host_that_moves_is_followed_within_a_second(village: Village) -> None:
    village.meet(A, B)
    village.run(5.0)
    village.move(village.houses[A], "198.51.100.200")
    began = village.now
    new = village.houses[A].address
    assert village.run_until(lambda: village.houses[B].lane.steered[A][0] == new, 10.0)
    assert village.now - began < 1.0


def test_both_moving_at_once_find_each_other_by_the_service(village: Village) -> None:
    village.meet(A, B)
    village.run(5.0)
    village.move(village.houses[A], "198.51.100.200")
    village.move(village.houses[B], "198.51.100.201")
    began = village.now

    def is_steered() -> bool:
        steered = [village.houses[a].lane.steered[b][0] == village.houses[b].address for a, b in ((A, B), (B, A))]
        return all(steered) and village.are_connected(A, B)

    assert village.run_until(is_steered, 20.0)
    assert village.now - began < 10.0


def test_a_silent_network_is_noticed_and_survived(village: Village) -> None:
    village.meet(A, B)
    village.drop = lambda _source, _target: True
    assert village.run_until(lambda: state(village, A, B) is PeerState.CONNECTING, 11.0)
    village.run(600.0)
    village.drop = lambda _source, _target: False
    began = village.now
    assert village.run_until(lambda: village.are_connected(A, B), 30.0)
    assert village.now - began <= 16.0


def test_thirty_percent_loss_still_connects_and_stays(village: Village) -> None:
    village.drop = lambda _source, _target: village._random.random() < 0.3
    village.meet(A, B)
    village.run(600.0)
    assert village.run_until(lambda: village.are_connected(A, B), 20.0)


def test_suspend_of_ten_minutes(village: Village) -> None:
    village.meet(A, B)
    village.now += 600.0
    assert village.run_until(lambda: village.are_connected(A, B) and village.now > 1601, 10.0)


def test_a_certificate_that_ends_ends_the_session_at_that_moment() -> None:
    village = Village()
    village.town.identity(A)
    village.town.identity(B, life_s=100.0)
    for name in (A, B):
        village.build(name)
    village.meet(A, B)
    end = UNIX + 100.0 - (UNIX - 1000.0)
    village.run(end - village.now - 0.01)
    assert village.houses[A].lane.installed
    village.run(0.02)
    assert village.houses[A].lane.installed == set()
    assert village.houses[B].lane.installed == set()
    village.run(5.0)
    assert "expired" in village.houses[A].status(B, village.now).why


def test_a_renewed_certificate_moves_the_deadline_without_a_gap() -> None:
    village = Village()
    village.town.identity(A)
    village.town.identity(B, life_s=100.0)
    for name in (A, B):
        village.build(name)
    village.meet(A, B)
    village.run(50.0)
    house = village.houses[B]
    renewed = village.town.certify(B, UNIX + 40.0, UNIX + 10_000.0)
    from fabric.wire.rendezvous import Renewed

    village.tell(B, Renewed(renewed))
    village.run(400.0)
    assert house.node.certificate.der == renewed
    assert village.are_connected(A, B)
    states = [e.state for e in village.houses[A].told if isinstance(e, PeerChanged)]
    assert states.count(PeerState.CONNECTED) == 1


def test_a_revoked_peer_is_cut_off_at_once(village: Village) -> None:
    village.meet(A, B)
    village.revoke(B)
    village.run(0.05)
    assert village.houses[A].lane.installed == set()
    assert "revoked" in village.houses[A].status(B, village.now).why
    village.run(30.0)
    assert not village.are_connected(A, B)


def test_an_introduction_with_another_s_key_is_refused(village: Village) -> None:
    thief = village.town.make_identity(B)

    def lie(_to: str, message: ToEndpoint) -> ToEndpoint:
        if isinstance(message, Introduction) and message.peer == B:
            return msgspec.structs.replace(message, certificate=thief.certificate.der)
        return message

    village.lie = lie
    for a, b in ((A, B), (B, A)):
        village.houses[a].node.add(b, None, village.now)
        village.settle(village.houses[a])
    village.run(30.0)
    assert state(village, A, B) is PeerState.PENDING
    assert village.houses[A].node.counters["unauthentic_message"] >= 1


def test_a_peer_that_was_met_is_never_another_key(village: Village) -> None:
    village.meet(A, B)
    thief = village.town.make_identity(B)
    genuine = village.introduction(B, A)
    village.tell(A, msgspec.structs.replace(genuine, certificate=thief.certificate.der))
    village.run(5.0)
    assert village.houses[A].node.counters["unauthentic_message"] == 1
    assert village.are_connected(A, B)


def test_a_key_bundle_that_the_service_refuses_is_counted(village: Village) -> None:
    village.meet(A, B)
    counters = village.houses[A].node.counters
    village.tell(A, Refused("StateIntent", "no"))
    village.run(5.0)
    assert not counters
    village.tell(A, Refused("PublishBundle", "a newer bundle is stored"))
    village.run(5.0)
    assert counters == {"refused_bundle": 1}
    assert village.are_connected(A, B)


def test_a_fingerprint_pins_the_key_before_the_first_meeting(village: Village) -> None:
    other = village.town.identity(C).certificate.fingerprint
    village.houses[A].node.add(B, other, village.now)
    village.settle(village.houses[A])
    village.houses[B].node.add(A, None, village.now)
    village.settle(village.houses[B])
    village.run(10.0)
    assert state(village, A, B) is PeerState.PENDING
    assert "fingerprint" in village.houses[A].status(B, village.now).why


def test_offers_of_others_and_old_offers_move_nothing(village: Village) -> None:
    offers: list[DeliverOffer] = []

    def lie(to: str, message: ToEndpoint) -> ToEndpoint:
        if isinstance(message, DeliverOffer) and to == A:
            offers.append(message)
        return message

    village.lie = lie
    village.meet(A, B)
    stored = village.houses[A].records[B].offer
    village.tell(A, offers[0])
    village.tell(A, DeliverOffer(B, offers[0].envelope[:-1]))
    village.tell(A, DeliverOffer(C, offers[0].envelope))
    village.run(1.0)
    assert village.houses[A].records[B].offer == stored
    assert village.are_connected(A, B)


def test_where_we_are_is_said_again_in_the_next_session_if_the_service_may_have_lost_it(village: Village) -> None:
    village.meet(A, B)
    village.lie = lambda _to, message: None if isinstance(message, DeliverOffer) else message
    village.drop = lambda source, _target: source == A
    moved = village.houses[A]
    village.move(moved, "198.51.100.200")
    village.run(20.0)
    village.drop = lambda _source, _target: False
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)
    village.run(5.0)
    offer = village.houses[B].records[A].offer
    assert offer is not None
    assert moved.address in {candidate.address for candidate in decode_offer(offer).candidates}


def test_a_withdrawal_by_the_service_does_not_end_a_session(village: Village) -> None:
    village.meet(A, B)
    village.tell(A, Withdrawn(B))
    village.run(5.0)
    assert village.are_connected(A, B)


def replayed(village: Village, house: House, payloads: list[bytes]) -> int:
    """Returns how many datagrams leave `house` for a stranger that sends these."""
    stranger = Address("203.0.113.66", 666)
    before = village.datagrams[house.name]
    for payload in payloads:
        village.inject(stranger, house, payload)
    return village.datagrams[house.name] - before


def test_the_port_is_dark_to_strangers_and_to_replays(village: Village) -> None:
    seen: list[tuple[str, bytes]] = []
    original = Village._send

    def listen(self: Village, sender: House, to: Address, payload: bytes, index: int | None = None) -> None:
        if index is None:
            seen.append((sender.name, payload))
        original(self, sender, to, payload, index)

    village._send = listen.__get__(village)  # type: ignore[method-assign]
    village.meet(A, B)
    house = village.houses[A]
    recorded = [payload for name, payload in seen if name == B]
    assert {payload[24] for payload in recorded} >= {GatedKind.PROBE, GatedKind.PIECE}
    stranger = [b"", b"\0", bytes(16), b"\xf1" + bytes(40), b"\xf2" + bytes(60), bytes((0, 1, 0, 0)) + bytes(16)]
    assert replayed(village, house, stranger) == 0
    assert replayed(village, house, recorded) == 0
    own = [payload for name, payload in seen if name == A]
    assert replayed(village, house, own) == 0, "nothing reflected is taken"


def test_the_address_of_another_is_refused(village: Village) -> None:
    twin = "ttt.home"
    assert village.town.identity(twin).certificate.addresses == village.town.identity(B).certificate.addresses
    village.build(twin)
    village.meet(A, B)
    for a, b in ((A, twin), (twin, A)):
        village.houses[a].node.add(b, None, village.now)
        village.settle(village.houses[a])
    village.run(5.0)
    assert state(village, A, twin) is PeerState.PENDING
    assert f"claims an address of {B}" in village.houses[A].status(twin, village.now).why


def test_an_idle_pair_sends_little(village: Village) -> None:
    village.meet(A, B)
    village.run(60.0)
    village.datagrams.clear()
    village.run(60.0)
    assert village.datagrams[A] + village.datagrams[B] <= 45


def test_every_change_is_stored_before_it_is_used(village: Village) -> None:
    village.meet(A, B)
    record = village.houses[A].records[B]
    assert record.pinned_key == village.town.identity(B).certificate.public_key
    assert record.gate_index is not None
    assert record.offer is not None
    assert any(isinstance(e, StoreRecord) for e in village.houses[A].told)


def test_a_third_peer_changes_nothing_for_the_other_two() -> None:
    village = Village(A, B, C)
    for one, two in ((A, B), (B, C), (A, C)):
        village.meet(one, two)
    assert all(village.are_connected(*pair) for pair in ((A, B), (B, C), (A, C)))
    village.houses[A].node.remove(B, village.now)
    village.settle(village.houses[A])
    village.run(1.0)
    assert village.are_connected(B, C)
    assert village.are_connected(A, C)


def test_settings_are_honoured() -> None:
    village = Village(A, B, settings=Settings(rekey_after_s=10.0, straggler_s=1.0))
    village.meet(A, B)
    first = village.houses[A].lane.installed
    village.send_frame(A, B)
    village.run(15.0)
    assert not village.houses[A].lane.installed & first
