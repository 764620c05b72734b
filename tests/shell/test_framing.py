"""Datagrams in a stream: however it is cut, they come out whole, and noise ends it."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.shell.framing import MAX_FRAMED_BYTES, Unframer, frame_datagram
from fabric.wire.address import Target, Transport

SOURCE: Target = ("192.0.2.1", 7, Transport.TCP, 3)
datagrams = st.lists(st.binary(min_size=1, max_size=600), max_size=12)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:stop] for start, stop in itertools.pairwise(at)]


@given(datagrams, st.lists(st.integers(0, 10_000), max_size=30))
def test_datagrams_come_out_whole_however_the_stream_is_cut(sent: list[bytes], places: list[int]) -> None:
    unframer = Unframer(SOURCE)
    parts = cut(b"".join(map(frame_datagram, sent)), places)
    assert [item for part in parts for item in unframer.take(part)] == [(datagram, SOURCE) for datagram in sent]


def test_a_framed_datagram_has_its_length_before_it() -> None:
    assert frame_datagram(b"hello") == b"\x00\x05hello"
    longest = bytes(MAX_FRAMED_BYTES)
    assert Unframer(SOURCE).take(frame_datagram(longest)) == [(longest, SOURCE)]


@pytest.mark.parametrize("head", [b"\x00\x00", b"\x40\x01", b"GET / HTTP/1.1\r\n", b"SSH-2.0", b"\xff\xff"])
def test_another_length_ends_the_stream(head: bytes) -> None:
    with pytest.raises(DecodeError):
        Unframer(SOURCE).take(head)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_noise_gives_datagrams_or_a_decode_error_and_is_never_kept_for_long(parts: list[bytes]) -> None:
    unframer = Unframer(SOURCE)
    with contextlib.suppress(DecodeError):
        for part in parts:
            assert all(0 < len(datagram) <= MAX_FRAMED_BYTES for datagram, _ in unframer.take(part))
            assert len(unframer._rest) < MAX_FRAMED_BYTES + 2
