"""Each datagram goes its own way, and none that is full stops the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
import trio
import trio.testing

from fabric.dataplane.contract import Drop
from fabric.shell.carriers import Carriers
from fabric.shell.pump import Ways
from fabric.shell.tcp import TcpLinks
from fabric.shell.udp import UdpSockets, open_udp_sockets
from fabric.wire.address import Address, Target, Transport, target_of
from fabric.wire.relay import wrap_relayed


class Relays:
    """Takes `room` datagrams and no more."""

    def __init__(self, room: int = 1000) -> None:
        self.room = room
        self.taken: list[tuple[bytes, Target]] = []
        self.drops: Counter[Drop] = Counter()

    def send(self, payload: bytes, target: Target) -> bool:
        if len(self.taken) >= self.room:
            self.drops[Drop.HELD] += 1
            return False
        self.taken.append((payload, target))
        return True


class User:
    def __init__(self) -> None:
        self.up: list[Address] = []
        self.came: list[tuple[bytes, Target]] = []

    def handle_link(self, link: Address, asked: Address | None) -> None:
        self.up.append(link)

    def handle_link_lost(self, link: Address, why: str) -> None:
        self.up.remove(link)

    def handle_connect_failed(self, to: Address, why: str) -> None:
        raise AssertionError(why)

    def handle_listening(self, *, up: bool) -> None:
        pass

    def handle_tcp_reflexive(self, addresses: Sequence[Address]) -> None:
        raise AssertionError(addresses)


@pytest.fixture
def sockets() -> Iterator[tuple[UdpSockets, UdpSockets]]:
    both = open_udp_sockets(), open_udp_sockets()
    yield both
    for each in both:
        each.close()


async def joined(sockets: tuple[UdpSockets, UdpSockets], nursery: trio.Nursery) -> tuple[list[TcpLinks], list[User]]:
    """Returns connections of both, the first of which has connected to the second."""
    tcps = [TcpLinks(udp.port, udp.drops) for udp in sockets]
    users = [User(), User()]
    for tcp, user in zip(tcps, users, strict=True):
        tcp.attach(user, user.came.extend)
        await nursery.start(tcp.run)
    tcps[1].listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    tcps[0].connect(Address("127.0.0.1", sockets[1].port, Transport.TCP))
    await until(lambda: bool(users[0].up and users[1].up))
    return tcps, users


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not holds():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_mixed_batch_goes_every_way_in_one_go(
    sockets: tuple[UdpSockets, UdpSockets], nursery: trio.Nursery
) -> None:
    udp, other = sockets
    relays = Relays()
    tcps, users = await joined(sockets, nursery)
    tcps[1].vouch(users[1].up[0])
    carriers = Carriers(udp, tcps[0], relays)
    ways: Ways = carriers
    (via,) = carriers.open_extra(1)
    here = ("127.0.0.1", other.port)
    by_tls: Target = ("192.0.2.1", 443, Transport.RELAY_TLS, 5)
    batch: list[tuple[bytes, Target]] = [
        (b"\xf1 main", here),
        (b"\xf1 tcp 1", target_of(users[0].up[0])),
        (b"\xf1 relay", (*here, Transport.RELAY_UDP, 9)),
        (b"\xf1 tls", by_tls),
        (b"\xf1 side", (*here, Transport.UDP, via)),
        (b"\xf1 tcp 2", target_of(users[0].up[0])),
        (b"\xf1 last", here),
    ]
    assert ways.send_batch(batch) == len(batch)
    assert relays.taken == [(b"\xf1 tls", by_tls)]
    assert other.ipv4 is not None
    payloads: list[bytes] = []
    with trio.fail_after(5):
        while len(payloads) < 4:
            await trio.lowlevel.wait_readable(other.ipv4)
            payloads.append(other.ipv4.recv(100))
    assert payloads == [b"\xf1 main", wrap_relayed(9, b"\xf1 relay"), b"\xf1 side", b"\xf1 last"]
    await until(lambda: len(users[1].came) == 2)
    assert [payload for payload, _ in users[1].came] == [b"\xf1 tcp 1", b"\xf1 tcp 2"]
    assert not carriers.drops
    carriers.close_extra((via,))
    assert ways.send_batch([batch[4]]) == 1
    assert carriers.drops == {Drop.NO_PATH: 1}
    nursery.cancel_scope.cancel()


async def test_a_full_relay_or_connection_stops_nobody(
    sockets: tuple[UdpSockets, UdpSockets], nursery: trio.Nursery
) -> None:
    udp, other = sockets
    relays = Relays(room=2)
    tcps, users = await joined(sockets, nursery)
    carriers = Carriers(udp, tcps[0], relays)
    by_tls: Target = ("192.0.2.1", 443, Transport.RELAY_TLS, 5)
    link = target_of(users[0].up[0])
    clogging: list[tuple[bytes, Target]] = [(b"\xf1" + bytes(1400), link)] * 500 + [(b"\xf1", by_tls)] * 10
    assert carriers.send_batch([*clogging, (b"\xf1 main", ("127.0.0.1", other.port))]) == len(clogging) + 1
    assert carriers.drops[Drop.HELD] == 8
    assert not relays.drops
    assert carriers.drops[Drop.BACKPRESSURE] > 8
    assert set(carriers.drops) == {Drop.BACKPRESSURE, Drop.HELD}
    assert other.ipv4 is not None
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(other.ipv4)
    assert [payload for payload, _ in other.receive_batch(other.ipv4)] == [b"\xf1 main"]
    assert len(relays.taken) == 2
    nursery.cancel_scope.cancel()


async def test_what_core_says_on_a_connection_vouches_for_it(
    sockets: tuple[UdpSockets, UdpSockets], nursery: trio.Nursery
) -> None:
    tcps, users = await joined(sockets, nursery)
    accepting = Carriers(sockets[1], tcps[1])
    link = users[1].up[0]
    accepting.send_batch([(b"\xf1 unvouched", target_of(link))])
    assert accepting.drops == {Drop.NO_PATH: 1}
    accepting.transmit(link, b"\xf2 core's answer")
    await until(lambda: users[0].came)
    assert [payload for payload, _ in users[0].came] == [b"\xf2 core's answer"]
    nursery.cancel_scope.cancel()


def test_without_connections_or_relays_their_datagrams_are_counted(sockets: tuple[UdpSockets, UdpSockets]) -> None:
    carriers = Carriers(sockets[0])
    targets: list[Target] = [("192.0.2.1", 9, kind, 1) for kind in (Transport.TCP, Transport.RELAY_TLS)]
    assert carriers.send_batch([(b"\xf1", target) for target in targets]) == 2
    assert carriers.drops == {Drop.NO_PATH: 2}
    carriers.vouch([Address("192.0.2.1", 9, Transport.TCP, 1)])
