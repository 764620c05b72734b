"""The laboratory's NATs do what their names say, measured with plain sockets after the ideas of RFC 5780; and the
product, which knows nothing of the laboratory, finds out the same.

      site of the kind under test                            two servers, two ports each
      [inside]----lan [router] wan----( internet )----[server-1] :7001 :7002    :3478 :3479
                                             |--------[server-2] :7001 :7002    :3478 :3479

Each server answers by sending back the source that it saw; on request it sends from the other port instead. On 3478 and
3479 answers the product's own STUN server, one that has both IPs, or only the first.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio

from discovery.core.limits import Rate, SourceBuckets
from discovery.shell.stun import StunServer
from fabric.core.machine import drain
from fabric.core.reflexive import Reflexive
from fabric.errors import DecodeError
from fabric.lab import Filtering, Host, Lab, Mapping, Nat, Site
from fabric.shell import clock
from fabric.wire import nat as wire
from fabric.wire.address import Address

PORTS = (7001, 7002)
QUIET_S = 0.3
STUN_PORTS = (3478, 3479)
SETTLED_WITHIN_S = 10.0
QUICKER = 10
"""How much faster the machine's clock goes where lifetimes are learned."""

LEARNED_S = 150.0
"""On that clock: a start, and tests of 25, 45 and again 45 s with all their tries."""


@dataclass
class World:
    lab: Lab
    servers: tuple[Host, Host]
    sites: dict[Nat, Site]
    insides: dict[Nat, Host]


@pytest.fixture(scope="module")
def world(lab: Lab) -> World:
    public = [lab.site(f"pub{number}", Nat.PUBLIC) for number in (1, 2)]
    servers = (public[0].host("server-1"), public[1].host("server-2"))
    sites = {kind: lab.site(kind.name.lower().replace("_", "")[:9], kind) for kind in Nat}
    insides = {kind: site.host(f"in-{site.name}") for kind, site in sites.items()}
    return World(lab, servers, sites, insides)


def udp(host: Host, port: int = 0) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((host.ip, port))
        made.settimeout(QUIET_S)
        return made

    return host.namespace.inside(make)


@pytest.fixture
def listening(world: World) -> Iterator[dict[tuple[int, int], socket.socket]]:
    """The servers' sockets, by server and port number."""
    made = {(index, port): udp(world.servers[index], port) for index in (0, 1) for port in PORTS}
    yield made
    for each in made.values():
        each.close()


def seen(inside: socket.socket, server: socket.socket, payload: bytes = b"?") -> tuple[str, int]:
    """The source address under which the server sees the inside socket."""
    inside.sendto(payload, server.getsockname())
    data, source = server.recvfrom(100)
    assert data == payload
    return source[0], source[1]


def arrives(sender: socket.socket, to: tuple[str, int], receiver: socket.socket) -> bool:
    sender.sendto(b"knock", to)
    try:
        return receiver.recv(100) == b"knock"
    except TimeoutError:
        return False


UDP_KINDS = [kind for kind in Nat if kind.carries_udp]


@pytest.mark.parametrize("kind", UDP_KINDS, ids=lambda kind: kind.name)
def test_mapping_is_that_of_the_kind(world: World, listening: dict[tuple[int, int], socket.socket], kind: Nat) -> None:
    host = world.insides[kind]
    with udp(host) as inside:
        mappings = [seen(inside, server) for server in listening.values()]
        own = inside.getsockname()
    match kind.mapping:
        case Mapping.NONE:
            assert set(mappings) == {own}
        case Mapping.ENDPOINT_INDEPENDENT:
            assert set(mappings) == {(str(world.sites[kind].wan.ip), own[1])}
        case Mapping.ENDPOINT_DEPENDENT:
            assert {address for address, _ in mappings} == {str(world.sites[kind].wan.ip)}
            assert len(set(mappings)) == len(mappings)


@pytest.mark.parametrize("kind", UDP_KINDS, ids=lambda kind: kind.name)
def test_filtering_is_that_of_the_kind(
    world: World, listening: dict[tuple[int, int], socket.socket], kind: Nat
) -> None:
    with udp(world.insides[kind]) as inside:
        outside = seen(inside, listening[0, 7001])
        answered = arrives(listening[0, 7001], outside, inside)
        other_port = arrives(listening[0, 7002], outside, inside)
        other_address = arrives(listening[1, 7001], outside, inside)
    assert answered
    anyone = kind.filtering in (Filtering.NONE, Filtering.ENDPOINT_INDEPENDENT)
    assert other_port == (anyone or kind.filtering is Filtering.ADDRESS_DEPENDENT)
    assert other_address == anyone


