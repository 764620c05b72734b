"""STUN Binding (RFC 8489): "from which address do you see me?"; also what clients of RFC 3489 ask.

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

No answer has any state behind it, and none is more than 3 times as long as the shortest request.
"""

from __future__ import annotations

import binascii
import ipaddress
from collections.abc import Iterator
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
_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
_FINGERPRINT_XOR = 0x5354554E

_KNOWN = frozenset({0x0001, 0x0006, 0x0008, 0x0009, 0x000A, 0x0014, 0x0015, 0x001C, 0x001D, 0x001E, 0x0020})
"""Comprehension-required attributes of RFC 8489: known, and without a meaning in a Binding without credentials."""

_LISTED_UNKNOWN = 4
_UNKNOWN_ATTRIBUTE_CODE = b"\0\0\x04\x14"
"""420: class 4, number 20 (section 14.8)."""

_SOFTWARE_NAME = b"fabric"


@dataclass(frozen=True, slots=True)
class BindingSuccess:
    """`address` is where the server saw the request come from."""

    transaction_id: bytes
    address: Address


def binding_request(transaction_id: bytes) -> bytes:
    """Returns a Binding request with a FINGERPRINT; the transaction id is 12 random bytes."""
    return _with_fingerprint(_REQUEST, STUN_MAGIC + transaction_id, b"")


def decode_binding_success(payload: bytes) -> BindingSuccess:
    """Raises `DecodeError` for anything but a success response that RFC 8489 section 6.3.3 lets one act on."""
    kind, identification, attributes = _decode(payload)
    if kind != _SUCCESS or identification[:4] != STUN_MAGIC:
        raise DecodeError("not a Binding success response")
    found = dict(reversed(attributes))  # of several of one type, the first counts
    unknown = [attribute for attribute in found if attribute < 0x8000 and attribute not in _KNOWN]
    if unknown:
        raise DecodeError(f"a Binding success response with the unknown attribute {unknown[0]:#06x}")
    if _XOR_MAPPED_ADDRESS in found:
        address = _decode_address(found[_XOR_MAPPED_ADDRESS], identification)
    elif _MAPPED_ADDRESS in found:
        address = _decode_address(found[_MAPPED_ADDRESS], bytes(16))
    else:
        raise DecodeError("a Binding success response without an address")
    return BindingSuccess(identification[4:], address)


def answer_binding(payload: bytes, source: Address) -> bytes | None:
    """Returns the answer to a Binding request that came from `source`; None where silence is the answer."""
    try:
        kind, identification, attributes = _decode(payload)
    except DecodeError:
        return None
    if kind != _REQUEST:
        return None
    if identification[:4] != STUN_MAGIC:
        return _answer_classic(identification, attributes, source)
    has_fingerprint = bool(attributes) and attributes[-1][0] == _FINGERPRINT
    unknown = [attribute for attribute, _ in attributes if attribute < 0x8000 and attribute not in _KNOWN]
    if unknown:
        kind, body = _ERROR, _error_attributes(unknown)
    else:
        address = _attribute(_XOR_MAPPED_ADDRESS, _encode_address(source, identification))
        kind, body = _SUCCESS, address + _attribute(_SOFTWARE, _SOFTWARE_NAME)
    return (_with_fingerprint if has_fingerprint else _message)(kind, identification, body)


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


def _xor(value: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ key for byte, key in zip(value, mask, strict=False))
