"""The NAT tables against RFC 4787, requirement by requirement."""

from __future__ import annotations

import random

import pytest

from tests.sim.link import Packet, Socket
from tests.sim.nat import Behaviour, Filtering, FirewallTable, Mapping, NatTable, PortChoice

INSIDE = ("192.168.1.2", 5000)
ALICE, ALICE_OTHER_PORT, BOB = ("192.0.2.1", 10), ("192.0.2.1", 11), ("192.0.2.2", 10)
NAT_IP = "198.51.100.1"


def make(chance: random.Random, **behaviour: object) -> NatTable:
    return NatTable(NAT_IP, Behaviour(**behaviour), chance)  # type: ignore[arg-type]


def go_out(table: NatTable, to: Socket, now: float = 0.0, inside: Socket = INSIDE) -> Socket:
    packet = table.outbound(Packet(inside, to, b""), now)
    assert packet is not None
    assert packet.source[0] == NAT_IP
    return packet.source


def comes_in(table: NatTable, source: Socket, to: Socket, now: float = 0.0) -> bool:
    packet = table.inbound(Packet(source, to, b""), now)
    assert packet is None or packet.destination == INSIDE
    return packet is not None


@pytest.mark.parametrize(
    ("mapping", "same_for_port", "same_for_ip"),
    [
        (Mapping.ENDPOINT_INDEPENDENT, True, True),
        (Mapping.ADDRESS_DEPENDENT, True, False),
        (Mapping.ADDRESS_AND_PORT_DEPENDENT, False, False),
    ],
)
def test_a_mapping_depends_on_what_its_name_says(
    chance: random.Random, mapping: Mapping, same_for_port: bool, same_for_ip: bool
) -> None:
    table = make(chance, mapping=mapping, port_choice=PortChoice.SEQUENTIAL)
    first = go_out(table, ALICE)
    assert go_out(table, ALICE) == first
    assert (go_out(table, ALICE_OTHER_PORT) == first) is same_for_port
    assert (go_out(table, BOB) == first) is same_for_ip


@pytest.mark.parametrize(
    ("filtering", "other_port", "stranger"),
    [
        (Filtering.ENDPOINT_INDEPENDENT, True, True),
        (Filtering.ADDRESS_DEPENDENT, True, False),
        (Filtering.ADDRESS_AND_PORT_DEPENDENT, False, False),
    ],
)
def test_a_filter_lets_in_whom_its_name_says(
    chance: random.Random, filtering: Filtering, other_port: bool, stranger: bool
) -> None:
    table = make(chance, filtering=filtering)
    outside = go_out(table, ALICE)
    assert comes_in(table, ALICE, outside)
    assert comes_in(table, ALICE_OTHER_PORT, outside) is other_port
    assert comes_in(table, BOB, outside) is stranger


def test_nothing_comes_in_where_nothing_went_out(chance: random.Random) -> None:
    assert not comes_in(make(chance, filtering=Filtering.ENDPOINT_INDEPENDENT), ALICE, (NAT_IP, 5000))


def test_an_idle_mapping_ends_and_the_next_one_may_differ(chance: random.Random) -> None:
    table = make(chance, lifetime_s=30.0, port_choice=PortChoice.SEQUENTIAL)
    outside = go_out(table, ALICE, 0.0)
    assert comes_in(table, ALICE, outside, 30.0)
    assert comes_in(table, ALICE, outside, 60.0), "inbound traffic refreshes"
    assert not comes_in(table, ALICE, outside, 90.1)
    assert go_out(table, ALICE, 91.0) != outside


def test_inbound_traffic_refreshes_only_where_the_nat_does_that(chance: random.Random) -> None:
    table = make(chance, lifetime_s=30.0, inbound_refreshes=False)
    outside = go_out(table, ALICE, 0.0)
    assert comes_in(table, ALICE, outside, 29.0)
    assert not comes_in(table, ALICE, outside, 31.0)


def test_a_permission_ends_alone_while_the_mapping_lives(chance: random.Random) -> None:
    table = make(chance, lifetime_s=30.0)
    outside = go_out(table, ALICE, 0.0)
    for now in (10.0, 20.0, 30.0, 40.0):
        assert go_out(table, BOB, now) == outside
    assert not comes_in(table, ALICE, outside, 40.0)
    assert comes_in(table, BOB, outside, 40.0)


def test_a_preserved_port_moves_only_when_another_host_has_it(chance: random.Random) -> None:
    table = make(chance, port_choice=PortChoice.PRESERVE)
    assert go_out(table, ALICE)[1] == INSIDE[1]
    assert go_out(table, ALICE, inside=("192.168.1.3", INSIDE[1]))[1] == INSIDE[1] + 1


def test_a_reboot_forgets_mappings(chance: random.Random) -> None:
    table = make(chance, filtering=Filtering.ENDPOINT_INDEPENDENT)
    outside = go_out(table, ALICE)
    table.forget_all()
    assert not comes_in(table, ALICE, outside)


def test_a_firewall_translates_nothing_and_lets_answers_in() -> None:
    table = FirewallTable(lifetime_s=30.0)
    sent = Packet(INSIDE, ALICE, b"x")
    answer = Packet(ALICE, INSIDE, b"y")
    assert table.inbound(answer, 0.0) is None
    assert table.outbound(sent, 0.0) == sent
    assert table.inbound(answer, 30.0) == answer
    assert table.inbound(Packet(ALICE_OTHER_PORT, INSIDE, b"z"), 30.0) is None
    assert table.inbound(answer, 60.1) is None
