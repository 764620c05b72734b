"""The UDP sockets on the loopback: one port for both families, and nothing that the network does ends them."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from fabric.dataplane.contract import Drop
from fabric.errors import ConfigurationError
from fabric.shell.udp import BATCH, MAX_TOO_LONG, UdpSockets, open_udp_sockets
from fabric.wire.address import Target, Transport
from fabric.wire.relay import wrap_relayed


@pytest.fixture
def udp() -> Iterator[UdpSockets]:
    opened = open_udp_sockets()
    yield opened
    opened.close()


@pytest.fixture
def other() -> Iterator[UdpSockets]:
    opened = open_udp_sockets()
    yield opened
    opened.close()


async def received(udp: UdpSockets, by: socket.socket | None) -> list[tuple[bytes, Target]]:
    assert by is not None
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(by)
    return udp.receive_batch(by)


def test_both_families_are_on_one_port(udp: UdpSockets) -> None:
    assert {each.getsockname()[1] for each in udp.sockets} == {udp.port}
    assert udp.ipv4 is not None


def test_a_port_that_is_taken_is_the_operators_mistake(udp: UdpSockets) -> None:
    with pytest.raises(ConfigurationError, match=str(udp.port)):
        open_udp_sockets(udp.port)


async def test_datagrams_cross_in_batches_with_their_sources(udp: UdpSockets, other: UdpSockets) -> None:
    batch = [(bytes((n,)) * 1400, ("127.0.0.1", other.port)) for n in range(10)]
    assert udp.send_batch(batch) == 10
    assert await received(other, other.ipv4) == [(payload, ("127.0.0.1", udp.port)) for payload, _ in batch]


async def test_ipv6_sources_are_ip_and_port_only(udp: UdpSockets, other: UdpSockets) -> None:
    if udp.ipv6 is None or udp.send_batch([(b"six", ("::1", other.port))]) != 1 or udp.drops:
        pytest.skip("this host has no IPv6 loopback")
    assert await received(other, other.ipv6) == [(b"six", ("::1", udp.port))]


async def test_a_batch_is_bounded(udp: UdpSockets, other: UdpSockets) -> None:
    udp.send_batch([(b"x", ("127.0.0.1", other.port))] * (BATCH + 5))
    assert len(await received(other, other.ipv4)) == BATCH
    assert len(await received(other, other.ipv4)) == 5


async def test_what_cannot_be_sent_is_counted_and_the_rest_goes_on(udp: UdpSockets, other: UdpSockets) -> None:
    here = ("127.0.0.1", other.port)
    batch = [
        (b"first", here),
        (b"to nowhere", ("255.255.255.255", 9)),
        (bytes(65_536), here),
        (b"port of nobody", ("127.0.0.1", 0)),
        (b"last", here),
    ]
    assert udp.send_batch(batch) == len(batch)
    assert [payload for payload, _ in await received(other, other.ipv4)] == [b"first", b"last"]
    assert udp.drops == {Drop.NO_PATH: 2, Drop.OVERSIZE: 1}


async def test_a_refused_datagram_does_not_spoil_the_next(udp: UdpSockets, other: UdpSockets) -> None:
    gone = open_udp_sockets()
    gone.close()
    for _ in range(3):
        assert udp.send_batch([(b"to nobody", ("127.0.0.1", gone.port))]) == 1
    assert udp.send_batch([(b"to somebody", ("127.0.0.1", other.port))]) == 1
    assert udp.ipv4 is not None
    assert udp.receive_batch(udp.ipv4) == []
    assert [payload for payload, _ in await received(other, other.ipv4)] == [b"to somebody"]


class ScriptedSocket(socket.socket):
    """Raises the given errors, one a send, before it sends at all."""

    errors: list[int]

    def sendto(self, *arguments: Any) -> int:
        if self.errors:
            raise OSError(self.errors.pop(0), "as scripted")
        return int(super().sendto(*arguments))


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([errno.ENOBUFS], Drop.BACKPRESSURE),
        ([errno.EMSGSIZE], Drop.OVERSIZE),
        ([errno.ENETUNREACH], Drop.NO_PATH),
        ([errno.EPERM], Drop.NO_PATH),
        ([errno.ECONNREFUSED], None),
        ([errno.ECONNREFUSED, errno.EHOSTUNREACH], Drop.NO_PATH),
    ],
)
def test_each_refusal_of_the_kernel_has_its_counter(errors: list[int], reason: Drop | None) -> None:
    raw = ScriptedSocket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    raw.bind(("127.0.0.1", 0))
    raw.errors = errors
    udp = UdpSockets(raw, None)
    try:
        assert udp.send_batch([(b"x", ("127.0.0.1", udp.port))]) == 1
        assert udp.drops == ({} if reason is None else {reason: 1})
        assert udp.send_batch([(b"y", ("::1", udp.port))]) == 1
        assert udp.drops[Drop.NO_PATH] >= 1
    finally:
        udp.close()


def test_a_full_queue_stops_the_batch_where_it_is() -> None:
    raw = ScriptedSocket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    raw.bind(("127.0.0.1", 0))
    raw.errors = []
    udp = UdpSockets(raw, None)
    batch = [(b"x", ("127.0.0.1", udp.port))] * 5
    try:
        raw.errors = [errno.EAGAIN]
        assert udp.send_batch(batch, 2) == 2
        assert udp.send_batch(batch, 2) == 5
        assert not udp.drops
    finally:
        udp.close()


def test_no_socket_lets_a_datagram_be_cut(udp: UdpSockets) -> None:
    probe = 3  # IP_PMTUDISC_PROBE of linux/in.h
    assert udp.ipv4 is not None
    for each in (udp.ipv4, udp.side.socket_of(1), udp.side.socket_of(2)):
        assert each is not None
        assert each.getsockopt(socket.IPPROTO_IP, 10) == probe
    if udp.ipv6 is not None:
        assert udp.ipv6.getsockopt(socket.IPPROTO_IPV6, 23) == probe


def test_what_the_own_device_cannot_carry_is_told_once_a_target_and_bounded(udp: UdpSockets) -> None:
    long = bytes(65_600)
    peer: Target = ("127.0.0.1", 9)
    channel: Target = ("127.0.0.1", 9, Transport.RELAY_UDP, 5)
    assert udp.send_batch([(long, peer), (long, channel), (long[:-1], peer), (long, peer)]) == 4
    assert udp.has_too_long
    assert udp.take_too_long() == [(peer, 65_599), (channel, 65_600)]
    assert not udp.has_too_long
    assert udp.send_batch([(long, ("127.0.0.1", 1 + port)) for port in range(2 * MAX_TOO_LONG)]) == 2 * MAX_TOO_LONG
    assert len(udp.take_too_long()) == MAX_TOO_LONG
    assert udp.drops == {Drop.OVERSIZE: 4 + 2 * MAX_TOO_LONG}


# relays


async def test_what_goes_to_a_channel_is_wrapped_and_what_goes_to_the_relay_is_not(
    udp: UdpSockets, other: UdpSockets
) -> None:
    channel, relay = (("127.0.0.1", other.port, Transport.RELAY_UDP, via) for via in (9, 0))
    assert udp.send_batch([(b"\xf1 inner", channel), (b"\xf4 bind", relay)]) == 2
    assert other.ipv4 is not None
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(other.ipv4)
    assert [other.ipv4.recv(100) for _ in range(2)] == [wrap_relayed(9, b"\xf1 inner"), b"\xf4 bind"]


async def test_what_comes_from_a_relay_is_unwrapped_and_the_rest_counted(udp: UdpSockets, other: UdpSockets) -> None:
    here = ("127.0.0.1", other.port)
    good = [wrap_relayed(7, b"\xf1 data"), wrap_relayed(8, b"\xf2 gated"), b"\xf4 control", b"\xf9 unknown", b"plain"]
    bad = [
        wrap_relayed(0, b"\xf1 no channel"),
        wrap_relayed(7, wrap_relayed(7, b"\xf1 twice")),
        wrap_relayed(7, b"\xf4 control of another relay"),
        wrap_relayed(7, b""),
        b"\xf3",
        b"\xf3\0\0\1\0\0\0\7\xf1",
    ]
    assert udp.send_batch([(payload, here) for payload in good + bad]) == len(good + bad)
    source = ("127.0.0.1", udp.port)
    assert await received(other, other.ipv4) == [
        (b"\xf1 data", (*source, Transport.RELAY_UDP, 7)),
        (b"\xf2 gated", (*source, Transport.RELAY_UDP, 8)),
        (b"\xf4 control", (*source, Transport.RELAY_UDP, 0)),
        (b"\xf9 unknown", source),
        (b"plain", source),
    ]
    assert other.drops == {Drop.MALFORMED: len(bad)}


# sockets beside the main ones


async def received_beside(udp: UdpSockets, count: int) -> list[tuple[bytes, Target]]:
    batch: list[tuple[bytes, Target]] = []
    with trio.fail_after(5):
        while len(batch) < count:
            await trio.lowlevel.wait_readable(udp.side)
            batch += udp.side.receive_batch()
    return batch


async def test_each_extra_socket_has_a_port_and_a_number_of_its_own(udp: UdpSockets, other: UdpSockets) -> None:
    vias = udp.side.open(256)
    assert vias == tuple(range(16, 272))
    to: list[Target] = [("127.0.0.1", other.port, Transport.UDP, via) for via in (*vias, 1, 2)]
    assert udp.send_batch([(b"x", target) for target in to]) == 258
    arrived: list[tuple[bytes, Target]] = []
    while len(arrived) < 258:
        arrived += await received(other, other.ipv4)
    assert len({source for _, source in arrived} | {("127.0.0.1", udp.port)}) == 259
    assert other.send_batch([(b"back", source) for _, source in arrived]) == 258
    back = await received_beside(udp, 258)
    assert {source for _, source in back} == set(to)
    assert not udp.drops
    udp.side.close(vias)
    assert udp.side.open(2) == (272, 273)


async def test_a_closed_extra_socket_carries_nothing_and_the_spare_ones_stay(
    udp: UdpSockets, other: UdpSockets
) -> None:
    (via,) = udp.side.open(1)
    udp.side.close((via, 1, 2, 999))
    here = ("127.0.0.1", other.port)
    assert udp.send_batch([(b"x", (*here, Transport.UDP, number)) for number in (via, 1, 2, 999)]) == 4
    assert [payload for payload, _ in await received(other, other.ipv4)] == [b"x", b"x"]
    assert udp.drops == {Drop.NO_PATH: 2}
    with trio.fail_after(5):
        await udp.wait_writable((*here, Transport.UDP, via))
        await udp.wait_writable((*here, Transport.UDP, 1))


def test_extra_sockets_are_bounded(udp: UdpSockets) -> None:
    assert len(udp.side.open(10_000)) == 512
    assert udp.side.open(1) == ()


async def test_a_socket_gets_wide_buffers_with_its_first_data(udp: UdpSockets, other: UdpSockets) -> None:
    (via,) = udp.side.open(1)
    side = udp.side.socket_of(via)
    assert side is not None

    def width() -> int:
        return side.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    narrow = width()
    to = ("127.0.0.1", other.port, Transport.UDP, via)
    udp.send_batch([(b"\xf2 gated", to)])
    assert width() == narrow
    udp.send_batch([(b"\xf1 data", to)])
    assert width() > narrow


async def test_a_relay_has_nothing_to_say_to_a_side_socket(udp: UdpSockets, other: UdpSockets) -> None:
    side = udp.side.socket_of(1)
    assert side is not None
    here = ("127.0.0.1", side.getsockname()[1])
    other.send_batch([(wrap_relayed(7, b"\xf1"), here), (b"\xf4 control", here), (b"\xf2 gated", here)])
    assert await received_beside(udp, 1) == [(b"\xf2 gated", ("127.0.0.1", other.port, Transport.UDP, 1))]
    assert udp.drops == {Drop.MALFORMED: 2}


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.RELAY_TLS])
def test_what_no_udp_socket_carries_goes_elsewhere_or_is_counted(udp: UdpSockets, transport: Transport) -> None:
    item: tuple[bytes, Target] = (b"x", ("127.0.0.1", 9, transport, 3))
    assert udp.send_batch([item]) == 1
    assert udp.drops == {Drop.NO_PATH: 1}
    taken: list[Target] = []
    udp.elsewhere = lambda _datagram, target: not taken.append(target)  # type: ignore[func-returns-value]
    assert udp.send_batch([item] * 2) == 2
    assert taken == [item[1]] * 2
