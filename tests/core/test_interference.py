"""What one peer's words, losses and end do to others, to the host's sockets, and to what the other end knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabric.core.events import LinkUnwanted, SocketsUnwanted
from fabric.core.guessing import SOCKETS
from fabric.core.machine import drain
from fabric.core.records import PeerRecord
from fabric.core.relays import ResolvedRelay
from fabric.identity.grant import grant_id
from fabric.wire.address import Address, Transport
from fabric.wire.offer import Offer, decode_offer
from fabric.wire.relay import Bound, encode_relay_message
from fabric.wire.relay import Challenge as RelayChallenge
from fabric.wire.rendezvous import Granted, RelayPlace
from tests.core.village import House, Village

A, B, C = "a.home", "b.home", "c.home"
DOOR = Address("198.51.100.77", 5000, Transport.TCP)
LINK = Address("198.51.100.77", 5000, Transport.TCP, via=16)
MAPPED = Address("203.0.113.5", 4242)


def offer_of(record: PeerRecord) -> Offer:
    assert record.offer is not None
    return decode_offer(record.offer)


def test_an_offer_that_is_lost_in_the_session_arrives_all_the_same() -> None:
    village = Village(A, B)
    village.meet(A, B)
    village.run(10.0)
    village.drop = lambda source, _target: source == A
    a = village.houses[A]
    a.node.handle_mapped([MAPPED], village.now)
    village.settle(a)
    village.run(0.5)
    village.drop = lambda _source, _target: False
    village.run(5.0)
    told = offer_of(village.houses[B].records[A])
    assert MAPPED in {candidate.address for candidate in told.candidates}


def test_an_offer_is_taken_once_however_often_it_is_told() -> None:
    village = Village(A, B)
    village.meet(A, B)
    village.run(60.0)
    b = village.houses[B]
    before = len(b.told)
    village.houses[A].node.handle_mapped([MAPPED], village.now)
    village.settle(village.houses[A])
    village.run(10.0)
    stored = [event for event in b.told[before:] if getattr(event, "record", None) is not None]
    assert len(stored) == 1


def name_door(village: Village, by: str) -> House:
    """`by` tells that it is reached over TCP at `DOOR`."""
    house = village.houses[by]
    house.node.handle_tcp_reflexive([DOOR], village.now)
    house.node.handle_listening(up=True, now=village.now)
    village.settle(house)
    return house


def test_a_peer_that_names_anothers_address_cannot_have_its_connection_closed() -> None:
    village = Village(A, B, C)
    village.meet(A, B)
    village.meet(A, C)
    for name in (B, C):
        name_door(village, name)
    village.run(5.0)
    a = village.houses[A]
    honest = a.node._peers[B]
    a.node.handle_link(LINK, DOOR, village.now)
    honest._paths.handle_proven(LINK, village.now)
    village.settle(a)
    before = len(a.told)
    a.node.remove(C, village.now)
    village.settle(a)
    assert LinkUnwanted(LINK) not in a.told[before:]
    a.node.remove(B, village.now)
    village.settle(a)
    assert LinkUnwanted(LINK) in a.told[before:]


@pytest.mark.parametrize("are_lent", [False, True])
def test_the_end_of_a_peer_gives_back_the_sockets_that_were_lent_for_it(are_lent: bool) -> None:
    village = Village(A, B)
    village.meet(A, B)
    a = village.houses[A]
    peer = a.node._peers[B]
    peer._paths.pause()
    peer._opener.wants_sockets = True
    a.node._then.settle_peer(peer, village.now)
    village.settle(a)
    vias = tuple(range(16, 16 + SOCKETS))
    if are_lent:
        a.node.handle_sockets(vias, village.now)
        a.node.remove(B, village.now)
    else:
        a.node.remove(B, village.now)
        a.node.handle_sockets(vias, village.now)
    village.settle(a)
    given_back = [via for event in a.told if isinstance(event, SocketsUnwanted) for via in event.vias]
    assert sorted(given_back) == list(vias)


def test_a_channel_of_a_relay_is_a_path_as_soon_as_it_stands() -> None:
    village = Village(A, B)
    village.meet(A, B)
    a = village.houses[A]
    place, relay = RelayPlace("relay.test", 3478, 443), Address("203.0.113.9", 3478, Transport.RELAY_UDP)
    grant = b"a grant"
    village.tell(A, Granted(B, grant, (place,)))
    village.run(0.1)
    a.node.handle_relays([ResolvedRelay(place, (relay.ip,))], village.now)
    for answer in (RelayChallenge(grant_id(grant), b"c" * 16), Bound(grant_id(grant), 77, 60)):
        a.node.handle_timeout(village.now)
        assert [t for t in drain(a.node.poll_transmit) if t.to == relay]
        a.node.handle_datagram(relay, encode_relay_message(answer), village.now)
    assert replace(relay, via=77) in {attempt.remote for attempt in a.status(B, village.now).attempts}
