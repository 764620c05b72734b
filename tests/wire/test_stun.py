"""STUN Binding: the published vectors, round trips, and what must never be answered."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.stun import (
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    BindingError,
    BindingSuccess,
    ServerPlace,
    answer_binding,
    answer_binding_5780,
    binding_request,
    decode_binding_response,
    decode_binding_success,
    message_bytes,
    transaction_of,
)

# RFC 5769, section 2.1 to 2.3. Their integrity is under "VOkJxbRl1RmTxUk/WvJxBt", which a Binding without
# credentials does not look at.
RFC5769_REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae"
    "802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36"
    "000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2"
    "80280004e57a3bcf"
)
RFC5769_RESPONSE_4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000080001a147e112a643"
    "000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
RFC5769_RESPONSE_6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae"
    "8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9"
    "00080014a382954e4be67bf11784c97c8292c275bfe3ed41"
    "80280004c8fb0b4c"
)
TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")
HERE = Address("192.0.2.1", 32853)

addresses = st.builds(
    Address,
    st.ip_addresses().map(lambda ip: str(ipaddress.ip_address(ip.packed))),
    st.integers(1, 65535),
)
transactions = st.binary(min_size=12, max_size=12)


def attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2) + len(value).to_bytes(2) + value + bytes(-len(value) % 4)


def request(*attributes: bytes, cookie: bytes = b"\x21\x12\xa4\x42", kind: int = 1) -> bytes:
    body = b"".join(attributes)
    return kind.to_bytes(2) + len(body).to_bytes(2) + cookie + TRANSACTION + body


@pytest.mark.parametrize(
    ("response", "ip"),
    [(RFC5769_RESPONSE_4, "192.0.2.1"), (RFC5769_RESPONSE_6, "2001:db8:1234:5678:11:2233:4455:6677")],
)
def test_the_responses_of_rfc_5769_decode_to_their_addresses(response: bytes, ip: str) -> None:
    success = decode_binding_success(response)
    assert success.transaction_id == TRANSACTION
    assert success.address == Address(ip, 32853)


def test_the_request_of_rfc_5769_has_ice_attributes_that_a_plain_server_must_refuse() -> None:
    answer = answer_binding(RFC5769_REQUEST, HERE)
    assert answer is not None
    assert answer[:2] == b"\x01\x11"
    assert b"\0\0\x04\x14" in answer
    assert attribute(0x000A, b"\x00\x24") in answer


@given(transactions, addresses)
def test_a_request_gets_the_address_that_it_came_from(transaction: bytes, source: Address) -> None:
    answer = answer_binding(binding_request(transaction), source)
    assert answer is not None
    success = decode_binding_success(answer)
    assert (success.transaction_id, success.address) == (transaction, source)


@given(transactions, addresses)
def test_an_answer_is_never_more_than_three_times_the_shortest_request(transaction: bytes, source: Address) -> None:
    answer = answer_binding(binding_request(transaction), source)
    assert answer is not None
    assert len(answer) <= 3 * len(binding_request(transaction))
    bare = answer_binding(request(), source)
    assert bare is not None
    assert len(bare) <= 3 * 20


def test_a_request_without_a_fingerprint_is_answered_without_one() -> None:
    answer = answer_binding(request(), HERE)
    assert answer is not None
    assert decode_binding_success(answer).address == HERE
    assert b"\x80\x28" not in answer[20:]


def test_an_unknown_attribute_that_must_be_understood_is_refused_by_its_number() -> None:
    answer = answer_binding(request(attribute(0x7FF0, b"?"), attribute(0x7FF1, b"")), HERE)
    assert answer == request(attribute(0x0009, b"\0\0\x04\x14"), attribute(0x000A, b"\x7f\xf0\x7f\xf1"), kind=0x0111)


def test_an_unknown_attribute_that_may_be_skipped_is_skipped() -> None:
    answer = answer_binding(request(attribute(0xFFF0, b"whatever")), HERE)
    assert answer is not None
    assert decode_binding_success(answer).address == HERE


def test_a_client_of_rfc_3489_gets_a_plain_address_and_its_whole_transaction_id_back() -> None:
    answer = answer_binding(request(attribute(0x0003, bytes(4)), cookie=b"abcd"), HERE)
    assert answer == request(
        attribute(0x0001, b"\0\x01" + (32853).to_bytes(2) + bytes((192, 0, 2, 1))), cookie=b"abcd", kind=0x0101
    )


@pytest.mark.parametrize("wish", [attribute(0x0003, b"\0\0\0\6"), attribute(0x0002, b"\0\1\0\x50\xc6\x33\x64\1")])
def test_no_answer_is_ever_sent_to_or_from_elsewhere(wish: bytes) -> None:
    """CHANGE-REQUEST and RESPONSE-ADDRESS of RFC 3489 would let a stranger aim the server at others."""
    answer = answer_binding(request(wish, cookie=b"abcd"), HERE)
    assert answer is not None
    assert answer[:2] == b"\x01\x11"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        request()[:19],
        request() + b"\0",
        request() + bytes(4),
        request(kind=0x0011),
        request(kind=0x0101),
        request(kind=0x0003),
        request(b"\x80\x22\x00\x08\0\0\0\0"),
        b"\xf1" + bytes(40),
        binding_request(TRANSACTION)[:-1] + b"\0",
        request(attribute(0x8028, bytes(4)), attribute(0x8022, b"")),
        request(attribute(0x8022, bytes(MAX_MESSAGE_BYTES))),
    ],
)
def test_what_is_no_binding_request_is_met_with_silence(payload: bytes) -> None:
    assert answer_binding(payload, HERE) is None


@pytest.mark.parametrize(
    "payload",
    [
        binding_request(TRANSACTION),
        request(kind=0x0101),
        request(attribute(0x0020, b"\0\1\x21\x12\0\0\0\0"), kind=0x0101),
        request(attribute(0x0020, b"\0\3\0\1\0\0\0\0"), kind=0x0101),
        request(attribute(0x0020, b"\0\1\0"), kind=0x0101),
        request(attribute(0x0020, b"\0\1\0\1\0\0\0\0"), attribute(0x7FF0, b""), kind=0x0101),
        request(attribute(0x0001, b"\0\1\0\1\0\0\0\0"), kind=0x0101, cookie=b"abcd"),
    ],
)
def test_what_is_no_success_response_is_not_taken_for_one(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_binding_success(payload)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder(payload: bytes) -> None:
    try:
        decode_binding_success(payload)
    except DecodeError:
        return


@given(st.binary(max_size=200), addresses)
def test_no_bytes_break_the_server(payload: bytes, source: Address) -> None:
    answer_binding(payload, source)


def length_fields(message: bytes) -> set[int]:
    """Returns where the attributes' lengths stand: with another one, the FINGERPRINT may be part of a value."""
    places, at = set(), 20
    while at < len(message):
        places |= {at + 2, at + 3}
        at += 4 + -(-int.from_bytes(message[at + 2 : at + 4]) // 4) * 4
    return places


@given(st.sampled_from([RFC5769_RESPONSE_4, RFC5769_RESPONSE_6]), st.integers(0, 2**16 - 1))
def test_a_mapped_address_of_another_length_is_none(message: bytes, length: int) -> None:
    """It could swallow the FINGERPRINT behind it, and so go unnoticed."""
    at = next(place for place in length_fields(message) if message[place - 2 : place] == b"\x00\x20")
    assume(length != int.from_bytes(message[at : at + 2]))
    with pytest.raises(DecodeError):
        decode_binding_success(message[:at] + length.to_bytes(2) + message[at + 2 :])


@given(st.sampled_from([RFC5769_REQUEST, RFC5769_RESPONSE_4, RFC5769_RESPONSE_6]), st.data())
def test_a_flipped_byte_is_noticed_by_the_fingerprint(message: bytes, data: st.DataObject) -> None:
    position = data.draw(st.sampled_from(sorted(set(range(len(message))) - length_fields(message))))
    flipped = bytearray(message)
    flipped[position] ^= data.draw(st.integers(1, 255))
    # Only a flip in the cookie leads past the fingerprint: the message then reads as one of RFC 3489.
    if bytes(flipped[4:8]) == message[4:8]:
        answer = answer_binding(bytes(flipped), HERE)
        assert answer is None or (flipped[-8:-4] != message[-8:-4])
        if flipped[-8:-4] == message[-8:-4]:
            with pytest.raises(DecodeError):
                decode_binding_success(bytes(flipped))


ASKED = Address("198.51.100.1", 3478)
ASKED_6 = Address("2001:db8::1", 3478)
TWO_IPS = ServerPlace(ASKED, "198.51.100.2", 3479)
ONE_IP = ServerPlace(ASKED, other_port=3479)
places = st.sampled_from([TWO_IPS, ONE_IP, ServerPlace(ASKED), ServerPlace(ASKED_6, "2001:db8::2", 3479)])


@pytest.mark.parametrize(
    ("place", "ip", "port", "origin"),
    [
        (TWO_IPS, False, False, "198.51.100.1:3478"),
        (TWO_IPS, False, True, "198.51.100.1:3479"),
        (TWO_IPS, True, False, "198.51.100.2:3478"),
        (TWO_IPS, True, True, "198.51.100.2:3479"),
        (ONE_IP, False, True, "198.51.100.1:3479"),
    ],
)
def test_the_answer_leaves_from_the_address_that_was_wished(
    place: ServerPlace, ip: bool, port: bool, origin: str
) -> None:
    """RFC 5780 section 6.1, table 1."""
    answer = answer_binding_5780(binding_request(TRANSACTION, change_ip=ip, change_port=port), HERE, place)
    assert answer is not None
    assert (str(answer.origin), answer.to) == (origin, HERE)
    assert decode_binding_response(answer.payload) == BindingSuccess(TRANSACTION, HERE, place.other)


@pytest.mark.parametrize(
    ("place", "ip", "port"),
    [(ONE_IP, True, False), (ONE_IP, True, True), (ServerPlace(ASKED), False, True)],
)
def test_a_change_that_is_not_possible_is_refused(place: ServerPlace, ip: bool, port: bool) -> None:
    answer = answer_binding_5780(binding_request(TRANSACTION, change_ip=ip, change_port=port), HERE, place)
    assert answer is not None
    assert (answer.origin, answer.to) == (ASKED, HERE)
    assert decode_binding_response(answer.payload) == BindingError(TRANSACTION, 420)
    assert attribute(0x000A, b"\0\3") in answer.payload


def test_one_ip_with_two_ports_is_no_server_of_rfc_5780_to_others() -> None:
    """Coturn's client would wish for the other IP, and wait for ever."""
    answer = answer_binding_5780(binding_request(TRANSACTION), HERE, ONE_IP)
    assert answer is not None
    assert b"\x80\x2c\0\x08" not in answer.payload
    assert attribute(0xFAB1, b"\0\1" + (3479).to_bytes(2) + bytes((198, 51, 100, 1))) in answer.payload


def test_other_address_and_origin_are_told_in_the_clear() -> None:
    answer = answer_binding_5780(binding_request(TRANSACTION, change_port=True), HERE, TWO_IPS)
    assert answer is not None
    assert attribute(0x802C, b"\0\1" + (3479).to_bytes(2) + bytes((198, 51, 100, 2))) in answer.payload
    assert attribute(0x802B, b"\0\1" + (3479).to_bytes(2) + bytes((198, 51, 100, 1))) in answer.payload
    assert attribute(0x0001, b"\0\1" + (32853).to_bytes(2) + bytes((192, 0, 2, 1))) in answer.payload


@given(places, st.integers(1, 65535), addresses)
def test_the_answer_goes_to_the_port_that_was_wished_and_to_no_other_ip(
    place: ServerPlace, port: int, source: Address
) -> None:
    answer = answer_binding_5780(binding_request(TRANSACTION, response_port=port), source, place)
    assert answer is not None
    assert answer.to == Address(source.ip, port)
    assert decode_binding_success(answer.payload).address == source


@pytest.mark.parametrize("place", [TWO_IPS, ServerPlace(ASKED, is_stream=True)])
@pytest.mark.parametrize(
    "malformed",
    [attribute(0x0027, b""), attribute(0x0027, bytes(4)), attribute(0x0027, bytes(2)), attribute(0x0003, b"\6")],
)
def test_a_malformed_wish_is_refused(place: ServerPlace, malformed: bytes) -> None:
    answer = answer_binding_5780(request(malformed), HERE, place)
    assert answer is not None
    error = decode_binding_response(answer.payload)
    assert isinstance(error, BindingError)
    assert error.code == (420 if place.is_stream else 400)
    assert (answer.origin, answer.to) == (ASKED, HERE)


def test_response_port_is_understood_with_and_without_its_padding_counted() -> None:
    for value in (b"\x12\x34", b"\x12\x34\0\0"):
        answer = answer_binding_5780(request(attribute(0x0027, value)), HERE, TWO_IPS)
        assert answer is not None
        assert answer.to.port == 0x1234


@given(places, addresses, st.binary(max_size=60), st.booleans(), st.booleans())
def test_no_answer_is_more_than_three_times_its_request(
    place: ServerPlace, source: Address, software: bytes, ip: bool, port: bool
) -> None:
    for payload in (
        request(),
        request(attribute(0x8022, software)),
        request(attribute(0x7FF0, b"")),
        request(cookie=b"abcd"),
        binding_request(TRANSACTION, change_ip=ip, change_port=port),
    ):
        answer = answer_binding_5780(payload, source, place)
        assert answer is not None
        assert len(answer.payload) <= 3 * len(payload)
        assert answer.to.ip == source.ip


def test_what_there_is_no_room_for_is_left_out_from_the_end() -> None:
    """A bare request over IPv6 has room for the address alone; ours also for the other address."""
    place = ServerPlace(ASKED_6, other_port=3479)
    source = Address("2001:db8::7", 7)
    bare, ours = (
        answer_binding_5780(request(), source, place),
        answer_binding_5780(binding_request(TRANSACTION), source, place),
    )
    assert bare is not None
    assert ours is not None
    assert decode_binding_success(bare.payload).other is None
    assert decode_binding_success(ours.payload).other == Address(ASKED_6.ip, 3479)


@pytest.mark.parametrize("value", [b"", b"\0\1\0\0\1\2\3\4", b"\0\3\0\1\1\2\3\4", b"\0\1\0\1\1\2\3\4\5"])
def test_an_other_address_that_is_none_is_skipped(value: bytes) -> None:
    mapped = attribute(0x0001, b"\0\1" + (32853).to_bytes(2) + bytes((192, 0, 2, 1)))
    success = decode_binding_success(request(mapped, attribute(0x802C, value), kind=0x0101))
    assert (success.address, success.other) == (HERE, None)


@given(st.binary(max_size=120), addresses, places)
def test_no_wishes_break_the_server(attributes: bytes, source: Address, place: ServerPlace) -> None:
    answer_binding_5780(request(attributes), source, place)
    answer_binding_5780(request(attribute(0x0003, attributes), attribute(0x0027, attributes)), source, place)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_decoder_of_responses(payload: bytes) -> None:
    for bytes_ in (payload, request(payload, kind=0x0111), request(attribute(0x0009, payload), kind=0x0111)):
        try:
            decode_binding_response(bytes_)
        except DecodeError:
            continue


@given(transactions, st.integers(0, 65535))
def test_a_message_in_a_stream_says_how_long_it_is(transaction: bytes, port: int) -> None:
    message = binding_request(transaction, response_port=port)
    assert message_bytes(message[:4]) == len(message)
    assert transaction_of(message) == transaction
    assert transaction_of(message[: HEADER_BYTES - 1]) == b""


@pytest.mark.parametrize("head", [b"GET ", b"\0\1\0\3", b"\0\1\xff\xfc", b"\xf4\1\0\0"])
def test_what_heads_no_message_is_refused(head: bytes) -> None:
    with pytest.raises(DecodeError):
        message_bytes(head)
