"""The outermost layer of a UDP payload: five kinds, told apart by the first byte (as RFC 7983 does).

    0x00, 0x01  STUN (RFC 8489), magic cookie at 4
    0xf1        DATA: a sealed record of a session
    0xf2        GATED: anything before a session, under the gate of the receiver
    0xf3        RELAYED: any of the other kinds on its way through a relay, see `relay`
    0xf4        RELAY_CONTROL: between an endpoint and a relay, see `relay`

DATA (the first 16 bytes are associated data of the seal; the nonce is 4 zero bytes and the counter):

     0       1               4               8                       16
    +-------+---------------+---------------+-----------------------+----------------+----------+
    | 0xf1  | 0   0   0     | receiver's    | counter u64           | ciphertext     | tag 16   |
    |       |               | index u32     |                       |                |          |
    +-------+---------------+---------------+-----------------------+----------------+----------+

GATED (the MAC covers everything behind it):

     0       1               4               8                       24
    +-------+---------------+---------------+-----------------------+----------------+
    | 0xf2  | 0   0   0     | receiver's    | MAC 16                | body           |
    |       |               | gate index u32|                       |                |
    +-------+---------------+---------------+-----------------------+----------------+
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from fabric.errors import DecodeError

DATA_TYPE = 0xF1
GATED_TYPE = 0xF2
DATA_HEADER = struct.Struct("!B3xIQ")
DATA_HEADER_BYTES = 16
TAG_BYTES = 16
DATA_OVERHEAD_BYTES = DATA_HEADER_BYTES + TAG_BYTES
GATED_HEADER = struct.Struct("!B3xI16s")
GATED_HEADER_BYTES = 24
STUN_MAGIC = b"\x21\x12\xa4\x42"

MAX_GATED_BYTES = 1200
"""Longest GATED datagram: some networks drop longer ones, and none needs more (pieces, see `handshake`)."""


class DatagramKind(enum.Enum):
    DATA = "data"
    GATED = "gated"
    STUN = "stun"
    RELAYED = "relayed"
    RELAY_CONTROL = "relay control"
    UNKNOWN = "unknown"


_UNKNOWN = (DatagramKind.UNKNOWN, 0)
_KINDS = {
    0x00: (DatagramKind.STUN, 16),
    0x01: (DatagramKind.STUN, 16),
    0xF1: (DatagramKind.DATA, 16),
    0xF2: (DatagramKind.GATED, 16),
    0xF3: (DatagramKind.RELAYED, 16),
    0xF4: (DatagramKind.RELAY_CONTROL, 4),
}
"""First byte: the kind, and the fewest bytes that it may have."""


def classify(payload: bytes) -> DatagramKind:
    """Returns what `payload` claims to be; nothing is proven by it."""
    kind, least = _KINDS.get(payload[0], _UNKNOWN) if payload else _UNKNOWN
    if len(payload) < least or (kind is DatagramKind.STUN and payload[4:8] != STUN_MAGIC):
        return DatagramKind.UNKNOWN
    return kind


@dataclass(frozen=True, slots=True)
class Gated:
    """A gated datagram, not yet authenticated."""

    gate_index: int
    mac: bytes
    body: bytes


def encode_gated(datagram: Gated) -> bytes:
    return GATED_HEADER.pack(GATED_TYPE, datagram.gate_index, datagram.mac) + datagram.body


def decode_gated(payload: bytes) -> Gated:
    """Raises `DecodeError` for anything that `encode_gated` can't have made."""
    if not GATED_HEADER_BYTES < len(payload) <= MAX_GATED_BYTES:
        raise DecodeError(f"a gated datagram of {len(payload)} bytes")
    if payload[:4] != b"\xf2\0\0\0":
        raise DecodeError("not a gated datagram")
    _, gate_index, mac = GATED_HEADER.unpack_from(payload)
    return Gated(gate_index, mac, payload[GATED_HEADER_BYTES:])
