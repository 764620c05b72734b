"""The control channel's messages: what goes in comes out, and no bytes do harm."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.rendezvous import (
    MAX_MESSAGE_BYTES,
    REFUSAL_STATUS,
    Authenticate,
    Challenge,
    DeliverOffer,
    EnrolmentAnswer,
    EnrolmentRefusal,
    EnrolmentRequest,
    IntentNoted,
    Introduction,
    PublishBundle,
    Refused,
    Renew,
    Renewed,
    Revocations,
    SendOffer,
    StateIntent,
    Welcome,
    WithdrawIntent,
    Withdrawn,
    decode_enrolment_outcome,
    decode_enrolment_request,
    decode_to_endpoint,
    decode_to_service,
    encode_enrolment,
    encode_message,
)

blobs = st.binary(max_size=400)
names = st.text(max_size=60)
nonces = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
seconds = st.floats(0, 2**40)

to_service = st.one_of(
    st.builds(Authenticate, blobs, nonces, signatures),
    st.builds(PublishBundle, blobs),
    st.builds(StateIntent, blobs),
    st.builds(WithdrawIntent, names),
    st.builds(SendOffer, names, blobs),
    st.builds(Renew, blobs),
)
to_endpoint = st.one_of(
    st.builds(Challenge, nonces),
    st.builds(Welcome, signatures, st.lists(names, max_size=4).map(tuple), blobs, seconds),
    st.builds(IntentNoted, names),
    st.builds(Introduction, names, blobs, blobs, blobs),
    st.builds(Withdrawn, names),
    st.builds(DeliverOffer, names, blobs),
    st.builds(Revocations, blobs),
    st.builds(Renewed, blobs),
    st.builds(Refused, names, names),
)
texts = st.lists(names, max_size=4).map(tuple)
outcomes = st.one_of(
    st.builds(EnrolmentAnswer, blobs, blobs, blobs, texts, texts, texts),
    st.builds(EnrolmentRefusal, st.sampled_from(["key", "name", "request", "limit", "full"]), names),
)


@given(to_service)
def test_what_an_endpoint_says_arrives(message: Authenticate) -> None:
    assert decode_to_service(encode_message(message)) == message


@given(to_endpoint)
def test_what_the_service_says_arrives(message: Welcome) -> None:
    assert decode_to_endpoint(encode_message(message)) == message


@given(st.builds(EnrolmentRequest, st.text(max_size=32), blobs, nonces))
def test_an_enrolment_request_arrives(request: EnrolmentRequest) -> None:
    assert decode_enrolment_request(encode_enrolment(request)) == request


@given(outcomes)
def test_an_enrolment_outcome_arrives_as_answer_or_refusal(outcome: EnrolmentAnswer | EnrolmentRefusal) -> None:
    status = 200 if isinstance(outcome, EnrolmentAnswer) else REFUSAL_STATUS[outcome.code]
    assert decode_enrolment_outcome(status, encode_enrolment(outcome)) == outcome


@given(st.binary(max_size=300))
@pytest.mark.parametrize(
    "decode",
    [
        decode_to_service,
        decode_to_endpoint,
        decode_enrolment_request,
        partial(decode_enrolment_outcome, 200),
        partial(decode_enrolment_outcome, 403),
    ],
)
def test_no_bytes_break_a_decoder(decode: object, data: bytes) -> None:
    assert callable(decode)
    try:
        decode(data)
    except DecodeError:
        return


@given(to_service, st.data())
def test_a_message_cut_or_changed_is_decoded_or_refused(message: Authenticate, data: st.DataObject) -> None:
    encoded = bytearray(encode_message(message))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    for candidate in (bytes(encoded), bytes(encoded[:position])):
        try:
            decode_to_service(candidate)
        except DecodeError:
            continue


@pytest.mark.parametrize(
    "data",
    [
        msgspec.msgpack.encode({"t": "Authenticate", "certificate": b"", "nonce": bytes(31), "signature": bytes(64)}),
        msgspec.msgpack.encode({"t": "Welcome", "signature": bytes(64)}),
        msgspec.msgpack.encode({"t": "PublishBundle", "bundle": bytes(16_385)}),
        msgspec.msgpack.encode({"t": "WithdrawIntent", "peer": "x" * 256}),
        msgspec.msgpack.encode({"bundle": b""}),
        msgspec.msgpack.encode([1, 2]),
        b"\x91" * 5000,
        encode_message(Revocations(bytes(MAX_MESSAGE_BYTES))),
    ],
)
def test_what_an_endpoint_can_not_have_meant_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_to_service(data)


def test_nobody_is_taken_for_the_other_side() -> None:
    with pytest.raises(DecodeError):
        decode_to_endpoint(encode_message(Renew(b"request")))
    with pytest.raises(DecodeError):
        decode_to_service(encode_message(Renewed(b"certificate")))


def test_a_field_of_a_later_version_is_ignored() -> None:
    data = msgspec.msgpack.encode({"t": "WithdrawIntent", "peer": "web-1.home", "hurry": True})
    assert decode_to_service(data) == WithdrawIntent("web-1.home")
