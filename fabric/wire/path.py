"""Small messages that find, keep and end paths: gated before a session, sealed inside one.

Gated bodies (first byte is the kind; a PIECE of a handshake message, kind 4, is in `handshake`):

    PROBE        1 | time u64 ms | token 16 | zero 20       padded: a probe is never shorter than its reply
    PROBE_REPLY  2 | token 16 | address of the prober as seen here
    CALL         3 | time u64 ms | token 16                 asks the client of the pair for a HELLO

Inside a sealed record of kind CONTROL:

    PROBE        1 | token 16 | use u8 | zero 19 or more    longer ones find out how much the path carries
    PROBE_REPLY  2 | token 16 | address of the prober as seen here
    CLOSE        3 | reason u8
    OFFER        4 | offer (see `offer`)                    the sender's candidates have changed
    FORWARD      5 | name length u8 | name | envelope       pass this sealed offer on to a common peer
    FORWARDED    6 | name length u8 | name | envelope       a common peer gave me this for you

Bytes behind the last field are ignored. Decoders raise `DecodeError` only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fabric.errors import DecodeError
from fabric.wire.address import Address, decode_address, encode_address
from fabric.wire.codec import Reader

TOKEN_BYTES = 16
MAX_OFFER_BYTES = 1024
MAX_ENVELOPE_BYTES = 4096
"""An offer sealed and signed takes about 2,700."""
_PADDING = bytes(20)
PROBE_BYTES = 1 + TOKEN_BYTES + len(_PADDING)
"""A sealed probe without further padding."""


class GatedKind(enum.IntEnum):
    PROBE = 1
    PROBE_REPLY = 2
    CALL = 3
    PIECE = 4


class ControlKind(enum.IntEnum):
    PROBE = 1
    PROBE_REPLY = 2
    CLOSE = 3
    OFFER = 4
    FORWARD = 5
    FORWARDED = 6


class CloseReason(enum.IntEnum):
    """Why a session ends. A reason from a later version reads as `STOPPED`: the session has ended all the same."""

    WITHDRAWN = 1
    STOPPED = 2
    CERTIFICATE = 3


@dataclass(frozen=True, slots=True)
class GatedProbe:
    unix_ms: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Call:
    unix_ms: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Probe:
    """`padding` makes a longer probe of it, to find out how much a path carries; its content says nothing. With `use`
    the sender says that this is the path which it sends on, so that the other end can do so too."""

    token: bytes
    padding: int = 0
    use: bool = False


@dataclass(frozen=True, slots=True)
class ProbeReply:
    token: bytes
    observed: Address


@dataclass(frozen=True, slots=True)
class Close:
    reason: CloseReason


@dataclass(frozen=True, slots=True)
class OfferUpdate:
    offer: bytes


@dataclass(frozen=True, slots=True)
class Forward:
    """`envelope` is sealed to `to` (a full name), and signed by who says this."""

    to: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Forwarded:
    """`envelope` claims to be from `sender`; only its signature proves it."""

    sender: str
    envelope: bytes


GatedMessage = GatedProbe | ProbeReply | Call
ControlMessage = Probe | ProbeReply | Close | OfferUpdate | Forward | Forwarded


def encode_gated_message(message: GatedMessage) -> bytes:
    match message:
        case GatedProbe(unix_ms, token):
            return bytes((GatedKind.PROBE,)) + unix_ms.to_bytes(8) + token + _PADDING
        case ProbeReply(token, observed):
            return bytes((GatedKind.PROBE_REPLY,)) + token + encode_address(observed)
        case Call(unix_ms, token):
            return bytes((GatedKind.CALL,)) + unix_ms.to_bytes(8) + token


def decode_gated_message(body: bytes) -> GatedMessage:
    """Raises `DecodeError` for unknown kinds, and for a PIECE, which is not decoded here."""
    reader = Reader(body)
    match reader.take_u8():
        case GatedKind.PROBE:
            probe = GatedProbe(reader.take_u64(), reader.take(TOKEN_BYTES))
            reader.take(len(_PADDING))
            return probe
        case GatedKind.PROBE_REPLY:
            return ProbeReply(reader.take(TOKEN_BYTES), decode_address(reader))
        case GatedKind.CALL:
            return Call(reader.take_u64(), reader.take(TOKEN_BYTES))
        case kind:
            raise DecodeError(f"gated kind {kind}")


def encode_control(message: ControlMessage) -> bytes:
    match message:
        case Probe(token, padding, use):
            return bytes((ControlKind.PROBE,)) + token + bytes((use,)) + _PADDING[1:] + bytes(padding)
        case ProbeReply(token, observed):
            return bytes((ControlKind.PROBE_REPLY,)) + token + encode_address(observed)
        case Close(reason):
            return bytes((ControlKind.CLOSE, reason))
        case OfferUpdate(offer):
            return bytes((ControlKind.OFFER,)) + offer
        case Forward(name, envelope):
            return bytes((ControlKind.FORWARD,)) + _encode_name(name) + envelope
        case Forwarded(name, envelope):
            return bytes((ControlKind.FORWARDED,)) + _encode_name(name) + envelope


def decode_control(payload: bytes) -> ControlMessage:
    reader = Reader(payload)
    match reader.take_u8():
        case ControlKind.PROBE:
            probe = Probe(reader.take(TOKEN_BYTES))
            use = reader.take(len(_PADDING))[0] == 1
            return Probe(probe.token, reader.remaining, use)
        case ControlKind.PROBE_REPLY:
            return ProbeReply(reader.take(TOKEN_BYTES), decode_address(reader))
        case ControlKind.CLOSE:
            return Close(_close_reason(reader.take_u8()))
        case ControlKind.OFFER:
            if reader.remaining > MAX_OFFER_BYTES:
                raise DecodeError(f"an offer of {reader.remaining} bytes")
            return OfferUpdate(reader.take_rest())
        case ControlKind.FORWARD:
            return Forward(_decode_name(reader), _take_envelope(reader))
        case ControlKind.FORWARDED:
            return Forwarded(_decode_name(reader), _take_envelope(reader))
        case kind:
            raise DecodeError(f"control kind {kind}")


def _encode_name(name: str) -> bytes:
    encoded = name.encode("ascii")
    return bytes((len(encoded),)) + encoded


def _decode_name(reader: Reader) -> str:
    try:
        return reader.take(reader.take_u8()).decode("ascii")
    except UnicodeDecodeError as error:
        raise DecodeError(str(error)) from None


def _take_envelope(reader: Reader) -> bytes:
    if not 0 < reader.remaining <= MAX_ENVELOPE_BYTES:
        raise DecodeError(f"an envelope of {reader.remaining} bytes")
    return reader.take_rest()


def _close_reason(value: int) -> CloseReason:
    try:
        return CloseReason(value)
    except ValueError:
        return CloseReason.STOPPED
