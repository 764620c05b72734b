"""An envelope: sealed to one recipient, signed by one sender, carried by anybody.

     0         1        2        4              36            52
    +---------+--------+--------+--------------+-------------+------------------+-----------------+
    | version | kind   | 0   0  | sender's     | id          | bundle serial    | created         |
    | u8      | u8     |        | key 32       | 16 random   | u64              | u64, ms         |
    +---------+--------+--------+--------------+-------------+------------------+-----------------+
    | life    | payload length  | network      | recipient                                        |
    | u32, s  | u64, bytes      | u16 + text   | u16 + text              ... end of the header    |
    +---------+-----------------+--------------+--------------------------------------------------+
    | sealed: u16 length + HPKE of {content key 32, metadata}, the whole header as its info       |
    +---------------------------------------------------------------------------------------------+
    | signature 64, over "fabric/1 envelope", header, sealed                                      |
    +---------------------------------------------------------------------------------------------+
    | the payload, a chunked stream under the content key (see `crypto.stream`), to the end       |
    +---------------------------------------------------------------------------------------------+

The header says to carriers what they must know and nothing more. It proves nothing before the signature holds.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field

from fabric.errors import DecodeError
from fabric.wire.codec import Reader, block

VERSION = 1
ID_BYTES = 16
KEY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_LIFE_S = 366 * 86_400
"""A year, a leap year too."""
MAX_NAME_BYTES = 255
MAX_SEALED_BYTES = 8192
"""HPKE's 1,136 bytes, the content key, and room for a file's name and kind."""

_FIXED = struct.Struct("!BB2x32s16sQQIQ")


class EnvelopeKind(enum.IntEnum):
    """What the payload is, and so which of the recipient's keys it is sealed to."""

    OFFER = 1
    ADDRESS_UPDATE = 2
    MESSAGE = 3
    FILE = 4

    @property
    def is_mail(self) -> bool:
        """Whether it is sealed to the mail key: it may wait for a year. Otherwise, to the offer key."""
        return self in (EnvelopeKind.MESSAGE, EnvelopeKind.FILE)


@dataclass(frozen=True, slots=True)
class EnvelopeHeader:
    """`created` is unix seconds, kept to the millisecond; `life_s` whole seconds; `length` of the payload in bytes."""

    kind: EnvelopeKind
    network: str
    sender_key: bytes
    recipient: str
    id: bytes
    bundle_serial: int
    created: float
    life_s: int
    length: int


@dataclass(frozen=True, slots=True)
class EnvelopeHead:
    """Everything before the payload, taken apart; `header_bytes` are what was signed."""

    header: EnvelopeHeader
    header_bytes: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def encode_header(header: EnvelopeHeader) -> bytes:
    """Raises `DecodeError` for what `decode_head` would refuse."""
    _check(header)
    fixed = _FIXED.pack(
        VERSION,
        header.kind,
        header.sender_key,
        header.id,
        header.bundle_serial,
        round(header.created * 1000),
        header.life_s,
        header.length,
    )
    return fixed + block(header.network.encode()) + block(header.recipient.encode())


def encode_head(header_bytes: bytes, sealed: bytes, signature: bytes) -> bytes:
    return header_bytes + block(sealed) + signature


def decode_head(data: bytes) -> tuple[EnvelopeHead, bytes]:
    """Returns the head and the rest of `data`: the payload's stream, or its beginning. Raises `DecodeError`."""
    reader = Reader(data)
    header = _take_header(reader)
    header_bytes = data[: len(data) - reader.remaining]
    sealed = reader.take_block(MAX_SEALED_BYTES)
    signature = reader.take(SIGNATURE_BYTES)
    return EnvelopeHead(header, header_bytes, sealed, signature), reader.take_rest()


def decode_header(data: bytes) -> EnvelopeHeader:
    """Returns the header that `encode_header` made of these bytes, all of them. Raises `DecodeError`."""
    reader = Reader(data)
    header = _take_header(reader)
    if reader.remaining:
        raise DecodeError("an envelope's header with something behind it")
    return header


def _take_header(reader: Reader) -> EnvelopeHeader:
    fixed = reader.take(_FIXED.size)
    version, kind, sender_key, id_, bundle_serial, created_ms, life_s, length = _FIXED.unpack(fixed)
    if version != VERSION or fixed[2:4] != b"\0\0":
        raise DecodeError(f"an envelope of version {version}")
    header = EnvelopeHeader(
        kind=_kind(kind),
        network=_take_text(reader),
        sender_key=sender_key,
        recipient=_take_text(reader),
        id=id_,
        bundle_serial=bundle_serial,
        created=created_ms / 1000,
        life_s=life_s,
        length=length,
    )
    _check(header)
    return header


def _check(header: EnvelopeHeader) -> None:
    if not 0 <= header.life_s <= MAX_LIFE_S:
        raise DecodeError(f"an envelope that lives for {header.life_s} s")
    if len(header.sender_key) != KEY_BYTES or len(header.id) != ID_BYTES:
        raise DecodeError("an envelope whose sender's key or id has a wrong length")
    if max(len(header.network.encode()), len(header.recipient.encode())) > MAX_NAME_BYTES:
        raise DecodeError("an envelope with a name that is too long")


def _kind(value: int) -> EnvelopeKind:
    try:
        return EnvelopeKind(value)
    except ValueError:
        raise DecodeError(f"an envelope of kind {value}") from None


def _take_text(reader: Reader) -> str:
    try:
        return reader.take_block(MAX_NAME_BYTES).decode()
    except UnicodeDecodeError:
        raise DecodeError("an envelope with a name that is not UTF-8") from None
