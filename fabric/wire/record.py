"""What is sealed inside a DATA datagram. The first byte is the kind; a record without any byte says nothing.

FRAMES 1: whole Ethernet frames, at least one; those that wait together share a record

     0       1               3                3 + n
    +-------+---------------+----------------+---------------+---
    | 1     | length n, u16 | frame          | length, u16   | ...
    +-------+---------------+----------------+---------------+---

SLICE 2: a part of something that is too long for the path: a frame, a super-frame, or a message of core

     0       1       2       3       4               8                18
    +-------+-------+-------+-------+---------------+----------------+----------
    | 2     | index | count | flags | id u32        | vnet header 10 | bytes
    |       | u8    | u8    | u8    |               |                |
    +-------+-------+-------+-------+---------------+----------------+----------

    All slices of a whole have the same count, flags, id and vnet header, and are sealed under the same session.
    Flag 1 says that the vnet header counts (a super-frame, virtio 1.2 section 5.1.6); without it, it is zero.
    Flag 2 says that the whole is what a CONTROL record would have behind its kind, at most 8,192 bytes. Never both.

CONTROL 3: a message of core, see `path`

     0       1
    +-------+----------
    | 3     | message
    +-------+----------
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fabric.errors import DecodeError
from fabric.wire.datagram import DATA_OVERHEAD_BYTES
from fabric.wire.vnet import NO_VNET

FRAMES_HEAD = struct.Struct("!BH")
"""Kind and first length: all that stands before the frame in a record with one frame."""

SLICE_HEAD = struct.Struct("!BBBBI10s")
LENGTH_BYTES = 2
MIN_FRAME_BYTES = 14
"""An Ethernet header."""

MAX_FRAME_BYTES = 65_535 + 14 + 8
"""The longest IPv4 packet, behind an Ethernet header with two VLAN tags; super-frames stay below it."""

MAX_SLICES = 255
VNET_FLAG = 1
CONTROL_FLAG = 2
MAX_CONTROL_BYTES = 8192
"""Twice the longest message there is, an envelope passed on (see `path`); a peer can't make us hold more for one."""

_IPV6_UDP_BYTES = 40 + 8
_TAGGED_ETHERNET_BYTES = 14 + 4
_IPV6_MIN_MTU = 1280


class RecordKind(enum.IntEnum):
    FRAMES = 1
    SLICE = 2
    CONTROL = 3


@dataclass(frozen=True, slots=True)
class Frames:
    """Each frame has `MIN_FRAME_BYTES` to 65,535 bytes."""

    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """Part `index` of `count` of the whole `id`."""

    index: int
    count: int
    flags: int
    id: int
    vnet_header: bytes
    part: bytes


@dataclass(frozen=True, slots=True)
class ControlRecord:
    message: bytes


@dataclass(frozen=True, slots=True)
class Empty:
    """Says only that its sender holds the keys."""


@dataclass(frozen=True, slots=True)
class UnknownRecord:
    """A kind of a later version: to be ignored and counted."""

    kind: int


_CONTROL = bytes((RecordKind.CONTROL,))
_SLICE = bytes((RecordKind.SLICE,))
_CONTROL_FLAGS = bytes((CONTROL_FLAG,))

Record = Frames | Slice | ControlRecord | Empty
EMPTY = Empty()


def encode_record(record: Record) -> bytes:
    match record:
        case Frames(frames):
            return encode_frames(frames)
        case Slice(index, count, flags, id_, vnet_header, part):
            return SLICE_HEAD.pack(RecordKind.SLICE, index, count, flags, id_, vnet_header) + part
        case ControlRecord(message):
            return bytes((RecordKind.CONTROL,)) + message
        case Empty():
            return b""


def encode_frames(frames: Sequence[bytes]) -> bytes:
    """Returns one record with all `frames` in it."""
    parts = [b"\x01"]
    for frame in frames:
        parts.append(len(frame).to_bytes(LENGTH_BYTES))
        parts.append(frame)
    return b"".join(parts)


def decode_record(plain: bytes) -> Record | UnknownRecord:
    """Raises `DecodeError` for a known kind that is not whole."""
    if not plain:
        return EMPTY
    match plain[0]:
        case RecordKind.FRAMES:
            return Frames(decode_frames(plain))
        case RecordKind.SLICE:
            return _decode_slice(plain)
        case RecordKind.CONTROL:
            return ControlRecord(plain[1:])
        case kind:
            return UnknownRecord(kind)


def decode_frames(plain: bytes) -> tuple[bytes, ...]:
    """Returns the frames of a record of kind FRAMES. Raises `DecodeError` if they don't fill it exactly."""
    frames = []
    at = 1
    end = len(plain)
    while at < end:
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(plain[at:start])
        if at > end or at - start < MIN_FRAME_BYTES:
            raise DecodeError(f"a frame of {at - start} bytes where {end - start} are left")
        frames.append(plain[start:at])
    if not frames:
        raise DecodeError("no frame in a record of frames")
    return tuple(frames)


def slice_frame(frame: bytes, record_limit: int, frame_id: int, flags: int = 0) -> list[bytes]:
    """Returns the encoded slices, all of about one length, in records of at most `record_limit` bytes each.

    With `CONTROL_FLAG` it is a message that is sliced, and no frame.

    Empty where more than `MAX_SLICES` would be needed.
    """
    room = record_limit - SLICE_HEAD.size
    count = -(-len(frame) // room) if room > 0 else MAX_SLICES + 1
    if count > MAX_SLICES:
        return []
    length = -(-len(frame) // count)
    head = SLICE_HEAD.pack
    return [
        head(RecordKind.SLICE, index, count, flags, frame_id, NO_VNET) + frame[index * length : (index + 1) * length]
        for index in range(count)
    ]


def is_control(plain: bytes) -> bool:
    """Whether a record has a message of core in it, or a slice of one."""
    kind = plain[:1]
    return kind == _CONTROL or (kind == _SLICE and plain[3:4] == _CONTROL_FLAGS)


def overlay_mtu(path_mtu: int) -> int:
    """Returns the MTU of the overlay device for which no outer packet on a path of `path_mtu` is cut.

    The worst case is counted: IPv6 outside, one VLAN tag inside. Below 1280 Linux switches IPv6 off on the device,
    so there it is 1280, and long frames travel in slices.
    """
    overhead = _IPV6_UDP_BYTES + DATA_OVERHEAD_BYTES + FRAMES_HEAD.size + _TAGGED_ETHERNET_BYTES
    return max(path_mtu - overhead, _IPV6_MIN_MTU)


def _decode_slice(plain: bytes) -> Slice:
    if len(plain) <= SLICE_HEAD.size:
        raise DecodeError(f"a slice of {len(plain)} bytes")
    _, index, count, flags, frame_id, vnet_header = SLICE_HEAD.unpack_from(plain)
    if index >= count:
        raise DecodeError(f"slice {index} of {count}")
    return Slice(index, count, flags, frame_id, vnet_header, plain[SLICE_HEAD.size :])
