"""STUN Binding (RFC 8489): "from which address do you see me?"; the wishes of RFC 5780; what RFC 3489 asks.

     0               2               4                       8                                 20
    +---------------+---------------+-----------------------+---------------------------------+------------
    | type u16      | length u16,   | 0x2112a442, "magic    | transaction id 12               | attributes
    |               | of attributes | cookie"               |                                 |
    +---------------+---------------+-----------------------+---------------------------------+------------
      0x0001 request, 0x0101 success, 0x0111 error

    attribute: type u16, length u16, value, padded with zeros to a multiple of 4. Types up to 0x7fff must be
    understood, or the message is refused; others may be skipped.

XOR-MAPPED-ADDRESS has the address XORed with the cookie and the transaction id, against NATs that rewrite whatever
looks like an address in passing. A client of RFC 3489 sends no cookie (those four bytes belong to its transaction
id) and gets the plain MAPPED-ADDRESS.

By RFC 5780 a server has four addresses, two IPs with two ports each, and a client may wish that another of them
answers (CHANGE-REQUEST), or that the answer goes to another port of the IP that it asked from (RESPONSE-PORT).
OTHER-ADDRESS names the address that has neither IP nor port of the one asked. A server with one IP and two ports says
nothing of the kind (section 7.4: clients of others then wish for what it can't do). It names its other port in an
attribute of our own, 0xfab1 in the same format, answers from there when it is wished, and refuses another IP with 420.

No answer has any state behind it. None goes to an IP but the one that asked, and none is more than 3 times as long as
its request (60 bytes for the shortest, 84 for ours): what a client can do without is left out from the end of

    XOR-MAPPED-ADDRESS, OTHER-ADDRESS or 0xfab1, RESPONSE-ORIGIN, MAPPED-ADDRESS, SOFTWARE

Over TCP messages follow each other; the length field tells them apart (RFC 8489 section 6.2.2).
"""

from __future__ import annotations

import binascii
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fabric.errors import DecodeError
from fabric.wire.address import Address, Transport
from fabric.wire.codec import Reader
from fabric.wire.datagram import STUN_MAGIC

HEADER_BYTES = 20
TRANSACTION_ID_BYTES = 12
MAX_MESSAGE_BYTES = 548
"""What RFC 8489 section 6.1 lets a client send where it doesn't know the path MTU."""

_REQUEST = 0x0001
_SUCCESS = 0x0101
_ERROR = 0x0111

_MAPPED_ADDRESS = 0x0001
_CHANGE_REQUEST = 0x0003
_ERROR_CODE = 0x0009
_UNKNOWN_ATTRIBUTES = 0x000A
_XOR_MAPPED_ADDRESS = 0x0020
_RESPONSE_PORT = 0x0027
_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
_RESPONSE_ORIGIN = 0x802B
_OTHER_ADDRESS = 0x802C
_OTHER_OF_TWO = 0xFAB1
"""Ours, from the range that everybody may use and nobody has to understand."""

_FINGERPRINT_XOR = 0x5354554E

_KNOWN = frozenset({0x0001, 0x0006, 0x0008, 0x0009, 0x000A, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E, 0x0020})
"""Comprehension-required attributes of RFC 8489: known, and without a meaning in a Binding without credentials."""

_WISHES = frozenset({_CHANGE_REQUEST, _RESPONSE_PORT})
_CHANGE_IP = 4
_CHANGE_PORT = 2

MAX_AMPLIFICATION = 3
_LISTED_UNKNOWN = 4
_UNKNOWN_ATTRIBUTE_CODE = b"\0\0\x04\x14"
"""420: class 4, number 20 (section 14.8)."""

_BAD_REQUEST_CODE = b"\0\0\x04\0"

_SOFTWARE_NAME = b"fabric"


@dataclass(frozen=True, slots=True)
class BindingSuccess:
    """`address` is where the server saw the request come from, `other` its OTHER-ADDRESS or its other one of two."""

    transaction_id: bytes
    address: Address
    other: Address | None = None


@dataclass(frozen=True, slots=True)
class BindingError:
    """`code` as in section 14.8; 420: there is a wish in the request that this server can't fulfil."""

    transaction_id: bytes
    code: int


