"""What an endpoint tells of itself: enough to be reached by, and news only where it is."""

from __future__ import annotations

import ipaddress

import pytest

from fabric.core.own_addresses import OwnAddresses
from fabric.wire.address import Address, CandidateKind, Transport
from fabric.wire.nat import Mapping, NatBehaviour
from fabric.wire.offer import MAX_CANDIDATES

EASY = NatBehaviour(Mapping.ENDPOINT_INDEPENDENT)
HARD = NatBehaviour(Mapping.ADDRESS_AND_PORT_DEPENDENT)
NO_UDP = NatBehaviour(carries_udp=False)
SEEN = Address("198.51.100.7", 5000)


class FakeReflexive:
    """What servers see, as a test sets it."""

    def __init__(self, nat: NatBehaviour) -> None:
        self.nat = nat
        self.addresses: tuple[Address, ...] = (SEEN,)

    def handle_hosts(self, ips: list[str]) -> None: ...

    def handle_moved(self, now: float) -> None: ...


def make_own(nat: NatBehaviour) -> OwnAddresses:
    own = OwnAddresses(FakeReflexive(nat))  # type: ignore[arg-type]
    own.handle_interfaces([ipaddress.ip_interface("192.168.1.2/24")], 4000, 0.0)
    return own


def tcp(*ports: int, ip: str = "198.51.100.7") -> tuple[Address, ...]:
    return tuple(Address(ip, port, Transport.TCP) for port in ports)


@pytest.mark.parametrize("nat", [HARD, NO_UDP])
def test_another_port_of_a_nat_that_has_one_for_each_connection_is_no_news(nat: NatBehaviour) -> None:
    own = make_own(nat)
    own.handle_tcp(tcp(5000, 5001))
    assert not own.handle_tcp(tcp(5000))
    assert not own.handle_tcp(tcp(5000, 5002))
    assert own.handle_tcp(tcp(5003, ip="198.51.100.8")), "another outside address is"


@pytest.mark.parametrize("nat", [EASY, NO_UDP])
def test_a_port_that_moved_is_news_where_there_is_one_for_all(nat: NatBehaviour) -> None:
    own = make_own(nat)
    own.handle_tcp(tcp(5000))
    assert own.handle_tcp(tcp(6000))
    assert tcp(6000)[0] in {candidate.address for candidate in own.candidates()}


def test_a_host_of_many_addresses_tells_first_where_servers_see_it() -> None:
    own = make_own(EASY)
    bridges = [ipaddress.ip_interface(f"172.{16 + i}.0.1/16") for i in range(40)]
    public = ipaddress.ip_interface("2001:db8::7/64")
    own.handle_interfaces([*bridges, public], 4000, 0.0)
    own.handle_listening(up=True)
    own.handle_tcp(tcp(5000))
    own.handle_mapped([Address("198.51.100.7", 7000), Address("198.51.100.7", 7001, Transport.TCP)])
    told = own.candidates()[:MAX_CANDIDATES]
    assert Address("2001:db8::7", 4000) in {candidate.address for candidate in told}
    kinds = {(candidate.kind, candidate.address.transport) for candidate in told}
    assert kinds == {
        (kind, transport)
        for kind in (CandidateKind.HOST, CandidateKind.REFLEXIVE, CandidateKind.MAPPED)
        for transport in (Transport.UDP, Transport.TCP)
    }


def test_a_host_of_many_addresses_tells_all_that_an_offer_has_room_for() -> None:
    own = make_own(EASY)
    own.handle_interfaces([ipaddress.ip_interface(f"172.{16 + i}.0.1/16") for i in range(40)], 4000, 0.0)
    assert len(own.candidates()) == MAX_CANDIDATES
    assert len(set(own.candidates())) == MAX_CANDIDATES
