"""Runs: which datagrams may leave as one, and how what the kernel has joined is cut."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.shell.offload import (
    MAX_RUN_BYTES,
    MAX_SEGMENTS,
    coalesce,
    count_segments,
    is_coalescing,
    read_runs,
    run_end,
    send_run,
)
from fabric.wire.address import Target, Transport
from fabric.wire.relay import RELAYED_HEADER_BYTES

ONE: Target = ("192.0.2.1", 1)
OTHER: Target = ("192.0.2.1", 1, Transport.RELAY_UDP, 7)
SOURCE = ("192.0.2.9", 9)
UDP_GRO = 104


def batch_of(*lengths: int, to: Target = ONE) -> list[tuple[bytes, Target]]:
    return [(bytes(length), to) for length in lengths]


@pytest.mark.parametrize(
    ("batch", "end"),
    [
        (batch_of(5), 1),
        (batch_of(5, 5, 5), 3),
        (batch_of(5, 5, 4, 4), 3),
        (batch_of(5, 4, 5), 2),
        (batch_of(5, 5, 6), 2),
        (batch_of(4, 5, 5), 1),
        (batch_of(5, 5, 0), 2),  # the kernel would cut nothing off for it
        (batch_of(0, 0), 1),
        (batch_of(5, 5) + batch_of(5, to=OTHER), 2),
        (batch_of(5) + batch_of(5, to=OTHER) + batch_of(5), 1),
        (batch_of(*[5] * 70), 64),
        (batch_of(*[1440] * 70), 44),
        (batch_of(*[40_000] * 2), 1),
        (batch_of(*[65_600] * 2), 1),
    ],
)
def test_a_run_ends_where_the_kernel_could_not_cut_it_again(batch: list[tuple[bytes, Target]], end: int) -> None:
    assert run_end(batch, 0, 64) == end
    assert run_end([*batch_of(9, 1), *batch], 2, 64) == end + 2
    assert run_end(batch, 0, 1) == 1


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 700, 1440, 16_000, 65_000]), st.sampled_from([ONE, OTHER])), max_size=40),
    st.sampled_from([1, 2, 64, 128]),
)
def test_any_batch_falls_into_runs_that_a_send_can_take(shape: list[tuple[int, Target]], segments: int) -> None:
    batch = [(bytes(length), to) for length, to in shape]
    at = 0
    while at < len(batch):
        end = run_end(batch, at, segments)
        lengths, targets = [len(datagram) for datagram, _ in batch[at:end]], {to for _, to in batch[at:end]}
        assert 1 <= end - at <= segments
        assert len(targets) == 1
        if end > at + 1:
            assert set(lengths[:-1]) == {lengths[0]}
            assert 0 < lengths[-1] <= lengths[0]
            assert sum(lengths) + len(lengths) * RELAYED_HEADER_BYTES <= MAX_RUN_BYTES
        at = end


def test_the_kernel_is_asked_how_many_it_takes_and_takes_as_many() -> None:
    count = count_segments()
    assert count in (*MAX_SEGMENTS, 1)
    if count == 1:
        pytest.skip("this kernel takes no runs")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(5)
        udp.bind(("127.0.0.1", 0))
        assert not is_coalescing(udp)
        send_run(udp, [bytes((number,)) for number in range(count)], udp.getsockname())
        assert [udp.recv(10) for _ in range(count)] == [bytes((number,)) for number in range(count)]


def test_a_socket_says_whether_it_coalesces() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_UNIX) as other:
        coalesce(udp)
        coalesce(other)
        assert is_coalescing(udp)
        assert not is_coalescing(other)


class Waiting:
    """A socket on which these reads wait: an error, or bytes with the length that the kernel tells (None: nothing)."""

    def __init__(self, *reads: int | tuple[bytes, int | None]) -> None:
        self.reads = list(reads)

    def recvmsg(self, size: int, ancillary_size: int) -> tuple[bytes, Sequence[tuple[int, int, bytes]], int, Any]:
        if not self.reads:
            raise BlockingIOError
        match self.reads.pop(0):
            case (read, None):
                return read, [], 0, SOURCE
            case (read, int(length)):
                flags = socket.MSG_TRUNC if len(read) > size else 0
                told = (socket.IPPROTO_UDP, UDP_GRO, length.to_bytes(4, sys.byteorder))
                assert ancillary_size >= socket.CMSG_SPACE(4)
                return read[:size], [(socket.IPPROTO_IP, 8, b"other news"), told], flags, SOURCE
            case error:
                raise OSError(error, "as told")


def read(waiting: Waiting, budget: int = 64) -> list[tuple[bytes, ...]]:
    runs = read_runs(cast("socket.socket", waiting), budget)
    assert all(source == SOURCE for _, source in runs)
    return [tuple(datagrams) for datagrams, _ in runs]


def test_what_came_as_one_is_cut_where_the_kernel_says() -> None:
    waiting = Waiting((b"alone", None), (b"aabbc", 2), (b"aabb", 2), (b"whole", 5), (b"whole", 900), (b"odd", 0))
    assert read(waiting) == [
        (b"alone",),
        (b"aa", b"bb", b"c"),
        (b"aa", b"bb"),
        (b"whole",),
        (b"whole",),
        (b"odd",),
    ]


def test_a_run_that_is_too_long_to_read_loses_its_end_only() -> None:
    long = bytes(range(256)) * 300
    ((*whole, cut),) = read(Waiting((long, 1000)))
    assert whole == [long[at : at + 1000] for at in range(0, 65_000, 1000)]
    assert cut == long[65_000:65_536]


def test_reading_stops_with_the_run_that_fills_the_budget_and_leaves_the_rest() -> None:
    waiting = Waiting(*[(bytes(50), 1)] * 3, (b"later", None))
    assert [len(run) for run in read(waiting)] == [50, 50]
    assert [len(run) for run in read(waiting)] == [50, 1]
    assert len(read(Waiting(*[(b"x", None)] * 5), 3)) == 3


def test_errors_of_earlier_sends_are_passed_over_and_bounded() -> None:
    assert read(Waiting(errno.ECONNREFUSED, (b"x", None), errno.EHOSTUNREACH, (b"y", None))) == [(b"x",), (b"y",)]
    endless = Waiting(*[errno.ECONNREFUSED] * 70)
    assert read(endless) == []
    assert len(endless.reads) == 6
    with pytest.raises(OSError, match="as told"):
        read(Waiting(errno.EBADF))