@dataclass(frozen=True, slots=True)
class ServerPlace:
    """The address of a server that a request came to, and what else it answers from: "" and 0 where nothing.

    `is_stream`: over TCP, where an answer can only go back.
    """

    asked: Address
    other_ip: str = ""
    other_port: int = 0
    is_stream: bool = False

    @property
    def other(self) -> Address | None:
        if not self.other_ip and not self.other_port:
            return None
        return self.changed(ip=bool(self.other_ip), port=bool(self.other_port))

    def changed(self, *, ip: bool, port: bool) -> Address:
        return Address(self.other_ip if ip else self.asked.ip, self.other_port if port else self.asked.port)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send, from which of the server's addresses, and where to."""

    payload: bytes
    origin: Address
    to: Address


@dataclass(frozen=True, slots=True)
class _Wishes:
    change_ip: bool = False
    change_port: bool = False
    response_port: int = 0


def binding_request(
    transaction_id: bytes, *, change_ip: bool = False, change_port: bool = False, response_port: int = 0
) -> bytes:
    """Returns a Binding request with a FINGERPRINT; the transaction id is 12 random bytes.

    It wishes an answer from another IP or port of the server, or to `response_port` instead of the own one.
    """
    wishes = b""
    if change_ip or change_port:
        flags = _CHANGE_IP * change_ip | _CHANGE_PORT * change_port
        wishes += _attribute(_CHANGE_REQUEST, flags.to_bytes(4))
    if response_port:
        wishes += _attribute(_RESPONSE_PORT, response_port.to_bytes(2) + bytes(2))
    return _with_fingerprint(_REQUEST, STUN_MAGIC + transaction_id, wishes)


def transaction_of(payload: bytes) -> bytes:
    """Returns the transaction id of what claims to be a STUN message; empty where it is too short to have one."""
    return payload[8:HEADER_BYTES] if len(payload) >= HEADER_BYTES else b""


def message_bytes(head: bytes) -> int:
    """Returns how long the message is that begins with these 4 bytes of a TCP stream. Raises `DecodeError`."""
    kind, length = int.from_bytes(head[:2]), int.from_bytes(head[2:4])
    if kind & 0xC000 or length % 4 or length > MAX_MESSAGE_BYTES - HEADER_BYTES:
        raise DecodeError("not the head of a STUN message")
    return HEADER_BYTES + length


def decode_binding_success(payload: bytes) -> BindingSuccess:
    """Raises `DecodeError` for anything but a success response that RFC 8489 section 6.3.3 lets one act on."""
    response = decode_binding_response(payload)
    if isinstance(response, BindingError):
        raise DecodeError(f"a Binding error response with code {response.code}")
    return response


def decode_binding_response(payload: bytes) -> BindingSuccess | BindingError:
    """Raises `DecodeError` for anything but a response that one may act on."""
    kind, identification, attributes = _decode(payload)
    if kind not in (_SUCCESS, _ERROR) or identification[:4] != STUN_MAGIC:
        raise DecodeError("not a Binding response")
    found = dict(reversed(attributes))  # of several of one type, the first counts
    unknown = [attribute for attribute in found if attribute < 0x8000 and attribute not in _KNOWN]
    if unknown:
        raise DecodeError(f"a Binding response with the unknown attribute {unknown[0]:#06x}")
    if kind == _ERROR:
        return BindingError(identification[4:], _decode_error_code(found.get(_ERROR_CODE, b"")))
    if _XOR_MAPPED_ADDRESS in found:
        address = _decode_address(found[_XOR_MAPPED_ADDRESS], identification)
    elif _MAPPED_ADDRESS in found:
        address = _decode_address(found[_MAPPED_ADDRESS], bytes(16))
    else:
        raise DecodeError("a Binding success response without an address")
    other = found.get(_OTHER_ADDRESS, found.get(_OTHER_OF_TWO))
    return BindingSuccess(identification[4:], address, _decode_other(other))


def answer_binding(payload: bytes, source: Address) -> bytes | None:
    """Returns the answer to a Binding request that came from `source`, of a server that knows nothing of RFC 5780;
    None where silence is the answer."""
    answer = _answer(payload, source, None)
    return answer.payload if answer is not None else None


