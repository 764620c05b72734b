"""Bytes from anyone, and from everyone who was introduced, fed to nodes in the midst of their conversations.

What did not come from a peer, or not now, moves counters and nothing else: no event, no datagram, no record, no key.
What came from a peer, however mad, moves nothing of another peer's.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from fabric.core.events import LinkUnwanted, SocketsUnwanted
from fabric.core.machine import drain
from fabric.core.node import Node
from fabric.core.relays import ResolvedRelay
from fabric.core.status import PeerState
from fabric.dataplane.contract import Control, Traffic
from fabric.errors import DecodeError
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from fabric.wire.offer import Offer, encode_offer
from fabric.wire.path import OfferUpdate, Probe, ProbeReply, encode_control
from fabric.wire.rendezvous import (
    DeliverOffer,
    Introduction,
    RelayPlace,
    Renewed,
    Revocations,
    ToEndpoint,
    decode_to_endpoint,
    encode_message,
)
from tests.core.town import UNIX
from tests.core.village import House, Village

A, B, C = "a.home", "b.home", "c.home"
STRANGER = Address("203.0.113.66", 666)
STRANGE_WAYS = (
    Address("203.0.113.66", 666, Transport.UDP, 1),
    Address("203.0.113.66", 666, Transport.UDP, 77),
    Address("203.0.113.66", 666, Transport.TCP, 5),
    Address("203.0.113.66", 3478, Transport.RELAY_UDP),
    Address("203.0.113.66", 3478, Transport.RELAY_UDP, 99),
    Address("203.0.113.66", 443, Transport.RELAY_TLS, 3),
)
"""A spare socket, an extra one, a connection that was taken, and relays that nobody named."""

STAGES = (0.0, 0.035, 0.055, 0.085, 0.115, 0.135, 0.16, 5.0)
"""Instants of a first meeting: before anything, introductions, offers, probes, each message of the handshake, done."""

Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 1300))


def splice(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at + rng.randrange(1, 9) :]


MUTATIONS: tuple[Mutation, ...] = (flip, cut, extend, splice)


def mutated(data: bytes, rng: random.Random) -> bytes:
    while (other := rng.choice(MUTATIONS)(data, rng)) == data:
        pass
    return other


class Recorder(Village):
    """A village that remembers what went by."""

    def __init__(self, *names: str) -> None:
        self.sent: list[bytes] = []
        self.told: list[tuple[str, ToEndpoint]] = []
        super().__init__(*names)

    def _send(self, sender: House, to: Address, payload: bytes, index: int | None = None) -> None:
        if index is None:
            self.sent.append(payload)
        super()._send(sender, to, payload, index)

    def _say(self, name: str, message: ToEndpoint) -> None:
        self.told.append((name, message))
        super()._say(name, message)


def meeting(after_s: float) -> Recorder:
    """Returns two that began to meet so long ago."""
    village = Recorder(A, B)
    for one, two in ((A, B), (B, A)):
        village.houses[one].node.add(two, None, village.now)
        village.settle(village.houses[one])
    village.run(after_s)
    return village


def papers(village: Recorder) -> list[tuple[str, Introduction | DeliverOffer | Renewed | Revocations]]:
    """Returns what the two ends signed and the service carried, with the name of the recipient."""
    return [(name, message) for name, message in village.told if isinstance(message, Introduction | DeliverOffer)]


def said(house: House) -> list[object]:
    """Everything that the node and its lane want to tell the world; empty after a settled call."""
    node = house.node
    polled = [*drain(node.poll_event), *drain(node.poll_transmit), *drain(node.poll_message)]
    return [*polled, *house.lane.said]


def standing(house: House, now: float, peer: str | None = None) -> object:
    """Everything that could have changed, but for counters; of one peer, or of all."""
    lane = house.lane
    keys = {index: k for index, k in lane.keys.items() if peer in (None, k.peer)}
    steered = {name: to for name, to in lane.steered.items() if peer in (None, name)}
    statuses = [s for s in house.node.status(now) if peer in (None, s.name)]
    records = {name: record for name, record in house.records.items() if peer in (None, name)}
    when = house.node.next_timeout() if peer is None else None
    return keys, steered, statuses, records, when


@pytest.mark.parametrize("stage", STAGES)
def test_strangers_move_counters_and_nothing_else(stage: float) -> None:
    village = meeting(stage)
    rng = random.Random(int(stage * 1000))
    genuine = village.sent or [rng.randbytes(100)]
    heads = (
        b"\xf2\0\0\0",
        b"\xf1\0\0\0",
        b"\xf3\0\0\0",
        *(bytes((0xF4, kind, 0, 0)) for kind in range(8)),
        b"\x01\x01\0\x0c\x21\x12\xa4\x42",
        b"\0\x01\0\0\x21\x12\xa4\x42",
        b"",
    )
    noise = [rng.choice(heads) + rng.randbytes(rng.randrange(1300)) for _ in range(100)]
    noise += [mutated(rng.choice(genuine), rng) for _ in range(300)]
    sources = (STRANGER, *STRANGE_WAYS, village.houses[A].address, village.houses[B].address)
    for house in village.houses.values():
        before, counted = standing(house, village.now), house.node.counters.total()
        for payload in noise:
            house.node.handle_datagram(rng.choice(sources), payload, village.now)
            assert said(house) == []
        assert standing(house, village.now) == before
        assert house.node.counters.total() == counted + len(noise)


def report_anything(node: Node, number: int, rng: random.Random, now: float) -> None:
    """What a driver may say of ways that nobody asked for."""
    way = rng.choice(STRANGE_WAYS)
    link = Address(way.ip, way.port, Transport.TCP, 1000 + number)
    match number % 9:
        case 0:
            node.handle_link(link, None, now)
        case 1:
            node.handle_link(link, Address(way.ip, way.port, Transport.TCP), now)
        case 2:
            node.handle_link_lost(link, now)
        case 3:
            node.handle_connect_failed(link, "refused", now)
        case 4:
            node.handle_sockets((900 + number,), now)
        case 5:
            node.handle_relay_link(way, up=rng.random() < 0.5, now=now)
        case 6:
            node.handle_relays([ResolvedRelay(RelayPlace("nowhere.example", 1, 1), ("192.0.2.1",))], now)
        case 7:
            node.handle_too_long([(way, 1400)], now)
        case _:
            node.handle_service_lost(5000 + number, now)


@pytest.mark.parametrize("stage", STAGES)
def test_ways_that_nobody_asked_for_come_and_go_without_a_trace(stage: float) -> None:
    """Connections of strangers, ends of attempts that were none, relays that nobody named."""
    village = meeting(stage)
    rng = random.Random(int(stage * 1000) + 7)
    for house in village.houses.values():
        keys, steered = dict(house.lane.keys), dict(house.lane.steered)
        for number in range(200):
            report_anything(house.node, number, rng, village.now)
            assert all(isinstance(event, LinkUnwanted | SocketsUnwanted) for event in said(house))
        assert (house.lane.keys, house.lane.steered) == (keys, steered)
    village.run(5.0)
    states = [status.state for house in village.houses.values() for status in house.node.status(village.now)]
    assert states == [PeerState.CONNECTED, PeerState.CONNECTED]


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_service_that_alters_what_it_carries_moves_nothing(stage: float) -> None:
    village = meeting(stage)
    rng = random.Random(int(stage * 1000) + 1)
    genuine = papers(meeting(5.0))
    genuine += [(name, Renewed(village.town.identity(name).certificate.der)) for name in (A, B)]
    genuine += [(A, Revocations(village.town.authority.issue_crl({}, 1, 0.0, 1e10)))]
    for _ in range(200):
        name, message = rng.choice(genuine)
        house = village.houses[name]
        field = rng.choice([f for f in message.__struct_fields__ if f not in ("peer", "sender")])
        altered = msgspec.structs.replace(message, **{field: mutated(getattr(message, field), rng)})
        records, keys = dict(house.records), dict(house.lane.keys)
        house.node.handle_service_message(1, altered, village.now)
        village.settle(house)
        kept = {name: msgspec.structs.replace(r, offered_ms=0) for name, r in house.records.items()}
        assert kept == {name: msgspec.structs.replace(r, offered_ms=0) for name, r in records.items()}
        assert house.lane.keys == keys
    assert village.run_until(lambda: village.are_connected(A, B), 60.0)


def test_altered_papers_of_a_connected_peer_are_not_even_seen() -> None:
    village = meeting(5.0)
    rng = random.Random(5)
    genuine = papers(village)
    for _ in range(300):
        name, message = rng.choice(genuine)
        house = village.houses[name]
        field = rng.choice([f for f in message.__struct_fields__ if f not in ("peer", "sender")])
        before = standing(house, village.now)
        altered = msgspec.structs.replace(message, **{field: mutated(getattr(message, field), rng)})
        house.node.handle_service_message(1, altered, village.now)
        assert said(house) == []
        assert standing(house, village.now) == before


@pytest.mark.parametrize("seed", range(3))
def test_a_service_that_says_anything_at_all_breaks_nothing(seed: int) -> None:
    """Every message that decodes, whatever it says: nothing but the declared may come of it."""
    village = meeting(5.0)
    rng = random.Random(seed)
    wire = [encode_message(message) for _, message in village.told]
    for _ in range(1000):
        try:
            message = decode_to_endpoint(mutated(rng.choice(wire), rng))
        except DecodeError:
            continue
        house = village.houses[rng.choice((A, B))]
        house.node.handle_service_message(1, message, village.now)
        village.settle(house)
        if not house.node.is_service_up:
            village.connect(house)
            village.run(0.1)
    village.run(10.0)
    assert village.are_connected(A, B), "a session is not the service's to end"


def mad_control(rng: random.Random, genuine: list[bytes]) -> bytes:
    addresses = [Address(f"203.0.113.{rng.randrange(256)}", rng.randrange(1, 65536)) for _ in range(24)]
    candidates = tuple(Candidate(rng.choice(list(CandidateKind)), address) for address in addresses)
    created_ms = rng.choice((rng.getrandbits(61), int((UNIX + 60) * 1000) + rng.randrange(60_000)))
    offer = Offer(created_ms, rng.getrandbits(32), rng.randbytes(32), True, candidates)
    choices = (
        encode_control(OfferUpdate(encode_offer(offer))),
        encode_control(Probe(rng.randbytes(16))),
        encode_control(ProbeReply(rng.randbytes(16), addresses[0])),
        rng.randbytes(rng.randrange(60)),
        mutated(rng.choice(genuine), rng),
    )
    return rng.choice(choices)


@pytest.mark.parametrize("seed", range(2))
def test_a_peer_gone_mad_is_nothing_to_another_peer(seed: int) -> None:
    village = Village(A, B, C)
    village.meet(A, B)
    village.meet(A, C)
    rng = random.Random(seed)
    house = village.houses[A]
    genuine = [encode_control(Probe(bytes(16))), b"\x03\x01", b"\x03\x02"]
    village.datagrams.clear()
    for _ in range(200):
        before = standing(house, village.now, C)
        indices = [index for index, keys in house.lane.keys.items() if keys.peer == B] or [7]
        index, source = rng.choice(indices), Address(f"192.0.2.{rng.randrange(256)}", 7)
        house.node.handle_traffic([Traffic(B, index, 1, 0, village.now, None, 0, source)], village.now)
        house.node.handle_control(Control(B, index, mad_control(rng, genuine), source), village.now)
        village.settle(house)
        assert standing(house, village.now, C) == before
        village.run(0.02)
    assert village.are_connected(A, C)
    assert village.datagrams[A] < 4000, "four seconds of one peer's madness"
    village.run(300.0)
    assert village.are_connected(A, C)