@pytest.mark.parametrize(
    "kind", [kind for kind in UDP_KINDS if kind.mapping is Mapping.ENDPOINT_INDEPENDENT], ids=lambda kind: kind.name
)
def test_an_early_probe_from_outside_does_not_move_the_mapping(
    world: World, listening: dict[tuple[int, int], socket.socket], kind: Nat
) -> None:
    wan = str(world.sites[kind].wan.ip)
    with udp(world.insides[kind]) as inside:
        port = inside.getsockname()[1]
        assert not arrives(listening[1, 7002], (wan, port), inside)
        assert seen(inside, listening[1, 7002]) == (wan, port)


def test_sequential_symmetric_counts_its_ports_up(
    world: World, listening: dict[tuple[int, int], socket.socket]
) -> None:
    with udp(world.insides[Nat.SEQUENTIAL]) as inside:
        ports = [seen(inside, server)[1] for server in listening.values()]
    assert ports == list(range(ports[0], ports[0] + len(ports)))


def test_random_symmetric_does_not_count(world: World, listening: dict[tuple[int, int], socket.socket]) -> None:
    with udp(world.insides[Nat.SYMMETRIC]) as inside:
        ports = [seen(inside, server)[1] for server in listening.values()]
    assert any(abs(later - earlier) > 8 for earlier, later in itertools.pairwise(ports))


@pytest.mark.parametrize("kind", [Nat.UDP_BLOCKED, Nat.WEB_ONLY], ids=lambda kind: kind.name)
def test_a_network_that_blocks_udp_lets_none_out(
    world: World, listening: dict[tuple[int, int], socket.socket], kind: Nat
) -> None:
    with udp(world.insides[kind]) as inside:
        assert not arrives(inside, listening[0, 7001].getsockname(), listening[0, 7001])


def connects(host: Host, to: Host, port: int) -> bool:
    def listen() -> socket.socket:
        return socket.create_server((to.ip, port))

    def call() -> bool:
        try:
            socket.create_connection((to.ip, port), timeout=QUIET_S).close()
        except TimeoutError:
            return False
        return True

    with to.namespace.inside(listen):
        return host.namespace.inside(call)


@pytest.mark.parametrize("kind", list(Nat), ids=lambda kind: kind.name)
def test_tcp_goes_out_where_the_kind_lets_it(world: World, kind: Nat) -> None:
    server = world.servers[0]
    assert connects(world.insides[kind], server, 443)
    assert connects(world.insides[kind], server, 8080) == (kind is not Nat.WEB_ONLY)


def test_private_addresses_lead_nowhere_on_the_internet(world: World) -> None:
    inside = world.insides[Nat.PORT_RESTRICTED]
    with udp(world.servers[0]) as outside, udp(inside) as target:
        assert not arrives(outside, target.getsockname(), target)


@pytest.mark.parametrize(
    "kind", [Nat.FIREWALL, Nat.FULL_CONE, Nat.PORT_RESTRICTED, Nat.CARRIER], ids=lambda kind: kind.name
)
def test_a_rebooted_router_has_forgotten_whom_it_let_in(
    world: World, listening: dict[tuple[int, int], socket.socket], kind: Nat
) -> None:
    with udp(world.insides[kind]) as inside:
        outside = seen(inside, listening[0, 7001])
        assert arrives(listening[0, 7001], outside, inside)
        world.sites[kind].reboot()
        assert not arrives(listening[0, 7001], outside, inside)


def test_a_renumbered_router_maps_to_its_new_address(
    world: World, listening: dict[tuple[int, int], socket.socket]
) -> None:
    site = world.lab.site("renumber", Nat.PORT_RESTRICTED)
    with udp(site.host("in-renumber")) as inside:
        before = seen(inside, listening[0, 7001])
        new = str(site.renumber())
        after = seen(inside, listening[0, 7001])
    assert before[0] != new
    assert after == (new, before[1])


