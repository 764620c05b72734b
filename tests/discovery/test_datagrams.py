"""Sending in runs: whatever the lengths, what arrives is what was sent; and it needs no help of kernel or path."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.core.limits import OpenCount, Rate, SourceBuckets
from discovery.core.relay import Relay, RelaySettings
from discovery.shell.datagrams import BATCH, MAX_RUN, MAX_RUN_BYTES, MAX_TAKEN, Datagrams
from discovery.shell.relay import MAX_BATCH, MAX_PLACES, MAX_WAITING, RelayDriver
from discovery.shell.stun import Ancillary
from fabric.core.machine import Calendar
from fabric.identity.trust import Trust
from fabric.wire.address import Transport
from tests.discovery.town import NETWORK, Town

UDP_SEGMENT = 103
TO = ("192.0.2.7", 41_641, Transport.RELAY_UDP, 0)


class FakeSocket:
    """Cuts runs as the kernel does, or fails as it may."""

    def __init__(self, failure: int = 0, fails_always: bool = False) -> None:
        self.failure = failure
        self.fails_always = fails_always
        self.sent: list[bytes] = []
        self.calls = 0

    def sendmsg(self, parts: tuple[bytes, ...], ancillary: Ancillary, _flags: int, to: tuple[str, int]) -> None:
        assert to == TO[:2]
        self.calls += 1
        (data,) = parts
        lengths = [int.from_bytes(value, sys.byteorder) for _, kind, value in ancillary if kind == UDP_SEGMENT]
        if self.failure and (lengths or self.fails_always):
            raise OSError(self.failure, "")
        size = lengths[0] if lengths else len(data)
        run = [data[at : at + size] for at in range(0, len(data), size)]
        assert len(run) <= MAX_RUN
        assert len(data) <= max(MAX_RUN_BYTES, size)
        self.sent += run


def make_relay() -> RelayDriver:
    town = Town()
    trust = Trust(town.authority.root_der, NETWORK, None)
    calendar = Calendar(0.0)
    relay = Relay(trust, NETWORK, town.draw, calendar, RelaySettings(), 0.0)
    count, buckets = OpenCount(per_source=9, overall=9), SourceBuckets(Rate(9, 9))
    return RelayDriver(relay, calendar, count, buckets, lambda: 0.0, lambda: 0.0)


@pytest.fixture(scope="module")
def datagrams() -> Iterator[Datagrams]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        yield Datagrams([udp], make_relay(), lambda *_: None, lambda: 0.0)


def send(datagrams: Datagrams, fake: FakeSocket, payloads: list[bytes]) -> None:
    datagrams._ways[0] = (fake, [])  # type: ignore[assignment]
    datagrams._send_all(TO, payloads)


lengths = st.lists(st.sampled_from([9, 20, 1399, 1400, 9216]) | st.integers(1, 1500), min_size=1, max_size=300)


@given(lengths)
def test_datagrams_of_any_lengths_leave_whole_and_in_order(datagrams: Datagrams, lengths: list[int]) -> None:
    payloads = [number.to_bytes(4)[-min(4, length) :].ljust(length, b"x") for number, length in enumerate(lengths)]
    fake = FakeSocket()
    send(datagrams, fake, payloads)
    assert fake.sent == payloads


def test_datagrams_of_one_length_take_few_calls(datagrams: Datagrams) -> None:
    fake = FakeSocket()
    send(datagrams, fake, [bytes(1400)] * 92 + [bytes(7)])
    assert fake.calls == 2


@pytest.mark.parametrize(("failure", "joins"), [(errno.EINVAL, True), (errno.EMSGSIZE, True), (errno.EIO, False)])
def test_a_run_that_can_not_be_sent_as_one_is_sent_one_by_one(datagrams: Datagrams, failure: int, joins: bool) -> None:
    fake, payloads = FakeSocket(failure), [bytes((number,)) * 100 for number in range(5)]
    send(datagrams, fake, payloads)
    assert fake.sent == payloads
    assert datagrams._joins is joins
    datagrams._joins = True


@pytest.mark.parametrize("failure", [errno.EAGAIN, errno.ENOBUFS, errno.EPERM, errno.ENETUNREACH])
def test_what_can_not_be_sent_is_dropped_and_counted(datagrams: Datagrams, failure: int) -> None:
    before = datagrams.counters["unsent"]
    send(datagrams, FakeSocket(failure, fails_always=True), [bytes(100)] * 5)
    assert datagrams.counters["unsent"] == before + 5


def test_places_are_bounded(datagrams: Datagrams) -> None:
    numbers = [datagrams._new_place(0, number.to_bytes(4), []) for number in range(2 * MAX_PLACES)]
    assert len(datagrams._ways) == MAX_PLACES
    assert numbers[-1] == 0


def test_a_flood_that_the_kernel_has_joined_leaves_the_others_their_turn() -> None:
    taken: list[bytes] = []
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood,
    ):
        udp.bind(("127.0.0.1", 0))
        udp.setblocking(False)
        served = Datagrams([udp], None, lambda _udp, payload, *_: taken.append(payload), lambda: 0.0)
        for _ in range(BATCH):
            segment = (socket.IPPROTO_UDP, UDP_SEGMENT, (20).to_bytes(2, sys.byteorder))
            flood.sendmsg([bytes(20 * MAX_RUN)], [segment], 0, udp.getsockname())
        served._take_batch_untrusted(0, udp)
        assert len(taken) <= MAX_TAKEN + MAX_RUN
        while (before := len(taken)) < BATCH * MAX_RUN:
            served._take_batch_untrusted(0, udp)
            assert len(taken) > before


async def test_a_slow_websocket_gets_the_newest_and_what_gave_way_is_counted() -> None:
    relay = make_relay()
    line = relay.open("192.0.2.1", 1, "192.0.2.9")
    assert line is not None
    for number in range(MAX_WAITING + 5):
        relay.post(line.source, bytes((number,)))
    assert await line.get_batch() == [bytes((number,)) for number in range(5, 5 + MAX_BATCH)]
    relay.close(line)
    assert relay.relay.counters["line_dropped"] == 5
    relay.post(line.source, b"nobody is there")


def test_websockets_of_one_source_are_bounded_and_make_room_when_they_close() -> None:
    relay = make_relay()
    lines = [relay.open("192.0.2.1", 1 + number, "192.0.2.9") for number in range(10)]
    assert [line is not None for line in lines] == [True] * 9 + [False]
    assert relay.relay.counters["line_limit"] == 1
