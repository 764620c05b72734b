"""Between an endpoint and a relay, over UDP or, one datagram a message, over a WebSocket.

RELAYED: `channel` is the relay's name for one side of one pair. What an endpoint sends on its channel arrives at the
other side on that side's channel.

     0       1               4               8
    +-------+---------------+---------------+---------------------
    | 0xf3  | 0   0   0     | channel u32   | DATA or GATED
    +-------+---------------+---------------+---------------------

RELAY_CONTROL:

     0       1       2               4
    +-------+-------+---------------+-------------
    | 0xf4  | kind  | 0   0         | body
    +-------+-------+---------------+-------------

    BIND       1   cookie 16 | signature 64 | grant        endpoint -> relay; the first with a zero cookie and signature
    CHALLENGE  2   grant id 16 | cookie 16                 ask again with this cookie, signed
    BOUND      3   grant id 16 | channel u32 | life u16 s | moves u32     this channel is yours; keep it by REFRESH
    REFRESH    4   channel u32, 1 to 250 of them           from the address that they were bound from
    REFRESHED  5   channel u32, each one that still stands (none: bind all again)
    REFUSED    6   grant id 16 | reason u8

The grant id is BLAKE2b-128 of the grant. The signature, by the identity key that the grant names, is over "fabric/1
relay", network, cookie and grant id. A cookie belongs to the source address and some minutes, and costs the relay
nothing to make, so nobody can have another's address bound. No answer is longer than its question.
Bytes behind the last field are ignored. Decoders raise `DecodeError` only.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from fabric.errors import DecodeError
from fabric.wire.codec import Reader

RELAYED_TYPE = 0xF3
RELAY_CONTROL_TYPE = 0xF4
RELAYED_HEADER = struct.Struct("!B3xI")
RELAYED_HEADER_BYTES = 8
COOKIE_BYTES = 16
SIGNATURE_BYTES = 64
GRANT_ID_BYTES = 16
MAX_GRANT_BYTES = 1024
MAX_REFRESHED = 250
_MOVES_BYTES = 4
NO_COOKIE = bytes(COOKIE_BYTES)
NO_SIGNATURE = bytes(SIGNATURE_BYTES)


class RelayKind(enum.IntEnum):
    BIND = 1
    CHALLENGE = 2
    BOUND = 3
    REFRESH = 4
    REFRESHED = 5
    REFUSED = 6


class RefusedReason(enum.IntEnum):
    """A reason of a later version reads as `GRANT`."""

    GRANT = 1
    """Not signed by this network's service, past its life, or revoked."""
    FULL = 2
    SIGNATURE = 3


@dataclass(frozen=True, slots=True)
class Bind:
    cookie: bytes
    signature: bytes
    grant: bytes


@dataclass(frozen=True, slots=True)
class Challenge:
    grant_id: bytes
    cookie: bytes


@dataclass(frozen=True, slots=True)
class Bound:
    """`channel` is never 0. `moves` counts how often the channel was bound somewhere new; 0 where an earlier version
    does not say it."""

    grant_id: bytes
    channel: int
    life_s: int
    moves: int = 0


@dataclass(frozen=True, slots=True)
class Refresh:
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refreshed:
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    grant_id: bytes
    reason: RefusedReason


RelayMessage = Bind | Challenge | Bound | Refresh | Refreshed | Refused


def wrap_relayed(channel: int, payload: bytes) -> bytes:
    return RELAYED_HEADER.pack(RELAYED_TYPE, channel) + payload


def unwrap_relayed(datagram: bytes) -> tuple[int, bytes]:
    """Returns channel and payload. Raises `DecodeError`."""
    if len(datagram) <= RELAYED_HEADER_BYTES or datagram[:4] != b"\xf3\0\0\0":
        raise DecodeError("not a relayed datagram")
    return RELAYED_HEADER.unpack_from(datagram)[1], datagram[RELAYED_HEADER_BYTES:]


def encode_relay_message(message: RelayMessage) -> bytes:
    match message:
        case Bind(cookie, signature, grant):
            return _head(RelayKind.BIND) + cookie + signature + grant
        case Challenge(grant_id, cookie):
            return _head(RelayKind.CHALLENGE) + grant_id + cookie
        case Bound(grant_id, channel, life_s, moves):
            return _head(RelayKind.BOUND) + grant_id + channel.to_bytes(4) + life_s.to_bytes(2) + moves.to_bytes(4)
        case Refresh(channels):
            return _head(RelayKind.REFRESH) + _encode_channels(channels)
        case Refreshed(channels):
            return _head(RelayKind.REFRESHED) + _encode_channels(channels)
        case Refused(grant_id, reason):
            return _head(RelayKind.REFUSED) + grant_id + bytes((reason,))


def decode_relay_message(datagram: bytes) -> RelayMessage:
    reader = Reader(datagram)
    if reader.take_u8() != RELAY_CONTROL_TYPE:
        raise DecodeError("not a relay's control message")
    kind = reader.take_u8()
    reader.take(2)
    match kind:
        case RelayKind.BIND:
            return _decode_bind(reader)
        case RelayKind.CHALLENGE:
            return Challenge(reader.take(GRANT_ID_BYTES), reader.take(COOKIE_BYTES))
        case RelayKind.BOUND:
            return _decode_bound(reader)
        case RelayKind.REFRESH:
            channels = _decode_channels(reader)
            if not channels:
                raise DecodeError("a refresh of nothing")
            return Refresh(channels)
        case RelayKind.REFRESHED:
            return Refreshed(_decode_channels(reader))
        case RelayKind.REFUSED:
            return Refused(reader.take(GRANT_ID_BYTES), _reason(reader.take_u8()))
        case _:
            raise DecodeError(f"relay message {kind}")


def _head(kind: RelayKind) -> bytes:
    return bytes((RELAY_CONTROL_TYPE, kind, 0, 0))


def _decode_bind(reader: Reader) -> Bind:
    bind = Bind(reader.take(COOKIE_BYTES), reader.take(SIGNATURE_BYTES), reader.take_rest())
    if not 0 < len(bind.grant) <= MAX_GRANT_BYTES:
        raise DecodeError(f"a grant of {len(bind.grant)} bytes")
    return bind


def _decode_bound(reader: Reader) -> Bound:
    grant_id, channel, life_s = reader.take(GRANT_ID_BYTES), reader.take_u32(), reader.take_u16()
    if channel == 0:
        raise DecodeError("channel 0")
    return Bound(grant_id, channel, life_s, reader.take_u32() if reader.remaining >= _MOVES_BYTES else 0)


def _encode_channels(channels: tuple[int, ...]) -> bytes:
    return b"".join(channel.to_bytes(4) for channel in channels[:MAX_REFRESHED])


def _decode_channels(reader: Reader) -> tuple[int, ...]:
    return tuple(reader.take_u32() for _ in range(min(reader.remaining // 4, MAX_REFRESHED)))


def _reason(value: int) -> RefusedReason:
    try:
        return RefusedReason(value)
    except ValueError:
        return RefusedReason.GRANT
