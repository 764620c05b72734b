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
from fabric.shell.udp import BATCH, UdpSockets, open_udp_sockets


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


async def received(udp: UdpSockets, by: socket.socket | None) -> list[tuple[bytes, tuple[str, int]]]:
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