def answer_binding_5780(payload: bytes, source: Address, place: ServerPlace) -> Answer | None:
    """Returns the answer of a server that also fulfils the wishes of RFC 5780, as far as `place` lets it."""
    return _answer(payload, source, place)


def _answer(payload: bytes, source: Address, place: ServerPlace | None) -> Answer | None:
    try:
        kind, identification, attributes = _decode(payload)
    except DecodeError:
        return None
    if kind != _REQUEST:
        return None
    origin = place.asked if place is not None else source
    if identification[:4] != STUN_MAGIC:
        return Answer(_answer_classic(identification, attributes, source), origin, source)
    make = _with_fingerprint if attributes and attributes[-1][0] == _FINGERPRINT else _message
    wishes, error = _read_wishes(attributes, place)
    if error:
        return Answer(make(_ERROR, identification, error), origin, source)
    limit = MAX_AMPLIFICATION * len(payload) - HEADER_BYTES - (8 if make is _with_fingerprint else 0)
    if place is None:
        return Answer(
            make(_SUCCESS, identification, _success_attributes(source, identification, (), limit)), origin, source
        )
    origin = place.changed(ip=wishes.change_ip, port=wishes.change_port)
    kind = _OTHER_ADDRESS if place.other_ip and place.other_port else _OTHER_OF_TWO
    extra = [_attribute(kind, _encode_address(place.other, bytes(16)))] if place.other else []
    extra.append(_attribute(_RESPONSE_ORIGIN, _encode_address(origin, bytes(16))))
    extra.append(_attribute(_MAPPED_ADDRESS, _encode_address(source, bytes(16))))
    body = _success_attributes(source, identification, extra, limit)
    to = Address(source.ip, wishes.response_port or source.port)
    return Answer(make(_SUCCESS, identification, body), origin, to)


def _success_attributes(source: Address, identification: bytes, extra: Sequence[bytes], limit: int) -> bytes:
    """Returns the attributes from the most needed on, as many as `limit` bytes have room for."""
    body = _attribute(_XOR_MAPPED_ADDRESS, _encode_address(source, identification))
    for attribute in (*extra, _attribute(_SOFTWARE, _SOFTWARE_NAME)):
        if len(body) + len(attribute) > limit:
            break
        body += attribute
    return body


def _read_wishes(attributes: list[tuple[int, bytes]], place: ServerPlace | None) -> tuple[_Wishes, bytes]:
    """Returns what the request wishes, or the attributes of the error that it gets."""
    understood = _KNOWN | (_WISHES if place is not None and not place.is_stream else frozenset())
    unknown = [attribute for attribute, _ in attributes if attribute < 0x8000 and attribute not in understood]
    if unknown:
        return _Wishes(), _error_attributes(unknown)
    found = dict(reversed(attributes))
    change, port = found.get(_CHANGE_REQUEST, bytes(4)), found.get(_RESPONSE_PORT)
    # Implementations differ in whether they count the padding of RESPONSE-PORT (section 7.5) into its length.
    if len(change) != 4 or (port is not None and (len(port) not in (2, 4) or not any(port[:2]))):
        return _Wishes(), _attribute(_ERROR_CODE, _BAD_REQUEST_CODE)
    wishes = _Wishes(bool(change[3] & _CHANGE_IP), bool(change[3] & _CHANGE_PORT), int.from_bytes((port or b"")[:2]))
    if place is not None and (wishes.change_ip > bool(place.other_ip) or wishes.change_port > bool(place.other_port)):
        return _Wishes(), _error_attributes([_CHANGE_REQUEST])
    return wishes, b""


def _answer_classic(identification: bytes, attributes: list[tuple[int, bytes]], source: Address) -> bytes:
    """RFC 3489 as far as RFC 5389 section 12.2 keeps it: no answer goes anywhere but back."""
    unknown = [
        attribute
        for attribute, value in attributes
        if attribute < 0x8000 and attribute not in _KNOWN and (attribute, value) != (_CHANGE_REQUEST, bytes(4))
    ]
    if unknown:
        return _message(_ERROR, identification, _error_attributes(unknown))
    return _message(_SUCCESS, identification, _attribute(_MAPPED_ADDRESS, _encode_address(source, bytes(16))))


