"""Known peers find each other when the discovery service is gone: by a common peer, and on the local network."""

from __future__ import annotations

import ipaddress
import itertools

import pytest

from fabric.core.beacons import BEACON_GROUP, INTERVALS_S, SPACING_S, Beacons
from fabric.core.machine import drain
from fabric.core.own_addresses import MAX_OBSERVERS, OwnAddresses
from fabric.core.passing import BURST, MAX_PASSERS, Passing
from fabric.core.passing import SPACING_S as PASSING_SPACING_S
from fabric.core.reflexive import Reflexive
from fabric.core.settings import Settings
from fabric.dataplane.contract import Control
from fabric.wire.address import Address, CandidateKind
from fabric.wire.path import Forward, Forwarded, encode_control
from tests.core.village import Village

A, B, C = "a.home", "b.home", "c.home"


def triangle(settings: Settings | None = None) -> Village:
    village = Village(A, B, C, settings=settings)
    for one, two in ((A, B), (A, C), (B, C)):
        village.meet(one, two)
    village.run(5.0)
    village.is_service_up = False
    for house in village.houses.values():
        house.node.handle_service_lost(1, village.now)
        village.settle(house)
    return village


def are_steered(village: Village) -> bool:
    steered = [village.houses[a].lane.steered[b][0] == village.houses[b].address for a, b in ((A, B), (B, A))]
    return all(steered) and village.are_connected(A, B)


def test_two_that_move_at_once_find_each_other_by_a_common_peer() -> None:
    village = triangle()
    village.move(village.houses[A], "198.51.100.200")
    village.move(village.houses[B], "198.51.100.201")
    began = village.now
    assert village.run_until(lambda: are_steered(village), 30.0)
    assert village.now - began < 15.0


def test_what_a_peer_sees_of_us_is_told_to_others_while_no_server_says_it() -> None:
    own = OwnAddresses(Reflexive(bytes, 20.0))
    own.handle_interfaces([ipaddress.ip_interface("192.168.4.4/24")], 5000, 0.0)
    seen = Address("198.51.100.9", 6000)
    assert own.handle_observed(B, seen)
    assert not own.handle_observed(C, seen)
    assert seen in {candidate.address for candidate in own.candidates()}
    assert own.handle_observed(B, Address("198.51.100.9", 6001))
    for lie in ("10.0.0.1", "127.0.0.1", "224.0.0.1", "0.0.0.0", "192.168.4.255"):
        assert not own.handle_observed(B, Address(lie, 6000))
    for number in range(1, 50):
        own.handle_observed(f"p{number}.home", Address(f"203.0.113.{number}", 9))
    assert len([c for c in own.candidates() if c.kind is CandidateKind.REFLEXIVE]) <= MAX_OBSERVERS
    own.handle_interfaces([ipaddress.ip_interface("192.168.5.5/24")], 5000, 1.0)
    assert [c.kind for c in own.candidates()] == [CandidateKind.HOST]


def test_the_loss_of_the_service_with_a_wish_overdue_keeps_nobody_busy() -> None:
    village = triangle()
    house = village.houses[A]
    house.node.add("nobody.home", None, village.now)
    for _ in range(50):
        village.run(10.0)
        house.node.handle_timeout(village.now)
        due = house.node.next_timeout()
        assert due is not None
        assert due > village.now


def test_no_peer_is_asked_where_the_operator_does_not_want_it() -> None:
    village = triangle(Settings(ask_peers=False))
    village.move(village.houses[A], "198.51.100.200")
    village.move(village.houses[B], "198.51.100.201")
    assert not village.run_until(lambda: are_steered(village), 60.0)


def forward(village: Village, by: str, message: Forward | Forwarded, to: str) -> None:
    """`by` says `message` to `to`, in their session."""
    house = village.houses[to]
    keys = next(keys for keys in house.lane.keys.values() if keys.peer == by)
    control = Control(by, keys.local_index, encode_control(message), village.houses[by].address)
    house.node.handle_control(control, village.now)
    village.settle(house)


def test_a_third_party_cannot_speak_for_a_peer() -> None:
    village = triangle()
    before = village.houses[B].records[A]
    forward(village, C, Forwarded(A, b"what C would like A to say"), B)
    forward(village, C, Forwarded("stranger.home", b"?"), B)
    assert village.houses[B].records[A] == before
    counters = village.houses[B].node.counters
    assert counters["unauthentic_control"] + counters["malformed_control"] == 2
    assert village.are_connected(A, B)


