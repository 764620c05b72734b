"""The root secret of a pair in whole nodes: it moves, it survives restarts, and what does not continue it is found."""

from __future__ import annotations

import ipaddress
import random
from dataclasses import replace

import msgspec
import pytest

from fabric.core.entanglement import Entangle, Entangled
from fabric.core.events import TrustAlarm
from fabric.core.machine import Calendar
from fabric.core.node import Node
from fabric.core.records import PeerRecord, decode_record, encode_record
from fabric.core.settings import Settings
from fabric.core.status import PeerState
from fabric.wire.address import Address
from tests.core.fake_lane import FakeLane
from tests.core.town import UNIX
from tests.core.village import House, Village

A, B = "a.home", "b.home"
COPY = Address("203.0.113.9", 5000)


@pytest.fixture
def village() -> Village:
    return Village(A, B)


@pytest.fixture
def pair(village: Village) -> Village:
    village.meet(A, B)
    village.run(1.0)
    return village


def held(village: Village, of: str, peer: str) -> Entangled:
    return village.houses[of].records[peer].entangled


def state(village: Village, of: str, peer: str) -> PeerState:
    return village.houses[of].status(peer, village.now).state


def restart(village: Village, name: str, records: dict[str, PeerRecord] | None = None) -> House:
    house = village.houses[name]
    return village.build(name, house.records if records is None else records)


def copy(village: Village, name: str, records: dict[str, PeerRecord]) -> House:
    """Starts another endpoint with the whole state of `name`, elsewhere; the service is not asked."""
    lane = FakeLane()
    node = Node(
        village.town.identity(name),
        lane,
        Calendar(UNIX - 1000.0),
        random.Random("copy").randbytes,
        village.settings,
        list(records.values()),
        village.now,
    )
    house = village.houses["copy"] = House("copy", COPY, node, lane, records=dict(records))
    node.handle_interfaces([ipaddress.ip_interface(f"{COPY.ip}/24")], COPY.port, village.now)
    village.settle(house)
    return house


def switch_off(village: Village, name: str) -> dict[str, PeerRecord]:
    """Power is cut: what was stored is returned."""
    records = village.houses.pop(name).records
    return dict(records)


def are_quarantined(village: Village, *ends: tuple[str, str]) -> bool:
    return all(state(village, of, peer) is PeerState.QUARANTINED for of, peer in ends)


def reset(village: Village, of: str, peer: str, *, key: bool = False) -> None:
    house = village.houses[of]
    assert house.node.reset_trust(peer, key=key, now=village.now)
    village.settle(house)


def test_both_hold_one_root_and_it_is_the_same(pair: Village) -> None:
    assert held(pair, A, B).roots == held(pair, B, A).roots
    assert len(held(pair, A, B).roots) == 1
    assert held(pair, A, B).confirmed


def test_each_handshake_moves_it_on(pair: Village) -> None:
    seen = {held(pair, A, B).roots}
    for _ in range(3):
        pair.send_frame(A, B)
        pair.run(150.0)
        assert pair.are_connected(A, B)
        assert held(pair, A, B).roots == held(pair, B, A).roots
        seen.add(held(pair, A, B).roots)
    assert len(seen) == 4


def test_it_outlives_a_record_on_the_disk(pair: Village) -> None:
    record = pair.houses[A].records[B]
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize("who", [A, B])
def test_a_restart_continues_it(pair: Village, who: str) -> None:
    before = held(pair, A, B).roots
    restart(pair, who)
    assert pair.run_until(lambda: pair.are_connected(A, B) and held(pair, A, B).roots != before)
    pair.run(1.0)
    assert held(pair, A, B).roots == held(pair, B, A).roots


def test_the_root_is_shown_to_nobody(pair: Village) -> None:
    (root,) = held(pair, A, B).roots
    assert repr(root) not in repr(pair.houses[A].records[B])
    assert repr(root) not in repr(held(pair, A, B))