def _decode(payload: bytes) -> tuple[int, bytes, list[tuple[int, bytes]]]:
    """Returns the type, the 16 bytes of cookie and transaction id, and the attributes in order."""
    if not HEADER_BYTES <= len(payload) <= MAX_MESSAGE_BYTES:
        raise DecodeError(f"a STUN message of {len(payload)} bytes")
    reader = Reader(payload)
    kind, length, identification = reader.take_u16(), reader.take_u16(), reader.take(16)
    if kind & 0xC000 or length % 4 or length != reader.remaining:
        raise DecodeError("not a STUN message")
    attributes = list(_take_attributes(reader))
    if identification[:4] == STUN_MAGIC:
        _check_fingerprint(payload, attributes)
    return kind, identification, attributes


def _take_attributes(reader: Reader) -> Iterator[tuple[int, bytes]]:
    while reader.remaining:
        kind, length = reader.take_u16(), reader.take_u16()
        value = reader.take(length)
        reader.take(-length % 4)
        yield kind, value


def _check_fingerprint(payload: bytes, attributes: list[tuple[int, bytes]]) -> None:
    if any(kind == _FINGERPRINT for kind, _ in attributes[:-1]):
        raise DecodeError("a FINGERPRINT that is not the last attribute")
    if attributes and attributes[-1][0] == _FINGERPRINT and attributes[-1][1] != _fingerprint(payload[:-8]):
        raise DecodeError("the FINGERPRINT is wrong")


def _fingerprint(message: bytes) -> bytes:
    return (binascii.crc32(message) ^ _FINGERPRINT_XOR).to_bytes(4)


def _message(kind: int, identification: bytes, attributes: bytes) -> bytes:
    return kind.to_bytes(2) + len(attributes).to_bytes(2) + identification + attributes


def _with_fingerprint(kind: int, identification: bytes, attributes: bytes) -> bytes:
    """The checksum covers a header whose length already counts it (section 14.7)."""
    header = kind.to_bytes(2) + (len(attributes) + 8).to_bytes(2) + identification
    covered = header + attributes
    return covered + _attribute(_FINGERPRINT, _fingerprint(covered))


def _attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2) + len(value).to_bytes(2) + value + bytes(-len(value) % 4)


def _error_attributes(unknown: list[int]) -> bytes:
    listed = b"".join(attribute.to_bytes(2) for attribute in unknown[:_LISTED_UNKNOWN])
    return _attribute(_ERROR_CODE, _UNKNOWN_ATTRIBUTE_CODE) + _attribute(_UNKNOWN_ATTRIBUTES, listed)


def _encode_address(address: Address, mask: bytes) -> bytes:
    packed = ipaddress.ip_address(address.ip).packed
    family = 2 if len(packed) == 16 else 1
    port = address.port ^ int.from_bytes(mask[:2])
    return bytes((0, family)) + port.to_bytes(2) + _xor(packed, mask)


def _decode_address(value: bytes, mask: bytes) -> Address:
    reader = Reader(value)
    family, port = reader.take_u16() & 0xFF, reader.take_u16() ^ int.from_bytes(mask[:2])
    if family not in (1, 2) or port == 0:
        raise DecodeError("a mapped address that is none")
    packed = _xor(reader.take(4 if family == 1 else 16), mask)
    if reader.remaining:
        raise DecodeError("a mapped address with something behind it")
    return Address(str(ipaddress.ip_address(packed)), port, Transport.UDP)


def _decode_other(value: bytes | None) -> Address | None:
    """An OTHER-ADDRESS that is none is skipped, as all that need not be understood: the answer is good without it."""
    try:
        return _decode_address(value, bytes(16)) if value is not None else None
    except DecodeError:
        return None


def _decode_error_code(value: bytes) -> int:
    reader = Reader(value)
    reader.take(2)
    return (reader.take_u8() & 7) * 100 + reader.take_u8()


def _xor(value: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ key for byte, key in zip(value, mask, strict=False))
