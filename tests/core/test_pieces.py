"""Pieces: any order, any loss, a fixed bound, and nothing recorded gets in the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.gate import MAX_BODY_BYTES, wrap
from fabric.core.pieces import HOLD_S, Reassembly, message_digest, split
from fabric.errors import DecodeError
from fabric.wire.datagram import MAX_GATED_BYTES
from fabric.wire.handshake import MAX_MESSAGE_BYTES, MAX_SLICE_BYTES, MessageKind, Piece, decode_piece

NOW = 100.0
messages = st.tuples(st.sampled_from(MessageKind), st.integers(0, MAX_MESSAGE_BYTES - 2), st.integers(0, 255)).map(
    lambda drawn: bytes((drawn[0], 1)) + bytes((drawn[2],)) * drawn[1]
)


def hello(fill: int, length: int = 1265) -> bytes:
    return b"\x01\x01" + bytes((fill,)) * (length - 2)


def cut(message: bytes, unix_ms: int = 1000) -> list[Piece]:
    return [decode_piece(body) for body in split(message, unix_ms)]


@given(messages, st.randoms(use_true_random=False))
def test_a_message_comes_together_from_pieces_in_any_order_and_number(message: bytes, random: object) -> None:
    pieces = cut(message) * 2
    random.shuffle(pieces)  # type: ignore[attr-defined]
    reassembly = Reassembly()
    whole = [joined for piece in pieces if (joined := reassembly.add(piece, NOW)) is not None]
    assert whole
    assert set(whole) == {message}


@pytest.mark.parametrize("length", [2, MAX_SLICE_BYTES, MAX_SLICE_BYTES + 1, MAX_MESSAGE_BYTES])
def test_every_piece_fits_a_gated_datagram(length: int) -> None:
    bodies = split(hello(7, length), 1000)
    assert len(bodies) == -(-length // MAX_SLICE_BYTES)
    assert all(len(body) <= MAX_BODY_BYTES for body in bodies)
    assert all(len(wrap(1, bytes(32), body)) <= MAX_GATED_BYTES for body in bodies)


def test_a_message_that_four_pieces_cannot_hold_is_not_split() -> None:
    with pytest.raises(ValueError, match="bytes"):
        split(hello(7, MAX_MESSAGE_BYTES + 1), 1000)


def test_nothing_comes_of_a_message_with_a_hole() -> None:
    reassembly = Reassembly()
    first, second, third = cut(hello(7, 3000))
    assert reassembly.add(first, NOW) is None
    assert reassembly.add(third, NOW) is None
    assert reassembly.add(first, NOW) is None
    assert reassembly.add(second, NOW) == hello(7, 3000)


def test_a_newer_message_takes_the_place_of_an_unfinished_one() -> None:
    reassembly = Reassembly()
    old, new = cut(hello(1), 1000), cut(hello(2), 2000)
    assert reassembly.add(old[0], NOW) is None
    assert reassembly.add(new[0], NOW) is None
    assert reassembly.add(old[1], NOW) is None
    assert reassembly.add(new[1], NOW) == hello(2)


def test_recorded_pieces_cannot_push_out_the_message_that_is_arriving() -> None:
    reassembly = Reassembly()
    fresh = cut(hello(9), 5000)
    assert reassembly.add(fresh[0], NOW) is None
    for fill in range(8):
        for piece in cut(hello(fill), 1000 + fill):
            assert reassembly.add(piece, NOW) is None
    assert reassembly.add(fresh[1], NOW) == hello(9)


def test_a_sender_whose_clock_was_set_back_gets_through_after_a_while() -> None:
    reassembly = Reassembly()
    assert reassembly.add(cut(hello(1), 9_000_000)[0], NOW) is None
    late = cut(hello(2), 1000)
    assert reassembly.add(late[0], NOW + HOLD_S) is None
    assert reassembly.add(late[1], NOW + HOLD_S) == hello(2)


def test_the_pieces_of_one_message_sent_twice_complete_each_other() -> None:
    reassembly = Reassembly()
    assert reassembly.add(cut(hello(1), 1000)[0], NOW) is None
    assert reassembly.add(cut(hello(1), 2000)[1], NOW) == hello(1)


def test_messages_of_different_kinds_do_not_disturb_each_other() -> None:
    reassembly = Reassembly()
    answer = b"\x02\x01" + bytes(2000)
    one, other = cut(hello(1)), cut(answer)
    assert reassembly.add(one[0], NOW) is None
    assert reassembly.add(other[0], NOW) is None
    assert reassembly.add(one[1], NOW) == hello(1)
    assert reassembly.add(other[1], NOW) == answer


def test_pieces_that_do_not_make_what_they_name_are_refused() -> None:
    first, second = cut(hello(1))
    forged = Piece(second.kind, 1, 2, 1000, second.digest, b"\0" * len(second.content))
    reassembly = Reassembly()
    reassembly.add(first, NOW)
    with pytest.raises(DecodeError, match="do not make"):
        reassembly.add(forged, NOW)
    assert [reassembly.add(piece, NOW) for piece in (first, second)] == [None, hello(1)]


def test_two_pieces_for_one_place_are_refused() -> None:
    first, _ = cut(hello(1))
    reassembly = Reassembly()
    reassembly.add(first, NOW)
    with pytest.raises(DecodeError, match="one place"):
        reassembly.add(Piece(first.kind, 0, 2, 1000, first.digest, b"other"), NOW)


def test_a_message_of_another_kind_than_its_pieces_is_refused() -> None:
    (piece,) = cut(b"\x03\x01" + bytes(40))
    with pytest.raises(DecodeError, match="another kind"):
        Reassembly().add(Piece(MessageKind.HELLO, 0, 1, 1000, piece.digest, piece.content), NOW)


def test_pieces_with_another_count_are_another_message() -> None:
    first, second = cut(hello(1))
    reassembly = Reassembly()
    reassembly.add(Piece(first.kind, 0, 3, 999, first.digest, first.content), NOW)
    assert reassembly.add(first, NOW) is None
    assert reassembly.add(second, NOW) == hello(1)


def test_memory_is_bounded_whatever_a_peer_sends() -> None:
    reassembly = Reassembly()
    for fill in range(200):
        for kind in MessageKind:
            message = bytes((kind, 1)) + bytes((fill,)) * (MAX_MESSAGE_BYTES - 2)
            for piece in cut(message, 1000 + fill)[:3]:
                assert reassembly.add(piece, NOW) is None
    assert len(reassembly) <= len(MessageKind) * 3 * MAX_SLICE_BYTES


def test_what_is_cleared_is_gone() -> None:
    reassembly = Reassembly()
    first, second = cut(hello(1))
    reassembly.add(first, NOW)
    reassembly.clear()
    assert reassembly.add(second, NOW) is None


def test_a_message_is_named_by_its_hash() -> None:
    assert {piece.digest for piece in cut(hello(1))} == {message_digest(hello(1))}
    assert message_digest(hello(1)) != message_digest(hello(2))


def test_pieces_of_a_copy_elsewhere_do_not_push_out_the_message_that_is_arriving() -> None:
    reassembly = Reassembly()
    first, second = cut(hello(1))
    assert reassembly.add(first, NOW, "real") is None
    for sender in range(6):
        for index in range(10):
            copied = Piece(MessageKind.HELLO, 0, 2, 2**60, bytes([index]) * 16, b"x")
            assert reassembly.add(copied, NOW + 0.01, f"copy {sender}") is None
    assert len(reassembly) < 8 * 1200
    assert reassembly.add(second, NOW + 0.02, "real") == hello(1)
