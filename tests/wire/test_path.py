"""Probes, calls, closes and offers: round trips, fuzz, and the sizes that keep us from amplifying."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.address import Address, Candidate, CandidateKind, Transport, address_of, target_of
from fabric.wire.nat import UNKNOWN_NAT, Filtering, Mapping, NatBehaviour
from fabric.wire.offer import MAX_CANDIDATES, Offer, decode_offer, encode_offer
from fabric.wire.path import (
    MAX_ENVELOPE_BYTES,
    MAX_OFFER_BYTES,
    Call,
    Close,
    CloseReason,
    ControlMessage,
    Forward,
    Forwarded,
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
names = st.text(st.characters(codec="ascii"), max_size=255)
envelopes = st.binary(min_size=1, max_size=300)
replies = st.builds(ProbeReply, tokens, addresses)
gated = st.one_of(st.builds(GatedProbe, times, tokens), st.builds(Call, times, tokens), replies)
controls = st.one_of(
    st.builds(Probe, tokens, st.integers(0, 1500)),
    replies,
    st.builds(Forward, names, envelopes),
    st.builds(Forwarded, names, envelopes),
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
    st.builds(
        NatBehaviour, st.sampled_from(Mapping), st.sampled_from(Filtering), st.integers(-1024, 1024), st.booleans()
    ),
)


@given(gated)
def test_gated_messages_come_back_as_they_went(message: GatedProbe | Call | ProbeReply) -> None:
    assert decode_gated_message(encode_gated_message(message)) == message


@given(controls)
def test_control_messages_come_back_as_they_went(message: ControlMessage) -> None:
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


def test_a_longer_probe_has_the_length_that_it_asks_about() -> None:
    token = bytes(range(16))
    assert encode_control(Probe(token, 100)) == encode_control(Probe(token)) + bytes(100)
    assert decode_control(encode_control(Probe(token)) + b"whatever") == Probe(token, 8)


@pytest.mark.parametrize("kind", [5, 6])
@pytest.mark.parametrize(
    "body", [b"", b"\x04bob", b"\x03bob", b"\x03b\xffb" + b"envelope", b"\x03bob" + bytes(MAX_ENVELOPE_BYTES + 1)]
)
def test_what_is_passed_on_has_a_name_and_an_envelope_of_bounded_length(kind: int, body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_control(bytes((kind,)) + body)


def test_an_offer_without_a_word_about_the_nat_leaves_it_unknown() -> None:
    offer = Offer(1, 2, bytes(32), False, (), NatBehaviour(Mapping.ADDRESS_DEPENDENT, Filtering.UNKNOWN, 2, False))
    encoded = encode_offer(offer)
    assert encoded[-5:] == b"\x94\x03\x00\x02\xc2"
    older = b"\x95" + encoded[1:-5]
    assert encoded[:1] == b"\x96"
    assert decode_offer(older).nat == UNKNOWN_NAT


@pytest.mark.parametrize("nat", [b"\x94\x09\x00\x00\xc3", b"\x94\x03\x01\x00\xc3", b"\x94\x03\x00\xcd\x04\x01\xc3"])
def test_an_offer_with_an_unknown_nat_or_a_wild_stride_is_refused(nat: bytes) -> None:
    encoded = encode_offer(Offer(1, 2, bytes(32), False, ()))
    with pytest.raises(DecodeError):
        decode_offer(encoded[:-5] + nat)


def test_an_address_tells_nobody_by_which_way_this_host_reaches_it() -> None:
    near = Address("192.0.2.1", 9, Transport.TCP, via=7)
    assert encode_control(ProbeReply(bytes(16), near)) == encode_control(
        ProbeReply(bytes(16), Address("192.0.2.1", 9, Transport.TCP))
    )


@given(addresses, st.integers(0, 2**32 - 1))
def test_a_target_stands_for_its_address(address: Address, via: int) -> None:
    full = Address(address.ip, address.port, address.transport, via)
    assert address_of(target_of(full)) == full
    assert (len(target_of(full)) == 2) is (full.transport is Transport.UDP and not via)