@pytest.mark.parametrize("kind", [Nat.PORT_RESTRICTED, Nat.FULL_CONE, Nat.CARRIER], ids=lambda kind: kind.name)
def test_an_idle_mapping_ends_after_its_lifetime(
    world: World, listening: dict[tuple[int, int], socket.socket], kind: Nat
) -> None:
    site = world.lab.site(f"short-{kind.name[:4].lower()}", kind)
    site.shorten_mappings(1)
    with udp(site.host(f"in-{site.name}")) as inside:
        outside = seen(inside, listening[0, 7001])
        assert arrives(listening[0, 7001], outside, inside)
        socket_waits(inside, 2.5)
        assert not arrives(listening[0, 7001], outside, inside)
        inside.settimeout(QUIET_S)
        again = seen(inside, listening[0, 7001])
        assert arrives(listening[0, 7001], again, inside)


def socket_waits(quiet: socket.socket, seconds: float) -> None:
    """Lets real time pass: connection tracking has no clock of ours."""
    quiet.settimeout(seconds)
    with pytest.raises(TimeoutError):
        quiet.recv(100)
    quiet.settimeout(QUIET_S)


def test_two_hosts_behind_one_nat_see_each_other_without_it(world: World) -> None:
    site = world.lab.site("shared", Nat.PORT_RESTRICTED)
    first, second = site.host("first"), site.host("second")
    before = site.wan_counters()
    with udp(first) as one, udp(second) as other:
        assert seen(one, other) == one.getsockname()
    assert site.wan_counters().since(before).bytes == 0


def test_a_lossy_internet_loses_about_what_it_was_told_to(
    world: World, listening: dict[tuple[int, int], socket.socket]
) -> None:
    world.lab.lose(300)
    server = listening[0, 7001]
    with udp(world.insides[Nat.PUBLIC]) as inside:
        for _ in range(200):
            inside.sendto(b"x", server.getsockname())
        got = 0
        try:
            while server.recv(10):
                got += 1
        except TimeoutError:
            pass
        world.lab.lose(0)
        assert 100 < got < 180
        assert arrives(inside, server.getsockname(), server)


@asynccontextmanager
async def stun_server(*hosts: Host) -> AsyncIterator[Address]:
    """The product's STUN server, in one process with the IPs of all `hosts`. Yields its first address."""
    groups = [[udp(host, port) for host in hosts] for port in STUN_PORTS]
    for each in itertools.chain(*groups):
        each.setblocking(False)
    generous = SourceBuckets(Rate(1000.0, 1000.0))
    server = StunServer(groups[0], generous, clock.now, groups[1], [host.ip for host in hosts])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield Address(hosts[0].ip, STUN_PORTS[0])
        nursery.cancel_scope.cancel()
    for each in itertools.chain(*groups):
        each.close()


