"""The gate: only a peer's own datagrams pass, and each of them once."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.gate import MAX_BODY_BYTES, WINDOW_S, Freshness, check, gate_key, wrap
from fabric.wire.datagram import MAX_GATED_BYTES, decode_gated

SHARE = bytes(range(32))
NOW = 1_800_000_000.0


def ms(unix: float) -> int:
    return int(unix * 1000)


def test_a_gate_key_is_the_hash_that_the_protocol_names() -> None:
    fields = (b"fabric/1 gate", b"home", b"a.home", b"b.home")
    joined = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    expected = hashlib.blake2b(joined, digest_size=32, key=SHARE).digest()
    assert gate_key(SHARE, "home", "a.home", "b.home") == expected


def test_what_a_peer_wraps_passes() -> None:
    key = gate_key(SHARE, "home", "a.home", "b.home")
    gated = decode_gated(wrap(7, key, b"body"))
    assert gated.gate_index == 7
    assert gated.body == b"body"
    assert check(gated, key)


def test_what_is_sent_back_to_its_sender_does_not_pass() -> None:
    there = gate_key(SHARE, "home", "a.home", "b.home")
    back = gate_key(SHARE, "home", "b.home", "a.home")
    assert not check(decode_gated(wrap(7, there, b"body")), back)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_no_flipped_bit_behind_the_index_passes(body: bytes, data: st.DataObject) -> None:
    key = gate_key(SHARE, "home", "a.home", "b.home")
    datagram = bytearray(wrap(7, key, body))
    bit = data.draw(st.integers(8 * 8, len(datagram) * 8 - 1))
    datagram[bit // 8] ^= 1 << bit % 8
    assert not check(decode_gated(bytes(datagram)), key)


def test_the_longest_body_fits_the_longest_datagram() -> None:
    assert len(wrap(7, bytes(32), bytes(MAX_BODY_BYTES))) == MAX_GATED_BYTES


@pytest.mark.parametrize("length", [0, MAX_BODY_BYTES + 1])
def test_a_body_that_cannot_be_received_is_not_wrapped(length: int) -> None:
    with pytest.raises(ValueError, match="gated body"):
        wrap(7, bytes(32), bytes(length))


def test_each_value_is_accepted_once() -> None:
    freshness = Freshness()
    assert freshness.accept(ms(NOW), b"one", NOW)
    assert not freshness.accept(ms(NOW), b"one", NOW)
    assert freshness.accept(ms(NOW), b"two", NOW)
    assert freshness.accept(ms(NOW) + 1, b"one", NOW)


@pytest.mark.parametrize("distance_s", [-WINDOW_S - 1, WINDOW_S + 1, 1e9])
def test_a_date_far_from_the_own_clock_is_refused(distance_s: float) -> None:
    freshness = Freshness()
    assert not freshness.accept(ms(NOW + distance_s), b"one", NOW)
    assert len(freshness) == 0


@pytest.mark.parametrize("distance_s", [-WINDOW_S + 1, 0.0, WINDOW_S - 1])
def test_a_date_within_the_window_is_accepted(distance_s: float) -> None:
    assert Freshness().accept(ms(NOW + distance_s), b"one", NOW)


@pytest.mark.parametrize("unix_ms", [0, 2**64 - 1])
def test_the_ends_of_time_are_refused(unix_ms: int) -> None:
    assert not Freshness().accept(unix_ms, b"one", NOW)


def test_after_a_restart_what_is_dated_before_it_is_refused() -> None:
    freshness = Freshness(since_unix=NOW)
    assert not freshness.accept(ms(NOW) - 1, b"one", NOW + 1)
    assert not freshness.accept(ms(NOW), b"two", NOW + 1)
    assert freshness.accept(ms(NOW) + 1, b"three", NOW + 1)


@given(st.lists(st.tuples(st.integers(-300, 300), st.integers(0, 3), st.integers(0, 40)), max_size=200))
def test_nothing_is_accepted_twice_whatever_order_it_comes_in(
    arrivals: list[tuple[int, int, int]],
) -> None:
    freshness = Freshness(capacity=5)
    accepted: list[tuple[int, int]] = []
    now = NOW
    for offset, random, elapsed in arrivals:
        now += elapsed
        date = ms(NOW + offset)
        if freshness.accept(date, bytes((random,)), now):
            accepted.append((date, random))
        assert len(freshness) <= 5
    assert len(accepted) == len(set(accepted))


def test_memory_is_bounded_and_a_full_table_refuses_what_it_gave_up() -> None:
    freshness = Freshness(capacity=100)
    dates = [ms(NOW) + index for index in range(1000)]
    assert all(freshness.accept(date, b"x", NOW + 1) for date in dates)
    assert len(freshness) == 100
    assert not any(freshness.accept(date, b"x", NOW + 1) for date in dates)


def test_a_full_table_still_accepts_what_is_sent_now() -> None:
    freshness = Freshness(capacity=10)
    for index in range(50):
        freshness.accept(ms(NOW) + index, b"x", NOW)
    assert freshness.accept(ms(NOW) + 50, b"x", NOW)


def test_hashes_are_given_up_once_the_window_protects_them() -> None:
    freshness = Freshness()
    freshness.accept(ms(NOW), b"x", NOW)
    freshness.accept(ms(NOW + 2 * WINDOW_S), b"y", NOW + 2 * WINDOW_S)
    assert len(freshness) == 1


def test_setting_the_clock_back_opens_nothing() -> None:
    freshness = Freshness()
    assert freshness.accept(ms(NOW), b"x", NOW)
    assert freshness.accept(ms(NOW + 3600), b"y", NOW + 3600)
    assert not freshness.accept(ms(NOW), b"x", NOW)


def test_one_sender_leaves_room_for_another_whatever_dates_it_gives() -> None:
    freshness = Freshness(capacity=16)
    assert sum(freshness.accept(ms(NOW + 290) + index, b"x", NOW, "copy") for index in range(100)) == 14
    assert all(freshness.accept(ms(NOW) + index, b"x", NOW, "real") for index in range(100))
    assert len(freshness) == 16
    assert not any(freshness.accept(ms(NOW) + index, b"x", NOW, "other") for index in range(100))