def test_nothing_is_passed_on_to_whom_we_do_not_know_nor_back() -> None:
    village = triangle()
    sent = village.datagrams[C]
    forward(village, A, Forward("stranger.home", b"?"), C)
    forward(village, A, Forward(A, b"?"), C)
    assert village.datagrams[C] == sent
    assert village.houses[C].node.counters["not_passed_on"] == 2


def test_a_peer_has_no_more_passed_on_than_its_share() -> None:
    passing = Passing()
    asked = [passing.may_ask(A, 100.0 + n * 0.01) for n in range(200)]
    assert sum(asked) <= BURST + 2.0 / PASSING_SPACING_S
    assert passing.may_ask(B, 101.0), "another peer's share is its own"
    assert passing.may_ask(A, 200.0)


def test_few_are_asked_and_never_the_one_who_is_sought() -> None:
    connected = {f"{letter}.home" for letter in "abcdefgh"}
    chosen = Passing().choose(connected, B)
    assert len(chosen) == MAX_PASSERS
    assert B not in chosen


@pytest.mark.parametrize("count", [1, 4, 5, 12, 13])
def test_in_the_end_everybody_is_asked_and_first_who_passed_something_on_before(count: int) -> None:
    passing = Passing()
    connected = {f"p{number:02}.home" for number in range(count)}
    asked = set().union(*(passing.choose(connected, B) for _ in range(count)))
    assert asked == connected
    passing.note_passed(B, by="p00.home")
    assert all(passing.choose(connected, B)[0] == "p00.home" for _ in range(count))
    assert set().union(*(passing.choose(connected, B) for _ in range(count))) == connected
    assert passing.choose(set(), B) == []


def test_beacons_go_to_everybody_soon_and_then_ever_more_rarely() -> None:
    beacons = Beacons()
    for number in range(10):
        beacons.add(f"p{number}.home", 0.0)
    sent: list[tuple[float, str]] = []
    while (due := beacons.next_timeout()) is not None and due < 1000.0:
        name = beacons.take_due(due)
        if name is not None:
            sent.append((due, name))
    assert {name for at, name in sent if at < 1.0} == {f"p{number}.home" for number in range(10)}
    assert len([at for at, name in sent if name == "p3.home"]) <= len(INTERVALS_S) + 4
    assert all(later - former >= SPACING_S - 1e-9 for (former, _), (later, _) in itertools.pairwise(sent))


def test_a_new_network_is_searched_from_the_start_and_who_is_forgotten_is_not() -> None:
    beacons = Beacons()
    beacons.add(A, 0.0)
    beacons.add(B, 0.0)
    for _ in range(30):
        beacons.take_due(beacons.next_timeout() or 0.0)
    beacons.forget(A)
    beacons.handle_moved(5000.0)
    assert beacons.take_due(5000.0) == B
    assert beacons.take_due(5000.2) is None


@pytest.mark.parametrize("find_on_lan", [True, False])
def test_a_beacon_is_a_gated_probe_that_only_its_peer_takes(find_on_lan: bool) -> None:
    village = Village(A, B, C, settings=Settings(find_on_lan=find_on_lan))
    heard: list[bytes] = []
    group = BEACON_GROUP
    send = village._send

    def listen(sender: object, to: Address, payload: bytes, index: int | None = None) -> None:
        if to == group and sender is village.houses[A]:
            heard.append(payload)
        send(sender, to, payload, index=index)  # type: ignore[arg-type]

    village._send = listen  # type: ignore[method-assign]
    village.meet(A, B)
    village.run(3.0)
    assert bool(heard) is find_on_lan
    for payload in heard:
        village.inject(village.houses[A].address, village.houses[C], payload)
    assert village.houses[C].node.counters["unknown_gate"] == len(heard)
    if heard:
        source = Address("192.168.7.7", 5000)
        house = village.houses[B]
        house.node.handle_datagram(source, heard[-1], village.now)
        probed = [transmit.to for transmit in drain(house.node.poll_transmit)]
        village.settle(house)
        told = {attempt.remote for attempt in house.status(A, village.now).attempts}
        assert source in {*probed, *told}