class Asker:
    """The product's own look at its NAT, from three sockets on a host."""

    def __init__(self, host: Host, servers: Sequence[Address], speed: float = 1.0) -> None:
        self.reflexive = Reflexive(os.urandom, interval_s=20.0)
        self.sent = 0
        self._speed = speed
        self._sockets = [udp(host) for _ in range(3)]
        self.reflexive.handle_hosts((host.ip,))
        self.reflexive.handle_servers(servers, self.now())

    def now(self) -> float:
        return clock.now() * self._speed

    async def run_until(self, is_over: Callable[[], bool], within_s: float) -> None:
        """Drives the machine; a test fails where it isn't over in time."""
        with trio.fail_after(within_s):
            async with trio.open_nursery() as nursery:
                for via, each in enumerate(self._sockets):
                    each.setblocking(False)
                    nursery.start_soon(self._listen, via, each)
                while not is_over():
                    self.reflexive.handle_timeout(self.now())
                    self._send()
                    await trio.sleep(0.005)
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    async def _listen(self, via: int, udp: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(udp)
            payload, (ip, port) = udp.recvfrom(2048)
            with suppress(DecodeError):
                self.reflexive.handle_datagram_untrusted(Address(ip, port, via=via), payload, self.now())
            self._send()

    def _send(self) -> None:
        for transmit in drain(self.reflexive.poll_transmit):
            self.sent += 1
            self._sockets[transmit.to.via].sendto(transmit.payload, (transmit.to.ip, transmit.to.port))


async def look(host: Host, server: Address) -> wire.NatBehaviour:
    asker = Asker(host, [server])
    try:
        await asker.run_until(lambda: asker.reflexive.is_settled, SETTLED_WITHIN_S)
    finally:
        asker.close()
    return asker.reflexive.nat


MAPPINGS = {
    Mapping.NONE: wire.Mapping.NONE,
    Mapping.ENDPOINT_INDEPENDENT: wire.Mapping.ENDPOINT_INDEPENDENT,
    Mapping.ENDPOINT_DEPENDENT: wire.Mapping.ADDRESS_AND_PORT_DEPENDENT,
}
FILTERINGS = {
    Filtering.NONE: wire.Filtering.ENDPOINT_INDEPENDENT,
    Filtering.ENDPOINT_INDEPENDENT: wire.Filtering.ENDPOINT_INDEPENDENT,
    Filtering.ADDRESS_DEPENDENT: wire.Filtering.ADDRESS_DEPENDENT,
    Filtering.ADDRESS_AND_PORT_DEPENDENT: wire.Filtering.ADDRESS_AND_PORT_DEPENDENT,
}


@pytest.mark.parametrize("kind", UDP_KINDS, ids=lambda kind: kind.name)
async def test_the_product_finds_out_what_the_kind_does(world: World, kind: Nat, figure: Callable[[str], None]) -> None:
    began = clock.now()
    async with stun_server(*world.servers) as server:
        found = await look(world.insides[kind], server)
    stride = 1 if kind is Nat.SEQUENTIAL else 0
    assert found == wire.NatBehaviour(MAPPINGS[kind.mapping], FILTERINGS[kind.filtering], stride)
    figure(f"{kind.label}: NAT behaviour known after {clock.now() - began:.2f} s")


@pytest.mark.parametrize("kind", UDP_KINDS, ids=lambda kind: kind.name)
async def test_a_server_with_one_ip_shows_all_but_the_widest_filter(world: World, kind: Nat) -> None:
    """Which it calls by the next worse name."""
    async with stun_server(world.servers[0]) as server:
        found = await look(world.insides[kind], server)
    expected = FILTERINGS[kind.filtering]
    if expected is wire.Filtering.ENDPOINT_INDEPENDENT:
        expected = wire.Filtering.ADDRESS_DEPENDENT
    stride = 1 if kind is Nat.SEQUENTIAL else 0
    assert found == wire.NatBehaviour(MAPPINGS[kind.mapping], expected, stride)


@pytest.mark.parametrize("kind", [Nat.UDP_BLOCKED, Nat.WEB_ONLY], ids=lambda kind: kind.name)
async def test_the_product_sees_that_udp_is_not_carried(world: World, kind: Nat) -> None:
    async with stun_server(*world.servers) as server:
        found = await look(world.insides[kind], server)
    assert found == wire.NatBehaviour(carries_udp=False)


async def test_a_tenth_of_loss_hides_no_kind(world: World) -> None:
    world.lab.lose(100)
    try:
        async with stun_server(*world.servers) as server:
            found = await look(world.insides[Nat.ADDRESS_RESTRICTED], server)
    finally:
        world.lab.lose(0)
    assert found.mapping is wire.Mapping.ENDPOINT_INDEPENDENT
    assert found.filtering is wire.Filtering.ADDRESS_DEPENDENT


@pytest.mark.parametrize("kind", [Nat.PORT_RESTRICTED, Nat.SYMMETRIC, Nat.FULL_CONE], ids=lambda kind: kind.name)
async def test_the_product_learns_how_long_an_idle_mapping_lives(world: World, kind: Nat) -> None:
    """Mappings live 3 s, and the machine's clock goes ten times as fast: 25 s are found, 45 s are too long."""
    site = world.lab.site(f"idle-{kind.name[:4].lower()}", kind)
    site.shorten_mappings(30 // QUICKER)
    async with stun_server(*world.servers) as server:
        asker = Asker(site.host(f"in-{site.name}"), [server], speed=QUICKER)
        end = asker.now() + LEARNED_S
        try:
            await asker.run_until(lambda: asker.now() > end, 2 * LEARNED_S / QUICKER)
        finally:
            asker.close()
    assert asker.reflexive.lifetime_s == 25.0
