"""Packets through realms and routers, and the oracle against plain punching in this world."""

from __future__ import annotations

import itertools
import random

import pytest

from fabric.core.status import PathKind
from tests.sim.link import UPLINK, Socket
from tests.sim.nat import Behaviour, Filtering, Mapping, PortChoice
from tests.sim.network import Host, Network
from tests.sim.oracle import TABLE, derived, expected_kind, guessable
from tests.sim.place import Access, Atlas, Place
from tests.sim.schedule import Schedule

PORT = 7000


class Puncher:
    """Answers to where things come from; what it sent to itself, on a LAN with the same addresses, does not count."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.heard_from: set[Socket] = set()
        self.echoed = False
        host.bind(PORT, self.receive)

    def send(self, to: Socket, word: bytes) -> None:
        self.host.send(PORT, to, word + b" of " + self.host.name.encode())

    def receive(self, source: Socket, payload: bytes) -> None:
        word, _, sender = payload.partition(b" of ")
        if sender == self.host.name.encode():
            return
        if word == b"echo":
            self.echoed = True
            return
        self.heard_from.add(source)
        self.send(source, b"echo")


class Mirror:
    """Remembers the address that each asker seems to have, as STUN tells it."""

    def __init__(self, network: Network, ip: str) -> None:
        self.host = network.make_host("mirror")
        self.host.join(network.internet, f"{ip}/16", UPLINK)
        self.address = (ip, 3478)
        self.seen: dict[bytes, Socket] = {}
        self.host.bind(3478, lambda source, payload: self.seen.__setitem__(payload, source))


def seated(network: Network, place: Place, name: str) -> Host:
    host = network.make_host(name)
    place.seat(host)
    return host


def punches(network: Network, atlas: Atlas, schedule: Schedule, one: Place, other: Place) -> bool:
    """Whether two plain punchers at these places end up with an echo on both sides."""
    mirror = Mirror(network, atlas.public_ip())
    left, right = Puncher(seated(network, one, "left")), Puncher(seated(network, other, "right"))
    for puncher in (left, right):
        puncher.host.send(PORT, mirror.address, puncher.host.name.encode())
    schedule.run_for(0.5)
    for _ in range(10):
        for me, him in ((left, right), (right, left)):
            reflexive = mirror.seen.get(him.host.name.encode())
            own = [(str(interface.ip), PORT) for interface in him.host.interfaces]
            seen = set() if reflexive is None else {reflexive}
            for candidate in sorted({*seen, *own, *me.heard_from}):
                me.send(candidate, b"probe")
        schedule.run_for(0.5)
    return left.echoed and right.echoed


def test_two_lans_of_one_range_do_not_see_each_other(network: Network, atlas: Atlas, schedule: Schedule) -> None:
    hosts = [seated(network, atlas.make(Access.FULL_CONE), name) for name in ("here", "there")]
    assert hosts[0].interfaces == hosts[1].interfaces
    got: list[bytes] = []
    hosts[1].bind(PORT, lambda _, payload: got.append(payload))
    hosts[0].send(PORT, (str(hosts[1].interfaces[0].ip), PORT), b"lost")
    schedule.run_for(1.0)
    assert got == []


def test_a_packet_crosses_two_nats_and_its_answer_finds_back(
    network: Network, atlas: Atlas, schedule: Schedule
) -> None:
    inner = seated(network, atlas.make(Access.CARRIER), "inner")
    server = seated(network, atlas.make(Access.PUBLIC), "server")
    answers: list[bytes] = []
    server.bind(53, lambda source, payload: server.send(53, source, payload[::-1]))
    inner.bind(PORT, lambda _, payload: answers.append(payload))
    inner.send(PORT, (str(server.interfaces[0].ip), 53), b"abc")
    schedule.run_for(1.0)
    assert answers == [b"cba"]


@pytest.mark.parametrize("hairpin", [True, False])
def test_hairpin_decides_whether_neighbours_reach_each_other_by_their_outside_addresses(
    network: Network, atlas: Atlas, schedule: Schedule, hairpin: bool
) -> None:
    place = atlas.make(Access.FULL_CONE, behaviour=Behaviour(filtering=Filtering.ENDPOINT_INDEPENDENT, hairpin=hairpin))
    hosts = [seated(network, place, name) for name in ("one", "two")]
    got: list[Socket] = []
    hosts[1].bind(8000, lambda source, _: got.append(source))
    nat_ip = next(iter(place.routers[0].own_ips))
    hosts[1].send(8000, ("203.0.113.9", 9), b"opens a mapping")
    schedule.run_for(1.0)
    hosts[0].send(PORT, (nat_ip, 8000), b"turn round")
    schedule.run_for(1.0)
    assert got == ([(nat_ip, PORT)] if hairpin else [])


def test_a_sleeping_or_moved_host_receives_nothing(network: Network, atlas: Atlas, schedule: Schedule) -> None:
    place = atlas.make(Access.PUBLIC)
    sender, receiver = seated(network, place, "sender"), seated(network, place, "receiver")
    got: list[bytes] = []
    receiver.bind(PORT, lambda _, payload: got.append(payload))
    to = (str(receiver.interfaces[0].ip), PORT)
    sender.send(PORT, to, b"awake")
    schedule.run_for(1.0)
    receiver.awake = False
    sender.send(PORT, to, b"asleep")
    schedule.run_for(1.0)
    receiver.awake = True
    receiver.leave_all()
    sender.send(PORT, to, b"gone")
    schedule.run_for(1.0)
    assert got == [b"awake"]


def test_a_renumbered_nat_answers_at_its_new_address_only(network: Network, atlas: Atlas, schedule: Schedule) -> None:
    place = atlas.make(Access.FULL_CONE)
    inner, outer = seated(network, place, "inner"), seated(network, atlas.make(Access.PUBLIC), "outer")
    seen: list[Socket] = []
    outer.bind(PORT, lambda source, _: seen.append(source))
    to = (str(outer.interfaces[0].ip), PORT)
    inner.send(PORT, to, b"before")
    schedule.run_for(1.0)
    place.renumber(new := atlas.public_ip())
    inner.send(PORT, to, b"after")
    schedule.run_for(1.0)
    assert [ip for ip, _ in seen] == [seen[0][0], new]
    assert seen[0][0] != new


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(Access, 2)))
def test_the_oracle_says_what_plain_punching_finds(
    network: Network, atlas: Atlas, schedule: Schedule, one: Access, other: Access
) -> None:
    places = atlas.make(one), atlas.make(other)
    assert punches(network, atlas, schedule, *places) is TABLE[one, other]
    assert TABLE[one, other] is TABLE[other, one] is derived(*places)


EXOTIC = [
    Behaviour(mapping=mapping, filtering=filtering, port_choice=PortChoice.RANDOM)
    for mapping in Mapping
    for filtering in (Filtering.ADDRESS_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(EXOTIC, 2)))
def test_the_oracle_is_right_about_nats_that_nobody_measured(
    network: Network, atlas: Atlas, schedule: Schedule, one: Behaviour, other: Behaviour
) -> None:
    places = (
        atlas.make(Access.SYMMETRIC, behaviour=one, lan="192.168.7.0/24"),
        atlas.make(Access.SYMMETRIC, behaviour=other, lan="10.0.0.0/24"),
    )
    assert punches(network, atlas, schedule, *places) is derived(*places)


@pytest.mark.parametrize("hairpin", [True, False])
def test_houses_behind_one_carrier_meet_only_if_it_turns_packets_round(
    network: Network, atlas: Atlas, schedule: Schedule, hairpin: bool
) -> None:
    first = atlas.make(Access.CARRIER, behaviour=Behaviour(port_choice=PortChoice.RANDOM, hairpin=hairpin))
    carrier = Place(Access.CARRIER, first.routers[0].outside, first.routers[1:], ["10.64.0.50/24"], first.line)
    second = atlas.make(Access.CARRIER, behind=carrier)
    assert punches(network, atlas, schedule, first, second) is hairpin is derived(first, second)


def test_neighbours_are_expected_to_use_their_lan(atlas: Atlas, chance: random.Random) -> None:
    place = atlas.make(Access.SYMMETRIC)
    assert expected_kind(place, place) is PathKind.LAN
    walled = atlas.make(Access.FIREWALL)
    assert expected_kind(walled, walled) is PathKind.DIRECT_UDP
    assert expected_kind(place, atlas.make(Access.SYMMETRIC)) is None
    assert expected_kind(place, atlas.make(Access.FULL_CONE)) is PathKind.DIRECT_UDP


def test_the_oracle_knows_what_comes_after_plain_punching(atlas: Atlas) -> None:
    symmetric, other_symmetric = atlas.make(Access.SYMMETRIC), atlas.make(Access.SEQUENTIAL)
    house, blocked, web_only = (atlas.make(a) for a in (Access.PORT_RESTRICTED, Access.UDP_BLOCKED, Access.WEB_ONLY))
    assert guessable(symmetric, house)
    assert not guessable(symmetric, other_symmetric)
    assert expected_kind(symmetric, house) is PathKind.DIRECT_UDP
    assert (
        expected_kind(blocked, house) is expected_kind(blocked, atlas.make(Access.UDP_BLOCKED)) is PathKind.DIRECT_TCP
    )
    assert expected_kind(blocked, symmetric, has_relays=True) is PathKind.RELAY_TLS
    assert expected_kind(symmetric, blocked, has_relays=True) is PathKind.RELAY_UDP
    assert expected_kind(web_only, atlas.make(Access.PUBLIC), has_relays=True) is PathKind.RELAY_TLS
    other_symmetric.forwards_ports = True
    assert expected_kind(symmetric, other_symmetric) is PathKind.DIRECT_UDP
    for place in (web_only, symmetric):
        atlas.add_ipv6(place)
    assert expected_kind(web_only, symmetric) is PathKind.DIRECT_UDP
