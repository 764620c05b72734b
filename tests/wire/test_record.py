"""What is sealed inside a datagram: vectors, round trips and noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.record import (
    CONTROL_FLAG,
    EMPTY,
    MAX_SLICES,
    ControlRecord,
    Empty,
    Frames,
    Record,
    Slice,
    UnknownRecord,
    decode_record,
    encode_record,
    is_control,
    overlay_mtu,
    slice_frame,
)
from fabric.wire.vnet import NO_VNET

frames = st.lists(st.binary(min_size=14, max_size=80), min_size=1, max_size=6).map(lambda each: Frames(tuple(each)))
slices = st.integers(1, 255).flatmap(
    lambda count: st.builds(
        Slice,
        index=st.integers(0, count - 1),
        count=st.just(count),
        flags=st.integers(0, 255),
        id=st.integers(0, 2**32 - 1),
        vnet_header=st.binary(min_size=10, max_size=10),
        part=st.binary(min_size=1, max_size=80),
    )
)
records: st.SearchStrategy[Record] = frames | slices | st.builds(ControlRecord, st.binary()) | st.just(EMPTY)


def test_each_kind_has_the_bytes_of_the_page() -> None:
    frame = bytes(range(14))
    assert encode_record(Frames((frame, frame))) == b"\x01\x00\x0e" + frame + b"\x00\x0e" + frame
    piece = Slice(2, 5, 1, 0x01020304, b"v" * 10, b"part")
    assert encode_record(piece) == b"\x02\x02\x05\x01\x01\x02\x03\x04" + b"v" * 10 + b"part"
    assert encode_record(ControlRecord(b"hello")) == b"\x03hello"
    assert encode_record(Empty()) == b""


@given(records)
def test_a_record_survives_the_wire(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@given(st.binary(max_size=60) | st.builds(lambda kind, rest: bytes((kind,)) + rest, st.integers(1, 3), st.binary()))
def test_noise_gives_a_record_or_a_decode_error(plain: bytes) -> None:
    try:
        record = decode_record(plain)
    except DecodeError:
        return
    if not isinstance(record, UnknownRecord):
        assert encode_record(record) == plain


@given(frames, st.data())
def test_frames_cut_anywhere_are_refused_or_fewer(record: Frames, data: st.DataObject) -> None:
    plain = encode_record(record)
    cut = data.draw(st.integers(1, len(plain) - 1))
    try:
        decoded = decode_record(plain[:cut])
    except DecodeError:
        return
    assert isinstance(decoded, Frames)
    assert decoded.frames == record.frames[: len(decoded.frames)]
    assert len(decoded.frames) < len(record.frames)


@pytest.mark.parametrize(
    "plain",
    [
        b"\x01",
        b"\x01\x00",
        b"\x01\x00\x00",
        b"\x01\x00\r" + bytes(13),
        b"\x01\x00\x0e" + bytes(15),
        b"\x02" + bytes(17),
        b"\x02\x05\x05" + bytes(20),
        b"\x02\x00\x00" + bytes(20),
    ],
)
def test_a_known_kind_that_is_not_whole_is_refused(plain: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_record(plain)


def test_a_kind_of_a_later_version_is_told_apart() -> None:
    assert decode_record(b"\x09anything") == UnknownRecord(9)


@given(st.binary(min_size=14, max_size=3000), st.integers(19, 1500))
def test_slices_fit_and_join_to_the_frame(frame: bytes, limit: int) -> None:
    encoded = slice_frame(frame, limit, 77)
    if not encoded:
        assert -(-len(frame) // (limit - 18)) > MAX_SLICES
        return
    assert all(len(plain) <= limit for plain in encoded)
    parts = [decode_record(plain) for plain in encoded]
    assert all(isinstance(part, Slice) for part in parts)
    pieces = [part for part in parts if isinstance(part, Slice)]
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    assert {(p.count, p.flags, p.id, p.vnet_header) for p in pieces} == {(len(pieces), 0, 77, NO_VNET)}
    assert b"".join(piece.part for piece in pieces) == frame


def test_slices_of_a_control_say_so() -> None:
    (only,) = slice_frame(b"hello", 100, 9, CONTROL_FLAG)
    assert only == b"\x02\x00\x01\x02\x00\x00\x00\x09" + NO_VNET + b"hello"
    assert is_control(only)
    assert is_control(b"\x03hello")
    assert is_control(b"\x03")
    for other in (b"", b"\x02", slice_frame(b"hello", 100, 9)[0], b"\x01\x00\x0e" + bytes(14), b"\x09\x00\x00\x02"):
        assert not is_control(other)


@pytest.mark.parametrize("limit", [-5, 0, 18])
def test_no_room_means_no_slices(limit: int) -> None:
    assert slice_frame(bytes(100), limit, 1) == []


def test_the_overlay_mtu_leaves_room_for_the_worst_outer_packet() -> None:
    outer_ipv6_udp, header_and_tag, kind_and_length, tagged_ethernet = 48, 32, 3, 18
    assert overlay_mtu(1500) + tagged_ethernet + kind_and_length + header_and_tag + outer_ipv6_udp == 1500
    assert overlay_mtu(1300) == 1280
