"""Between endpoint and relay: layouts, bounds, and nothing but DecodeError for whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.relay import (
    MAX_GRANT_BYTES,
    MAX_REFRESHED,
    NO_COOKIE,
    NO_SIGNATURE,
    Bind,
    Bound,
    Challenge,
    Refresh,
    Refreshed,
    Refused,
    RefusedReason,
    RelayMessage,
    decode_relay_message,
    encode_relay_message,
    unwrap_relayed,
    wrap_relayed,
)

channels = st.lists(st.integers(0, 2**32 - 1), max_size=MAX_REFRESHED).map(tuple)
ids = st.binary(min_size=16, max_size=16)
messages = st.one_of(
    st.builds(Bind, ids, st.binary(min_size=64, max_size=64), st.binary(min_size=1, max_size=MAX_GRANT_BYTES)),
    st.builds(Challenge, ids, ids),
    st.builds(Bound, ids, st.integers(1, 2**32 - 1), st.integers(0, 65_535), st.integers(0, 2**32 - 1)),
    st.builds(Refresh, channels.filter(bool)),
    st.builds(Refreshed, channels),
    st.builds(Refused, ids, st.sampled_from(RefusedReason)),
)


@given(messages)
def test_each_message_comes_back_as_it_went(message: RelayMessage) -> None:
    assert decode_relay_message(encode_relay_message(message)) == message


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: b"\xf4" + rest))
def test_anything_else_is_refused_in_one_way(data: bytes) -> None:
    try:
        decode_relay_message(data)
    except DecodeError:
        return
    assert data[0] == 0xF4


@pytest.mark.parametrize(
    ("message", "written"),
    [
        (Bind(NO_COOKIE, NO_SIGNATURE, b"g"), "f4010000" + "00" * 80 + "67"),
        (Challenge(b"i" * 16, b"c" * 16), "f4020000" + "69" * 16 + "63" * 16),
        (Bound(b"i" * 16, 0x01020304, 120, 5), "f4030000" + "69" * 16 + "01020304" + "0078" + "00000005"),
        (Refresh((1, 2)), "f40400000000000100000002"),
        (Refreshed(()), "f4050000"),
        (Refused(b"i" * 16, RefusedReason.FULL), "f4060000" + "69" * 16 + "02"),
    ],
)
def test_the_bytes_are_those_of_the_page(message: RelayMessage, written: str) -> None:
    assert encode_relay_message(message).hex() == written


def test_a_reason_of_a_later_version_reads_as_the_grants_fault() -> None:
    assert decode_relay_message(b"\xf4\x06\0\0" + bytes(16) + b"\xc8") == Refused(bytes(16), RefusedReason.GRANT)


def test_what_a_later_version_appends_is_ignored() -> None:
    for message in (Challenge(b"i" * 16, b"c" * 16), Bound(b"i" * 16, 7, 120), Refused(bytes(16), RefusedReason.FULL)):
        assert decode_relay_message(encode_relay_message(message) + b"more") == message


@pytest.mark.parametrize("rest", ["", "00", "000005"])
def test_an_earlier_version_does_not_say_how_often_a_channel_moved(rest: str) -> None:
    written = "f4030000" + "69" * 16 + "01020304" + "0078" + rest
    assert decode_relay_message(bytes.fromhex(written)) == Bound(b"i" * 16, 0x01020304, 120, 0)


@pytest.mark.parametrize(
    "written",
    [
        "f4010000" + "00" * 80,  # no grant
        "f4010000" + "00" * 80 + "67" * (MAX_GRANT_BYTES + 1),
        "f4030000" + "69" * 16 + "00000000" + "0078",  # channel 0
        "f4040000",  # a refresh of nothing
        "f4070000",
        "f404",
        "f30400000000000100000002",
    ],
)
def test_what_can_not_have_been_written_is_refused(written: str) -> None:
    with pytest.raises(DecodeError):
        decode_relay_message(bytes.fromhex(written))


def test_no_more_channels_are_refreshed_at_once_than_fit_a_datagram() -> None:
    assert len(encode_relay_message(Refresh(tuple(range(1, 1000))))) == 4 + 4 * MAX_REFRESHED
    many = bytes.fromhex("f4040000") + b"\0\0\0\1" * 1000
    assert decode_relay_message(many) == Refresh((1,) * MAX_REFRESHED)


@given(st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=1500))
def test_a_relayed_datagram_comes_out_as_it_went_in(channel: int, payload: bytes) -> None:
    assert unwrap_relayed(wrap_relayed(channel, payload)) == (channel, payload)


@given(st.binary(max_size=40))
def test_what_is_no_relayed_datagram_is_refused(data: bytes) -> None:
    try:
        channel, payload = unwrap_relayed(data)
    except DecodeError:
        return
    assert data == wrap_relayed(channel, payload)
