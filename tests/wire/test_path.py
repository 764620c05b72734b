"""Probes, calls, closes and offers: round trips, fuzz, and the sizes that keep us from amplifying."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from fabric.wire.offer import MAX_CANDIDATES, Offer, decode_offer, encode_offer
from fabric.wire.path import (
    MAX_OFFER_BYTES,
    Call,
    Close,
    CloseReason,
    GatedProbe,
    OfferUpdate,
    Probe,
    ProbeReply,
    decode_control,
    decode_gated_message,
    encode_control,
    encode_gated_message,
)

tokens = st.binary(min_size=16, max_size=16)
times = st.integers(0, 2**64 - 1)
addresses = st.builds(
    Address,
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str),
    st.integers(1, 65535),
    st.sampled_from(Transport),
)
replies = st.builds(ProbeReply, tokens, addresses)
gated = st.one_of(st.builds(GatedProbe, times, tokens), st.builds(Call, times, tokens), replies)
controls = st.one_of(
    st.builds(Probe, tokens),
    replies,
    st.builds(Close, st.sampled_from(CloseReason)),
    st.builds(OfferUpdate, st.binary(max_size=MAX_OFFER_BYTES)),
)
offers = st.builds(
    Offer,
    st.integers(0, 2**62),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
    st.lists(st.builds(Candidate, st.sampled_from(CandidateKind), addresses), max_size=MAX_CANDIDATES).map(tuple),
)


@given(gated)
def test_gated_messages_come_back_as_they_went(message: GatedProbe | Call | ProbeReply) -> None:
    assert decode_gated_message(encode_gated_message(message)) == message


@given(controls)
def test_control_messages_come_back_as_they_went(message: Probe | ProbeReply | Close | OfferUpdate) -> None:
    assert decode_control(encode_control(message)) == message


@given(offers)
def test_offers_come_back_as_they_went_and_fit_one_record(offer: Offer) -> None:
    encoded = encode_offer(offer)
    assert decode_offer(encoded) == offer
    assert len(encoded) <= MAX_OFFER_BYTES


@given(gated, st.binary(max_size=8))
def test_bytes_behind_a_gated_message_are_ignored(message: GatedProbe | Call | ProbeReply, tail: bytes) -> None:
    assert decode_gated_message(encode_gated_message(message) + tail) == message


@given(tokens, times, addresses)
def test_a_reply_is_never_longer_than_its_probe(token: bytes, unix_ms: int, address: Address) -> None:
    assert len(encode_gated_message(ProbeReply(token, address))) <= len(
        encode_gated_message(GatedProbe(unix_ms, token))
    )
    assert len(encode_control(ProbeReply(token, address))) <= len(encode_control(Probe(token)))


@pytest.mark.parametrize("decode", [decode_gated_message, decode_control, decode_offer])
@given(data=st.binary(max_size=1400))
def test_any_bytes_decode_or_raise_decode_error(decode, data: bytes) -> None:  # type: ignore[no-untyped-def]
    with contextlib.suppress(DecodeError):
        decode(data)


@given(offers, st.data())
def test_a_damaged_offer_decodes_or_raises_decode_error(offer: Offer, data: st.DataObject) -> None:
    encoded = bytearray(encode_offer(offer))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DecodeError):
        decode_offer(bytes(encoded))


@pytest.mark.parametrize("kind", [0, 4, 5, 255])
def test_unknown_gated_kinds_are_refused(kind: int) -> None:
    with pytest.raises(DecodeError):
        decode_gated_message(bytes([kind]) + bytes(64))


def test_a_close_from_the_future_still_closes() -> None:
    assert decode_control(bytes((3, 200))) == Close(CloseReason.STOPPED)


def test_an_offer_names_no_port_zero_and_no_odd_ip() -> None:
    good = Offer(1, 2, bytes(32), False, (Candidate(CandidateKind.HOST, Address("192.0.2.1", 9)),))
    encoded = encode_offer(good)
    with pytest.raises(DecodeError):
        decode_offer(encoded.replace(b"\xc4\x04\xc0\x00\x02\x01\x09", b"\xc4\x04\xc0\x00\x02\x01\x00"))
    with pytest.raises(DecodeError):
        decode_offer(encoded.replace(b"\xc4\x04\xc0\x00\x02\x01\x09", b"\xc4\x05\xc0\x00\x02\x01\x09\x09"))


def test_shares_do_not_show_in_reprs() -> None:
    share = b"s" * 32
    assert "sss" not in repr(Offer(1, 2, share, False, ()))
