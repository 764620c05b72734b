"""The guard on real sockets of the loopback, under a clock of the test's own."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from fabric.core.gate import wrap
from fabric.dataplane.contract import Drop
from fabric.dataplane.pressure import HOLD_S, LOUDER
from fabric.dataplane.reference import ReferenceLane
from fabric.shell.flood_guard import MAX_ADDRESSED, SPAN_S, Addressed, FloodGuard
from fabric.shell.udp import UdpSockets, open_udp_sockets
from fabric.wire.address import Address, Transport
from fabric.wire.datagram import DATA_TYPE, GATED_TYPE
from fabric.wire.path import ProbeReply, encode_gated_message
from fabric.wire.relay import wrap_relayed
from tests.dataplane.pair import PAYLOAD_LIMIT, End, meet

NOISE = b"\x42" * 40
LOOPBACKS = ("127.0.0.1", "::1")


def gated(index: int) -> bytes:
    return struct.pack("!BxxxI", GATED_TYPE, index) + bytes(30)


def data(index: int) -> bytes:
    return struct.pack("!BxxxI", DATA_TYPE, index) + bytes(30)


class Site:
    """An endpoint's sockets and lane, what its pump would do by hand, and hosts around."""

    def __init__(self, udp: UdpSockets) -> None:
        self.udp = udp
        self.end, self.other = End(1), End(2)
        assert isinstance(self.end.lane, ReferenceLane)
        self.lane = self.end.lane
        self.gates: set[int] = set()
        self.guard = FloodGuard(self.lane, udp, lambda: self.gates)
        self.now = 1000.0
        self.hosts: list[socket.socket] = []

    def host(self, ip: str = "127.0.0.1") -> socket.socket:
        host = socket.socket(socket.AF_INET6 if ip_address(ip).version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        host.bind((ip, 0))
        self.hosts.append(host)
        return host

    def write_to(self, host: socket.socket) -> None:
        assert self.udp.send_batch([(NOISE, host.getsockname()[:2])]) == 1

    def pump(self) -> list[bytes]:
        """Returns what was read; a tenth of a second passes."""
        came: list[bytes] = []
        for udp in self.udp.sockets:
            while select.select([udp], [], [], 0)[0]:
                batch = self.udp.receive_batch(udp)
                came += [datagram for datagram, _ in batch]
                self.lane.handle_datagrams(batch, self.now)
        self.now += 0.1
        self.guard.look(self.now)
        return came

    def hears(self, host: socket.socket, datagram: bytes, times: int = 1) -> int:
        for _ in range(times):
            host.sendto(datagram, (host.getsockname()[0], self.udp.port))
        return self.pump().count(datagram)

    def flood(self, host: socket.socket, datagram: bytes = NOISE, steps: int = 3) -> None:
        for _ in range(steps):
            self.hears(host, datagram, int(LOUDER / 10) + 100)

    def pass_time(self, seconds: float) -> None:
        """With the looks of a pump that has nothing else to do."""
        until = self.now + seconds
        while self.now < until:
            self.now += 1.0
            self.guard.look(self.now)


@pytest.fixture
def site() -> Iterator[Site]:
    udp = open_udp_sockets()
    site = Site(udp)
    yield site
    for host in site.hosts:
        host.close()
    udp.close()


@pytest.mark.parametrize("ip", LOOPBACKS)
def test_in_peace_everybody_is_heard(site: Site, ip: str) -> None:
    stranger = site.host(ip)
    assert site.hears(stranger, NOISE, 100) == 100
    assert not site.guard.is_behind


@pytest.mark.parametrize("ip", LOOPBACKS)
def test_a_flood_is_dropped_unread_and_counted(site: Site, ip: str) -> None:
    stranger = site.host(ip)
    site.flood(stranger)
    before = site.lane.drops()[Drop.UNREAD]
    assert site.hears(stranger, NOISE, 50) == 0
    assert site.lane.drops()[Drop.UNREAD] == before + 50


@pytest.mark.parametrize("ip", LOOPBACKS)
def test_in_a_flood_who_was_written_to_is_heard(site: Site, ip: str) -> None:
    stranger, friend = site.host(), site.host(ip)
    site.write_to(friend)
    site.flood(stranger)
    assert site.hears(friend, NOISE, 20) == 20


def test_in_a_flood_who_is_written_to_now_is_heard_from_the_next_look_on(site: Site) -> None:
    stranger, friend = site.host(), site.host()
    site.flood(stranger)
    assert not site.guard.is_behind
    site.write_to(friend)
    assert site.guard.is_behind
    site.guard.look(site.now)
    assert not site.guard.is_behind
    assert site.hears(friend, NOISE) == 1


def test_in_a_flood_a_peer_from_elsewhere_is_heard_at_its_gate_and_in_its_session(site: Site) -> None:
    stranger, peer = site.host(), site.host()
    meet(site.end, site.other)
    (session,) = site.lane.indices
    site.gates.add(7)
    site.flood(stranger)
    assert site.hears(peer, gated(7)) == 1
    assert site.hears(peer, data(session)) == 1
    assert site.hears(peer, gated(8)) == 0
    assert site.hears(peer, data(session ^ 1)) == 0
    site.gates.add(8)
    site.guard.look(site.now)
    assert site.hears(peer, gated(8)) == 1


def test_where_records_go_to_is_known_although_another_thread_sends_them(site: Site) -> None:
    stranger, peer = site.host(), site.host()
    site.lane.admit(site.other.name, site.other.port())
    address = peer.getsockname()
    site.flood(stranger)
    assert site.hears(peer, NOISE) == 0
    site.lane.steer(site.other.name, Address(*address), PAYLOAD_LIMIT)
    site.guard.look(site.now)
    assert site.hears(peer, NOISE) == 1


def test_of_a_flood_at_an_open_gate_one_in_many_is_heard_and_friends_all_the_time(site: Site) -> None:
    stranger, friend = site.host(), site.host()
    site.gates.add(7)
    site.write_to(friend)
    site.flood(stranger, gated(7), steps=14)
    assert 0 < site.hears(stranger, gated(7), 1000) < 700
    assert site.hears(friend, gated(7), 20) == 20


@pytest.mark.parametrize("inside", [data(7), gated(7), NOISE])
def test_what_says_that_a_relay_carried_it_is_a_flood_as_well(site: Site, inside: bytes) -> None:
    stranger, relay = site.host(), site.host()
    site.write_to(relay)
    relayed = wrap_relayed(70, inside)
    site.flood(stranger, relayed)
    before = site.lane.drops()[Drop.UNREAD]
    site.hears(stranger, relayed, 50)
    assert site.lane.drops()[Drop.UNREAD] == before + 50
    site.hears(relay, relayed, 50)
    assert site.lane.drops()[Drop.UNREAD] == before + 50


def test_when_it_is_over_everybody_is_heard(site: Site) -> None:
    stranger = site.host()
    site.flood(stranger)
    site.pass_time(HOLD_S - 1)
    assert site.hears(stranger, NOISE) == 0
    site.pass_time(HOLD_S + 1)
    assert site.hears(stranger, NOISE) == 1


def test_who_was_written_to_is_forgotten_in_time() -> None:
    addressed = Addressed()
    addressed.age(1000.0)
    addressed.note("192.0.2.1", 1)
    addressed.age(1000.0 + SPAN_S + 1)
    addressed.note("192.0.2.2", 2)
    assert addressed.all() == [("192.0.2.2", 2), ("192.0.2.1", 1)]
    addressed.age(1000.0 + 2 * SPAN_S + 2)
    assert addressed.all() == [("192.0.2.2", 2)]


def test_relays_and_who_is_written_to_again_and_again_come_before_guesses() -> None:
    addressed = Addressed()
    addressed.age(1000.0)
    addressed.note("192.0.2.1", 3478, is_relay=True)
    addressed.note("192.0.2.2", 5)
    addressed.age(1000.0 + SPAN_S + 1)
    for port in range(1, MAX_ADDRESSED):
        addressed.note("192.0.2.9", port)
        if port == 100:
            addressed.note("192.0.2.2", 5)
    assert set(addressed.all()[:2]) == {("192.0.2.1", 3478), ("192.0.2.2", 5)}


def test_who_was_only_answered_when_it_probed_is_a_stranger_still(site: Site) -> None:
    """A peer may forge the address that it seems to probe from."""
    stranger, prober = site.host(), site.host()
    reply = ProbeReply(bytes(16), Address("127.0.0.1", 7))
    datagram = wrap(7, bytes(32), encode_gated_message(reply))
    assert site.udp.send_batch([(datagram, prober.getsockname())]) == 1
    site.flood(stranger)
    assert site.hears(prober, NOISE) == 0
    site.write_to(prober)
    site.guard.look(site.now + 1)
    assert site.hears(prober, NOISE) == 1


def test_what_a_side_socket_writes_to_answers_to_that_one(site: Site) -> None:
    (via,) = site.udp.side.open(1)
    stranger, peer = site.host(), site.host()
    target = (*peer.getsockname(), Transport.UDP, via)
    assert site.udp.send_batch([(NOISE, target)]) == 1
    site.flood(stranger)
    assert site.hears(peer, NOISE) == 0


def test_what_comes_by_a_side_socket_closes_nothing(site: Site) -> None:
    (via,) = site.udp.side.open(1)
    stranger = site.host()
    for _ in range(5):
        noise = [(NOISE, (*stranger.getsockname(), Transport.UDP, via))] * 2000
        site.lane.handle_datagrams(noise, site.now)
        site.pump()
    assert site.hears(stranger, NOISE) == 1
    assert Drop.UNREAD not in site.lane.drops()


def test_however_many_are_written_to_memory_is_bounded() -> None:
    addressed = Addressed()
    for port in range(60_000):
        addressed.note("192.0.2.1", port)
    assert len(addressed.all()) <= 2 * MAX_ADDRESSED + 2
    assert ("192.0.2.1", 59_999) in addressed.all()
