"""Beacons between hosts of one LAN: who hears them, where from, and who does not.

    ( internet )
   |            |
[router]     [router]
   | lan        | lan
   +-[alice]    +-[carol]
   +-[bob], two daemons' worth of listeners
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio

from fabric.lab import Host, Lab, Nat
from fabric.shell.links import read_underlay_links, watch_links
from fabric.shell.multicast import Multicast
from fabric.shell.udp import UdpSockets, open_udp_sockets
from fabric.wire.beacon import GROUP_4, GROUP_6, PORT

BEACON = b"\xf2\0\0\0" + b"\x11" * 40
IP_RECVTTL = 12  # linux/in.h
Heard = list[tuple[bytes, tuple[str, int]]]


class Station:
    """What a daemon on a host has for beacons: main sockets, and a `Multicast` that listens on its links."""

    def __init__(self, host: Host, links_of: str = "fabric0") -> None:
        self.host = host
        self.heard: Heard = []
        self.udp: UdpSockets = host.namespace.inside(open_udp_sockets)
        self.multicast: Multicast = host.namespace.inside(lambda: Multicast(self.heard.extend))
        links = host.namespace.inside(lambda: trio.run(read_underlay_links, links_of))
        self.multicast.update(links)

    def send(self, payload: bytes = BEACON) -> None:
        self.multicast.send(self.udp.ipv4, self.udp.ipv6, payload)

    def sources(self) -> set[tuple[str, int]]:
        assert self.host.address_6 is not None
        return {(self.host.ip, self.udp.port), (str(self.host.address_6.ip), self.udp.port)}

    def close(self) -> None:
        self.udp.close()
        self.multicast.close()


class Town:
    def __init__(self, lab: Lab) -> None:
        home, work = lab.site("home", Nat.PORT_RESTRICTED, ipv6=True), lab.site("work", Nat.PUBLIC, ipv6=True)
        self.alice, self.bob = Station(home.host("alice")), Station(home.host("bob"))
        self.other_bob = Station(self.bob.host)
        self.carol = Station(work.host("carol"))
        self.stations = (self.alice, self.bob, self.other_bob, self.carol)


@pytest.fixture
def town() -> Iterator[Town]:
    with Lab() as lab:
        made = Town(lab)
        yield made
        for station in made.stations:
            station.close()


async def until_heard(*stations: Station, count: int) -> None:
    with trio.fail_after(10):
        while any(len(station.heard) < count for station in stations):  # noqa: ASYNC110  nobody sets an event here
            await trio.sleep(0.01)


async def test_a_beacon_reaches_every_daemon_of_the_lan_and_tells_where_to_answer(town: Town) -> None:
    async with trio.open_nursery() as nursery:
        for station in town.stations:
            nursery.start_soon(station.multicast.run)
        town.alice.send()
        await until_heard(town.bob, town.other_bob, count=2)
        for station in (town.bob, town.other_bob):
            assert {payload for payload, _ in station.heard} == {BEACON}
            assert {source for _, source in station.heard} == town.alice.sources()
        # The answer goes to an ordinary socket, over the address that was heard.
        assert town.bob.udp.send_batch([(b"answer", source) for _, source in town.bob.heard]) == 2
        for udp in town.alice.udp.sockets:
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(udp)
            ((payload, source),) = town.alice.udp.receive_batch(udp)
            assert (payload, source[1]) == (b"answer", town.bob.udp.port)
        assert town.carol.heard == []
        assert town.alice.heard == []  # its own
        nursery.cancel_scope.cancel()


async def test_a_beacon_may_not_leave_the_lan_whatever_its_routers_do(town: Town) -> None:
    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        listener.bind((GROUP_4, PORT))
        listener.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP_4) + socket.inet_aton(town.bob.host.ip)
        )
        listener.settimeout(5)
        return listener

    with town.bob.host.namespace.inside(listen) as listener:
        town.alice.send()
        _, ancillary, _, _ = listener.recvmsg(2000, 100)
    assert [int.from_bytes(value, "little") for _, kind, value in ancillary if kind == socket.IP_TTL] == [1]


async def test_a_link_that_is_left_is_left(town: Town) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(town.bob.multicast.run)
        nursery.start_soon(town.other_bob.multicast.run)
        town.bob.multicast.update(())
        town.alice.send()
        await until_heard(town.other_bob, count=2)
        assert town.bob.heard == []
        town.alice.multicast.update(())
        sent = town.alice.multicast.sent
        town.alice.send()
        assert town.alice.multicast.sent == sent
        nursery.cancel_scope.cancel()


async def test_a_host_that_moves_is_heard_on_its_new_lan(town: Town) -> None:
    def follow() -> None:
        links = town.carol.host.namespace.inside(lambda: trio.run(read_underlay_links, "fabric0"))
        town.carol.multicast.update(links)

    town.carol.host.move(town.alice.host.site)
    follow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(town.carol.multicast.run)
        nursery.start_soon(town.bob.multicast.run)
        town.alice.send()
        town.carol.send()
        await until_heard(town.carol, town.bob, count=2)
        assert {source for _, source in town.carol.heard} == town.alice.sources()
        nursery.cancel_scope.cancel()


async def test_links_are_told_with_the_addresses_of_the_same_look(town: Town) -> None:
    told: list[object] = []

    async def watch() -> None:
        with trio.move_on_after(5) as scope:

            def handle(_: object) -> None:
                scope.cancel()

            await watch_links("fabric0", handle, handle_links=told.append)

    town.alice.host.namespace.inside(lambda: trio.run(watch))
    assert told == [town.alice.host.namespace.inside(lambda: trio.run(read_underlay_links, "fabric0"))]


async def test_what_is_sent_to_this_host_alone_is_no_beacon(town: Town) -> None:
    assert town.bob.host.address_6 is not None
    async with trio.open_nursery() as nursery:
        both = (town.bob, town.other_bob)  # of whom the kernel gives one what is for this host alone
        for station in both:
            nursery.start_soon(station.multicast.run)
        sender = town.alice.udp
        assert sender.ipv6 is not None
        assert sender.ipv4 is not None
        sender.ipv6.sendto(BEACON, (str(town.bob.host.address_6.ip), PORT))
        sender.ipv4.sendto(BEACON, (town.bob.host.ip, PORT))
        with trio.fail_after(5):
            while not any(station.multicast.dropped for station in both):  # noqa: ASYNC110
                await trio.sleep(0.01)
        sender.ipv6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, 2)
        sender.ipv6.sendto(BEACON, (GROUP_6, PORT, 0, 2))  # from whatever address the kernel takes: a link-local one
        town.alice.send(BEACON + b"behind it")
        await until_heard(*both, count=2)
        for station in both:
            assert {payload for payload, _ in station.heard} == {BEACON + b"behind it"}
        nursery.cancel_scope.cancel()
