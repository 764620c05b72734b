"""Frames too long for a path, in slices: whole, partial, late and hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.dataplane.contract import Drop
from fabric.dataplane.slices import EXPIRY_S, MAX_PARTIAL, MAX_WAITING_BYTES, Reassembly
from fabric.wire.record import MAX_FRAME_BYTES, Slice
from fabric.wire.vnet import NO_VNET
from tests.dataplane.pair import End, frame, pair


def piece(index: int, count: int, *, id_: int = 1, part: bytes = b"part", flags: int = 0) -> Slice:
    return Slice(index, count, flags, id_, NO_VNET, part)


@given(st.permutations(range(9)))
def test_slices_join_in_any_order(order: list[int]) -> None:
    reassembly = Reassembly()
    results = [reassembly.handle_slice(piece(index, 9, part=bytes((index,))), 0.0) for index in order]
    assert results == [None] * 8 + [bytes(range(9))]
    assert reassembly.next_timeout() is None


def test_what_stays_partial_expires_and_is_counted() -> None:
    reassembly = Reassembly()
    reassembly.handle_slice(piece(0, 2), 5.0)
    assert reassembly.next_timeout() == 5.0 + EXPIRY_S
    reassembly.handle_timeout(5.0 + EXPIRY_S)
    assert reassembly.take_drops() == (1, 0)
    assert reassembly.next_timeout() is None
    assert reassembly.handle_slice(piece(1, 2), 7.0) is None


def test_the_oldest_partial_frame_makes_room() -> None:
    reassembly = Reassembly()
    for number in range(MAX_PARTIAL + 3):
        reassembly.handle_slice(piece(0, 2, id_=number), 0.0)
    assert reassembly.take_drops() == (3, 0)
    assert reassembly.handle_slice(piece(1, 2, id_=MAX_PARTIAL + 2), 0.0) == b"partpart"
    assert reassembly.handle_slice(piece(1, 2, id_=0), 0.0) is None


def test_waiting_bytes_are_bounded() -> None:
    reassembly = Reassembly()
    for number in range(2 * MAX_WAITING_BYTES // 60_000):
        reassembly.handle_slice(piece(0, 2, id_=number, part=bytes(60_000)), 0.0)
    assert reassembly.take_drops()[0] >= MAX_WAITING_BYTES // 60_000 - 1


def test_slices_that_contradict_each_other_are_given_up() -> None:
    for second in (piece(0, 3), piece(1, 4), piece(1, 3, flags=1)):
        reassembly = Reassembly()
        reassembly.handle_slice(piece(0, 3), 0.0)
        assert reassembly.handle_slice(second, 0.0) is None
        assert reassembly.take_drops() == (1, 0)
        assert reassembly.next_timeout() is None


def test_a_frame_longer_than_any_is_given_up() -> None:
    reassembly = Reassembly()
    for index in range(50):
        reassembly.handle_slice(piece(index, 255, part=bytes(MAX_FRAME_BYTES // 49)), 0.0)
    assert reassembly.take_drops() == (1, 0)


def drops(end: End, peer: End) -> dict[Drop, int]:
    return dict(end.lane.counters(peer.name).drops)


@pytest.mark.usefixtures("each_lane")
def test_the_lane_counts_partial_frames_when_they_expire() -> None:
    ann, bob = pair(limit=600)
    ann.send([frame(ann, bob, bytes(2000))], 0.0)
    bob.lane.handle_datagrams(ann.take()[1:], 0.0)
    assert bob.received() == []
    deadline = bob.lane.next_timeout()
    assert deadline == EXPIRY_S
    bob.lane.handle_timeout(deadline)
    assert drops(bob, ann) == {Drop.REASSEMBLY: 1}
    assert bob.lane.next_timeout() is None


def test_a_frame_that_no_number_of_slices_carries_is_counted() -> None:
    ann, bob = pair(limit=60)
    ann.send([frame(ann, bob, bytes(5000)), frame(ann, bob, bytes(66_000))], 0.0)
    assert ann.take() == []
    assert drops(ann, bob) == {Drop.OVERSIZE: 2}


@pytest.mark.usefixtures("each_lane")
def test_the_longest_frame_passes() -> None:
    ann, bob = pair(limit=1200)
    sent = frame(ann, bob, bytes(MAX_FRAME_BYTES - 14))
    ann.send([sent], 0.0)
    bob.lane.handle_datagrams(ann.take(), 0.0)
    assert bob.received() == [sent]