@pytest.mark.parametrize(("who", "peer"), [(A, B), (B, A)])
def test_a_copy_that_was_used_is_found_when_the_real_one_is_back(pair: Village, who: str, peer: str) -> None:
    real = pair.houses[who].address
    records = switch_off(pair, who)
    copied = copy(pair, who, records)
    assert pair.run_until(lambda: copied.status(peer, pair.now).state is PeerState.CONNECTED)
    pair.run(1.0)
    assert state(pair, peer, who) is PeerState.CONNECTED
    pair.houses[who] = House(who, real, copied.node, copied.lane)  # the address that `build` takes up again
    restart(pair, who, records)
    began = pair.now
    assert pair.run_until(lambda: are_quarantined(pair, (who, peer), (peer, who)), 60.0)
    assert pair.now - began < 5.0
    assert copied.status(peer, pair.now).state is not PeerState.CONNECTED or pair.run_until(
        lambda: copied.status(peer, pair.now).state is not PeerState.CONNECTED
    )
    alarm = held(pair, peer, who).alarm
    assert alarm is not None
    assert alarm.before is not None
    assert {alarm.at.remote, alarm.before.remote} == {str(real), str(COPY)}
    assert any(isinstance(event, TrustAlarm) for event in pair.houses[peer].told)
    assert str(COPY) in pair.houses[peer].status(who, pair.now).why


def test_a_restored_backup_is_a_collision_and_a_reset_on_both_sides_mends_it(pair: Village) -> None:
    backup = dict(pair.houses[A].records)
    restart(pair, A)
    assert pair.run_until(lambda: pair.are_connected(A, B))
    pair.run(1.0)
    restart(pair, A, backup)
    assert pair.run_until(lambda: are_quarantined(pair, (A, B), (B, A)))
    reset(pair, A, B)
    pair.run(5.0)
    assert state(pair, A, B) is PeerState.CONNECTING
    assert "trust reset" in pair.houses[A].status(B, pair.now).why
    assert state(pair, B, A) is PeerState.QUARANTINED
    reset(pair, B, A)
    assert pair.run_until(lambda: pair.are_connected(A, B), 90.0)
    pair.run(1.0)
    assert held(pair, A, B).roots == held(pair, B, A).roots
    assert held(pair, A, B).alarm is None


def test_a_reset_on_one_side_alone_is_refused_by_the_other(pair: Village) -> None:
    reset(pair, B, A)
    assert pair.run_until(lambda: state(pair, A, B) is PeerState.QUARANTINED)
    pair.run(5.0)
    assert state(pair, B, A) is PeerState.CONNECTING
    assert held(pair, B, A).alarm is None
    assert A in pair.houses[B].status(A, pair.now).why
    reset(pair, A, B)
    assert pair.run_until(lambda: pair.are_connected(A, B), 90.0)


def test_an_alarm_outlives_a_restart(pair: Village) -> None:
    reset(pair, B, A)
    assert pair.run_until(lambda: state(pair, A, B) is PeerState.QUARANTINED)
    restart(pair, A)
    assert state(pair, A, B) is PeerState.QUARANTINED
    pair.run(120.0)
    assert not pair.are_connected(A, B)


def test_removing_a_peer_and_adding_it_again_is_no_collision(pair: Village) -> None:
    house = pair.houses[A]
    before = held(pair, A, B).roots
    house.node.remove(B, pair.now)
    pair.settle(house)
    pair.run(1.0)
    restart(pair, A)
    assert held(pair, A, B).roots == before
    pair.houses[A].node.add(B, None, pair.now)
    pair.settle(pair.houses[A])
    assert pair.run_until(lambda: pair.are_connected(A, B))
    assert held(pair, A, B).roots != before


@pytest.mark.parametrize("mode", [Entangle.ALERT, Entangle.OFF])
def test_where_both_let_it_pass_the_pair_begins_anew(mode: Entangle) -> None:
    village = Village(A, B, settings=Settings(entangle=mode))
    village.meet(A, B)
    reset(village, B, A)
    assert village.run_until(lambda: village.are_connected(A, B))
    village.run(1.0)
    assert held(village, A, B).roots == held(village, B, A).roots
    assert (held(village, A, B).alarm is not None) is (mode is Entangle.ALERT)


def test_who_enforces_is_not_talked_out_of_it_by_who_does_not(village: Village) -> None:
    village.meet(A, B)
    records = dict(village.houses[A].records)
    village.settings = replace(village.settings, entangle=Entangle.OFF)
    forgetful = {B: msgspec.structs.replace(records[B], entangled=Entangled())}
    village.build(A, forgetful)
    village.run(10.0)
    assert not village.are_connected(A, B)
    assert state(village, B, A) is PeerState.QUARANTINED
