"""The UDP sockets on the loopback: one port for both families, and nothing that the network does ends them."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import trio

from fabric.dataplane.contract import Drop
from fabric.errors import ConfigurationError
from fabric.shell.offload import MAX_SEGMENTS, coalesce, count_segments, is_coalescing
from fabric.shell.udp import BATCH, MAX_TOO_LONG, UdpSockets, is_free_for_tcp, open_udp_sockets
from fabric.wire.address import Target, Transport
from fabric.wire.relay import wrap_relayed

SO_NO_CHECK = 11  # asm-generic/socket.h


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


def test_a_port_is_drawn_where_no_connection_lingers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free_for_tcp(port)
        client = socket.create_connection(server.getsockname())
        over, _ = server.accept()
    over.shutdown(socket.SHUT_WR)  # who ends it first keeps it for a minute
    assert client.recv(1) == b""
    client.close()
    assert over.recv(1) == b""
    over.close()
    assert not is_free_for_tcp(port)
    assert is_free_for_tcp(open_and_close())


def open_and_close() -> int:
    sockets = open_udp_sockets()
    sockets.close()
    return sockets.port


async def test_datagrams_cross_in_batches_with_their_sources(udp: UdpSockets, other: UdpSockets) -> None:
    batch = [(bytes((n,)) * 1400, ("127.0.0.1", other.port)) for n in range(10)]
    assert udp.send_batch(batch) == 10
    assert await received(other, other.ipv4) == [(payload, ("127.0.0.1", udp.port)) for payload, _ in batch]


async def test_ipv6_sources_are_ip_and_port_only(udp: UdpSockets, other: UdpSockets) -> None:
    if udp.ipv6 is None or udp.send_batch([(b"six", ("::1", other.port))]) != 1 or udp.drops:
        pytest.skip("this host has no IPv6 loopback")
    assert await received(other, other.ipv6) == [(b"six", ("::1", udp.port))]


async def test_a_batch_is_bounded(udp: UdpSockets, other: UdpSockets) -> None:
    """Each datagram is longer than the one before, so none of them comes as part of a run."""
    udp.send_batch([(bytes(length), ("127.0.0.1", other.port)) for length in range(BATCH + 5)])
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
    """Raises the given errors, one a send, before it sends at all; 0 lets a send pass. `sends` counts both kinds."""

    errors: list[int]
    sends: Counter[str]

    def sendto(self, *arguments: Any) -> int:
        self._follow_script("alone")
        return int(super().sendto(*arguments))

    def sendmsg(self, *arguments: Any) -> int:
        self._follow_script("joined")
        return int(super().sendmsg(*arguments))

    def _follow_script(self, kind: str) -> None:
        self.sends[kind] += 1
        if self.errors and (error := self.errors.pop(0)):
            raise OSError(error, "as scripted")


def scripted(errors: Sequence[int] = (), segments: int = 1) -> tuple[ScriptedSocket, UdpSockets]:
    raw = ScriptedSocket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    raw.bind(("127.0.0.1", 0))
    raw.errors, raw.sends = list(errors), Counter()
    return raw, UdpSockets(raw, None, segments)


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
    _, udp = scripted(errors)
    try:
        assert udp.send_batch([(b"x", ("127.0.0.1", udp.port))]) == 1
        assert udp.drops == ({} if reason is None else {reason: 1})
        assert udp.send_batch([(b"y", ("::1", udp.port))]) == 1
        assert udp.drops[Drop.NO_PATH] >= 1
    finally:
        udp.close()


def test_a_full_queue_stops_the_batch_where_it_is() -> None:
    raw, udp = scripted()
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


async def test_a_batch_from_many_sockets_is_bounded(udp: UdpSockets, other: UdpSockets) -> None:
    for via in (1, 2):
        side = udp.side.socket_of(via)
        assert side is not None
        here = ("127.0.0.1", side.getsockname()[1])
        other.send_batch([(bytes(length), here) for length in range(BATCH - 1)])
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(udp.side)
    assert len(udp.side.receive_batch()) == BATCH
    assert len(await received_beside(udp, BATCH - 2)) == BATCH - 2


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


# runs


@pytest.fixture
def joining() -> None:
    """Asked for by tests that show nothing where no run leaves as one."""
    if count_segments() == 1:
        pytest.skip("this kernel takes no runs")


async def all_received(udp: UdpSockets, by: socket.socket | None, count: int) -> list[tuple[bytes, Target]]:
    arrived: list[tuple[bytes, Target]] = []
    while len(arrived) < count:
        arrived += await received(udp, by)
    return arrived


LENGTHS = {
    "equal": [1440] * 30,
    "the last one shorter": [1440] * 30 + [7],
    "two runs in a row": [1440] * 10 + [900] + [1440] * 10 + [900],
    "each longer": list(range(30)),
    "each shorter": list(range(30, 0, -1)),
    "more than one send takes": [1] * (2 * MAX_SEGMENTS[0] + 3),
    "more bytes than one send takes": [1440] * 150,
    "empty ones between": [5, 5, 0, 5, 5, 0, 0, 5],
    "longer than half a run": [40_000, 40_000, 40_000],
}


def payloads_of(lengths: Sequence[int]) -> list[bytes]:
    return [bytes((number % 200,)) * length for number, length in enumerate(lengths)]


@pytest.mark.parametrize("family", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("name", LENGTHS)
async def test_whatever_its_lengths_a_batch_arrives_as_it_was_sent(
    udp: UdpSockets, other: UdpSockets, name: str, family: str
) -> None:
    by = other.ipv6 if ":" in family else other.ipv4
    if ":" in family and (udp.ipv6 is None or udp.send_batch([(b"six", ("::1", 9))]) != 1 or udp.drops):
        pytest.skip("this host has no IPv6 loopback")
    payloads = payloads_of(LENGTHS[name])
    assert udp.send_batch([(payload, (family, other.port)) for payload in payloads]) == len(payloads)
    assert await all_received(other, by, len(payloads)) == [(payload, (family, udp.port)) for payload in payloads]
    assert not udp.drops
    assert not other.drops


async def test_a_socket_that_coalesces_hears_whoever_sends_one_by_one(udp: UdpSockets, other: UdpSockets) -> None:
    udp.segments = 1
    payloads = payloads_of([100] * 40)
    udp.send_batch([(payload, ("127.0.0.1", other.port)) for payload in payloads])
    assert [payload for payload, _ in await all_received(other, other.ipv4, 40)] == payloads


async def test_targets_that_take_turns_each_get_their_own_in_order(udp: UdpSockets, other: UdpSockets) -> None:
    third = open_udp_sockets()
    try:
        to = [("127.0.0.1", port) for port in (other.port, other.port, third.port, third.port, other.port)]
        batch = [(bytes((number,)) * 500, to[number % 5]) for number in range(50)]
        assert udp.send_batch(batch) == 50
        for each, count in ((other, 30), (third, 20)):
            expected = [payload for payload, (_, port) in batch if port == each.port]
            assert [payload for payload, _ in await all_received(each, each.ipv4, count)] == expected
    finally:
        third.close()


async def test_a_run_is_one_send_and_a_lone_datagram_none_of_that_kind(joining: None, other: UdpSockets) -> None:
    raw, udp = scripted(segments=64)
    try:
        udp.send_batch([(payload, ("127.0.0.1", other.port)) for payload in payloads_of([1440] * 44 + [9] + [1000])])
        assert raw.sends == {"joined": 1, "alone": 2}
        assert len(await all_received(other, other.ipv4, 46)) == 46
    finally:
        udp.close()


async def test_what_came_as_one_exceeds_a_batch_by_less_than_a_run(joining: None, other: UdpSockets) -> None:
    sender = open_udp_sockets()
    try:
        count = 20 * BATCH
        assert sender.send_batch([(b"x", ("127.0.0.1", other.port))] * count) == count
        while count:
            batch = await received(other, other.ipv4)
            assert 0 < len(batch) < BATCH + sender.segments
            count -= len(batch)
    finally:
        sender.close()


async def test_a_run_to_a_channel_is_wrapped_each_by_each(joining: None, other: UdpSockets) -> None:
    raw, udp = scripted(segments=64)
    try:
        channel: Target = ("127.0.0.1", other.port, Transport.RELAY_UDP, 9)
        payloads = [b"\xf1" + payload for payload in payloads_of([1400] * 20 + [3])]
        assert udp.send_batch([(payload, channel) for payload in payloads]) == 21
        assert raw.sends == {"joined": 1}
        from_channel: Target = ("127.0.0.1", udp.port, Transport.RELAY_UDP, 9)
        assert await all_received(other, other.ipv4, 21) == [(payload, from_channel) for payload in payloads]
    finally:
        udp.close()


async def test_a_relays_run_may_hold_all_that_a_relay_says(udp: UdpSockets, other: UdpSockets) -> None:
    """Told apart datagram by datagram, not run by run."""
    said = [wrap_relayed(7, b"\xf1 data"), b"\xf1 data of length", wrap_relayed(0, b"\xf1 data"), b"\xf4 control"]
    said[1] = said[1][: len(said[0])].ljust(len(said[0]))
    assert udp.send_batch([(datagram, ("127.0.0.1", other.port)) for datagram in said]) == 4
    source = ("127.0.0.1", udp.port)
    assert await all_received(other, other.ipv4, 3) == [
        (b"\xf1 data", (*source, Transport.RELAY_UDP, 7)),
        (said[1], source),
        (b"\xf4 control", (*source, Transport.RELAY_UDP, 0)),
    ]
    assert other.drops == {Drop.MALFORMED: 1}


async def test_a_path_on_an_extra_socket_takes_runs_both_ways(udp: UdpSockets, other: UdpSockets) -> None:
    (via,) = udp.side.open(1)
    to: Target = ("127.0.0.1", other.port, Transport.UDP, via)
    payloads = [b"\xf1" + payload for payload in payloads_of([1300] * 30 + [4])]
    assert udp.send_batch([(payload, to) for payload in payloads]) == 31
    arrived = await all_received(other, other.ipv4, 31)
    assert [payload for payload, _ in arrived] == payloads
    side = udp.side.socket_of(via)
    assert side is not None
    assert {source for _, source in arrived} == {("127.0.0.1", side.getsockname()[1])}
    assert is_coalescing(side) == udp.coalesces
    assert other.send_batch(arrived) == 31
    assert await received_beside(udp, 31) == [(payload, to) for payload in payloads]


def test_what_goes_elsewhere_goes_there_one_by_one_as_far_as_there_is_room(udp: UdpSockets) -> None:
    item: tuple[bytes, Target] = (b"x", ("127.0.0.1", 9, Transport.TCP, 3))
    taken: list[Target] = []

    def take(_datagram: bytes, target: Target) -> bool:
        taken.append(target)
        return len(taken) < 4

    udp.elsewhere = take
    assert udp.send_batch([item] * 10) == 3
    assert udp.send_batch([(b"x", ("127.0.0.1", 9, Transport.UDP, 999))] * 3) == 3
    assert udp.drops == {Drop.NO_PATH: 3}


TO_MANY = 10


async def sent_in_spite_of(errors: Sequence[int], other: UdpSockets) -> tuple[UdpSockets, Counter[str], int]:
    """Returns the sockets, what was sent how, and how far the batch came; what arrived is as it was sent."""
    raw, udp = scripted(errors, segments=64)
    try:
        payloads = payloads_of([500] * TO_MANY)
        done = udp.send_batch([(payload, ("127.0.0.1", other.port)) for payload in payloads])
        arrived = await all_received(other, other.ipv4, done - udp.drops.total())
        assert [payload for payload, _ in arrived] == payloads[done - len(arrived) : done]
    finally:
        udp.close()
    return udp, raw.sends, done


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOPROTOOPT])
async def test_a_device_that_takes_no_runs_is_sent_none_ever_after(other: UdpSockets, error: int) -> None:
    udp, sends, done = await sent_in_spite_of([error], other)
    assert (done, udp.segments, udp.drops) == (TO_MANY, 1, {})
    assert sends == {"joined": 1, "alone": TO_MANY}


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.ENOBUFS, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EPERM])
async def test_any_other_refusal_of_a_run_is_no_reason_to_send_none(other: UdpSockets, error: int) -> None:
    udp, sends, done = await sent_in_spite_of([error], other)
    assert (done, udp.segments, udp.drops) == (TO_MANY, 64, {})
    assert sends == {"joined": 1, "alone": TO_MANY}


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EMSGSIZE])
async def test_a_run_too_long_for_the_device_teaches_what_its_datagrams_do(other: UdpSockets, error: int) -> None:
    """EINVAL is what older kernels say of a run whose datagrams are too long: no reason to give up runs."""
    udp, _, done = await sent_in_spite_of([error] + [errno.EMSGSIZE] * (TO_MANY - 1), other)
    assert (done, udp.segments, udp.drops) == (TO_MANY, 64, {Drop.OVERSIZE: TO_MANY - 1})
    assert udp.take_too_long() == [(("127.0.0.1", other.port), 500)]


async def test_a_full_queue_stops_a_run_before_it_and_its_datagrams_where_they_are(other: UdpSockets) -> None:
    udp, sends, done = await sent_in_spite_of([errno.EIO, 0, 0, 0, errno.EAGAIN], other)
    assert (done, udp.segments, udp.drops) == (3, 64, {})
    assert sends == {"joined": 1, "alone": 4}
    udp, sends, done = await sent_in_spite_of([errno.EAGAIN], other)
    assert (done, udp.segments, udp.drops) == (0, 64, {})
    assert sends == {"joined": 1}


def test_a_run_on_a_closed_socket_is_an_error() -> None:
    raw, udp = scripted(segments=64)
    raw.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        udp.send_batch([(b"x", ("127.0.0.1", 9))] * 2)
    udp.close()


async def test_a_kernel_that_refuses_runs_on_a_socket_is_believed(
    joining: None, udp: UdpSockets, other: UdpSockets
) -> None:
    """A socket whose checksums are off is one that Linux sends no runs from."""
    assert udp.ipv4 is not None
    udp.ipv4.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    payloads = payloads_of([500] * 20)
    assert udp.send_batch([(payload, ("127.0.0.1", other.port)) for payload in payloads]) == 20
    assert [payload for payload, _ in await all_received(other, other.ipv4, 20)] == payloads
    assert udp.segments == 1


def test_the_sockets_tell_what_they_can(udp: UdpSockets) -> None:
    assert udp.segments in (*MAX_SEGMENTS, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        coalesce(asked)
        assert udp.coalesces == is_coalescing(asked)
    assert {is_coalescing(each) for each in udp.sockets} == {udp.coalesces}
    _, bare = scripted()
    assert (bare.segments, bare.coalesces) == (1, False)
    bare.close()
