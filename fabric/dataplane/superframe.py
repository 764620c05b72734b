"""Super-frames: their checksums and headers, how they are cut into slices, and what is left of one with holes.

    whole    | Ethernet, tags | IP | TCP or UDP | payload ...                         |
             0                ip_at  transport_at  headers      (+ a)       (+ b)     ends_at
    a run                                                  headers mended | a ... b |

The definition is docs/dataplane.md. Everything here is a function of bytes; a kernel is asked nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fabric.errors import DecodeError
from fabric.wire.ethernet import EtherType, Protocol
from fabric.wire.record import MAX_SLICES, SLICE_HEAD, VNET_FLAG, RecordKind
from fabric.wire.vnet import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    NEEDS_CSUM,
    VnetHeader,
    decode_vnet,
    encode_vnet,
)

MAX_TAGS = 2
"""QinQ; a kernel makes no super-frame under more."""

_TAG_TYPES = (0x8100, 0x88A8)
"""Those that Linux looks behind when it cuts a super-frame (eth_type_vlan); behind 0x9100 it does not."""

_FRAGMENT = 0x3FFF
"""More fragments, and the offset of this one (RFC 791 section 3.1)."""

MAX_DATAGRAMS = 128
"""UDP_MAX_SEGMENTS of Linux 6.9: a kernel takes no more of them under one header."""

MIN_TCP_GSO_BYTES = 8
"""Less than any kernel sends (TCP_MIN_GSO_SIZE of Linux), and a flood of tiny segments from one frame."""

_GSO_TYPES = (GSO_TCPV4, GSO_TCPV6, GSO_UDP)
_UDP_BYTES = 8
_MIN_TCP_BYTES = 20
_MIN_IPV4_BYTES = 20
_IPV6_BYTES = 40
_CSUM_OFFSET_TCP, _CSUM_OFFSET_UDP = 16, 6
_TCP_FLAGS_OFFSET = 13
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80

_U16 = struct.Struct("!H")
_U32 = struct.Struct("!I")
_IPV4_HEAD = struct.Struct("!B x H 2x H x B")
"""Version and length, total length, fragment, protocol."""

_IPV6_HEAD = struct.Struct("!B 3x H B")
"""Version, payload length, next header."""

_IPV4_MENDED = struct.Struct("!HH")
"""Total length and identification, side by side."""

_SLICE_STARTS = tuple(bytes((RecordKind.SLICE, index)) for index in range(MAX_SLICES))


@dataclass(frozen=True, slots=True)
class Shape:
    """Where what lies in a super-frame: offsets in bytes from the start of the Ethernet header.

    `headers` is the length of all headers, `gso_size` the bytes of payload in each segment, `ends_at` where the frame
    ends as the lengths in its IP and UDP headers have it (the lesser of the two).
    """

    is_udp: bool
    is_ipv6: bool
    ip_at: int
    transport_at: int
    headers: int
    gso_size: int
    is_ecn: bool
    ends_at: int


def shape_of(vnet_header: bytes, frame: bytes, *, run: bool = False) -> Shape:
    """Returns the shape of a super-frame that is what its vnet header says; raises `DecodeError` for any other.

    With `run`, `frame` is the first slice only: the lengths in its headers may say more than is there.
    """
    vnet = decode_vnet(vnet_header)
    try:
        shape = _shape(vnet, frame, run=run)
    except (IndexError, struct.error):
        raise DecodeError(f"a super-frame of {len(frame)} bytes ends in its headers") from None
    length = len(frame)
    fits = shape.headers <= length <= shape.ends_at if run else shape.headers < length == shape.ends_at
    if not fits:
        raise DecodeError(f"{length} bytes, headers {shape.headers}, {shape.ends_at} by its own word")
    if not run:
        _check_datagrams(shape, length - shape.headers)
    return shape


def header_for(shape: Shape, payload_bytes: int, *, is_first: bool) -> bytes:
    """Returns the vnet header under which `payload_bytes` behind their headers are given to the kernel.

    What fits one segment is no super-frame any more, but its checksum is still partial. `is_first`: it has the first
    byte of the whole, and only then CWR.
    """
    if payload_bytes <= shape.gso_size:
        return _vnet(shape, GSO_NONE, 0)
    return _vnet(shape, _gso_type(shape, is_first=is_first), shape.gso_size)


def slice_super_frame(vnet_header: bytes, frame: bytes, record_limit: int, frame_id: int) -> list[bytes]:
    """Returns the encoded SLICE records, each of at most `record_limit` bytes; empty where it can't be sliced.

    That is where it would take more than `MAX_SLICES`, or its headers would not fit the first. Raises `DecodeError`
    as `shape_of` does.
    """
    shape = shape_of(vnet_header, frame)
    length = len(frame)
    first, step = _cuts(shape, length, record_limit - SLICE_HEAD.size)
    cuts = range(first, length, step)
    count = 1 + len(cuts)
    if first < shape.headers or count > MAX_SLICES:
        return []
    vnet = _vnet(shape, _gso_type(shape, is_first=True), shape.gso_size)
    same = SLICE_HEAD.pack(RecordKind.SLICE, 0, count, VNET_FLAG, frame_id, vnet)[2:]
    records = [_SLICE_STARTS[0] + same + frame[:first]]
    records += [start + same + frame[at : at + step] for start, at in zip(_SLICE_STARTS[1:], cuts, strict=False)]
    return records


def slice_start(shape: Shape, first_bytes: int, index: int) -> int:
    """Returns at which byte of the whole slice `index` begins, when slice 0 has `first_bytes`."""
    payload = first_bytes - shape.headers
    if index and shape.is_udp and payload and payload % shape.gso_size == 0:
        return first_bytes + (index - 1) * payload
    return index * first_bytes


def cut_run(shape: Shape, head: bytes, start: int, payload: bytes, *, is_last: bool) -> bytes | None:
    """Returns vnet header and frame of a run: `payload` lies `start` bytes behind the headers of the whole.

    `shape` is what `shape_of(..., run=True)` found in slice 0, `head` all of slice 0 or its headers only; `is_last`
    says that the run ends with the whole. None where the run holds nothing (UDP: no whole datagram). Raises
    `DecodeError` where it goes beyond the lengths that `head` tells.
    """
    first, end = start, start + len(payload)
    if shape.is_udp:
        first += -start % shape.gso_size
        end -= 0 if is_last else end % shape.gso_size
    if first >= end:
        return None
    if shape.headers + end > shape.ends_at:
        raise DecodeError(f"a run to byte {shape.headers + end}, the whole has {shape.ends_at}")
    _check_datagrams(shape, end - first)
    vnet = header_for(shape, end - first, is_first=first == 0)
    headers = mended_headers(shape, head, first, end - first, is_last=is_last)
    return b"".join((vnet, headers, payload[first - start : end - start]))


def mended_headers(shape: Shape, head: bytes, start: int, length: int, *, is_last: bool) -> bytearray:
    """Returns the headers for `length` bytes of payload, `start` bytes behind the headers of the whole.

    The checksum of TCP or UDP is partial: that of the pseudo-header.
    """
    headers = bytearray(head[: shape.headers])
    end = shape.headers + length
    if shape.is_ipv6:
        _U16.pack_into(headers, shape.ip_at + 4, end - shape.ip_at - _IPV6_BYTES)
    else:
        _mend_ipv4(shape, headers, end - shape.ip_at, start // shape.gso_size)
    if shape.is_udp:
        _U16.pack_into(headers, shape.transport_at + 4, end - shape.transport_at)
    else:
        _mend_tcp(shape, headers, start, is_last=is_last)
    checksum_at = shape.transport_at + (_CSUM_OFFSET_UDP if shape.is_udp else _CSUM_OFFSET_TCP)
    _U16.pack_into(headers, checksum_at, _pseudo_sum(shape, head, end - shape.transport_at))
    return headers


def complete_checksum(vnet: VnetHeader, frame: bytes) -> bytes:
    """Returns `frame` with the checksum that was left partial (RFC 1071; a UDP sum of 0 as ffff, RFC 768).

    Raises `DecodeError` where it would lie outside the frame.
    """
    at = vnet.csum_start + vnet.csum_offset
    if at + 2 > len(frame):
        raise DecodeError(f"a checksum at byte {at} of {len(frame)}")
    checksum = _folded_sum(frame[vnet.csum_start :]) ^ 0xFFFF
    if checksum == 0 and vnet.csum_offset == _CSUM_OFFSET_UDP:
        checksum = 0xFFFF
    return b"".join((frame[:at], _U16.pack(checksum), frame[at + 2 :]))


# -- the shape --------------------------------------------------------------------------------------------------


def _shape(vnet: VnetHeader, frame: bytes, *, run: bool) -> Shape:
    """May raise `IndexError` or `struct.error` for a frame that ends too early."""
    gso_type, is_ecn = vnet.gso_type & ~GSO_ECN, vnet.gso_type & GSO_ECN != 0
    is_udp = gso_type == GSO_UDP
    if gso_type not in _GSO_TYPES or (is_udp and is_ecn) or vnet.flags != NEEDS_CSUM or not vnet.gso_size:
        raise DecodeError(f"gso type {vnet.gso_type}, flags {vnet.flags}, segments of {vnet.gso_size} bytes")
    if not is_udp and vnet.gso_size < MIN_TCP_GSO_BYTES:
        raise DecodeError(f"TCP segments of {vnet.gso_size} bytes")
    is_ipv6, ip_at = _find_ip(frame)
    protocol, transport_at, ends_at = _decode_ipv6(frame, ip_at) if is_ipv6 else _decode_ipv4(frame, ip_at)
    if protocol != (Protocol.UDP if is_udp else Protocol.TCP) or gso_type == (GSO_TCPV4 if is_ipv6 else GSO_TCPV6):
        raise DecodeError(f"gso type {vnet.gso_type} over protocol {protocol}, IPv6 {is_ipv6}")
    if is_udp:
        headers, ends_at = transport_at + _UDP_BYTES, _udp_end(frame, transport_at, ends_at, run=run)
    else:
        headers = transport_at + _tcp_bytes(frame, transport_at)
    if vnet.csum_start != transport_at or vnet.csum_offset != (_CSUM_OFFSET_UDP if is_udp else _CSUM_OFFSET_TCP):
        raise DecodeError(f"a checksum at byte {vnet.csum_start} + {vnet.csum_offset}, transport at {transport_at}")
    return Shape(is_udp, is_ipv6, ip_at, transport_at, headers, vnet.gso_size, is_ecn, ends_at)


def _check_datagrams(shape: Shape, payload_bytes: int) -> None:
    if shape.is_udp and payload_bytes > MAX_DATAGRAMS * shape.gso_size:
        raise DecodeError(f"{payload_bytes} bytes in datagrams of {shape.gso_size}")


def _find_ip(frame: bytes) -> tuple[bool, int]:
    """Returns whether it is IPv6, and where its header begins."""
    at = 12
    for _ in range(MAX_TAGS + 1):
        (ethertype,) = _U16.unpack_from(frame, at)
        if ethertype in (EtherType.IPV4, EtherType.IPV6):
            return ethertype == EtherType.IPV6, at + 2
        if ethertype not in _TAG_TYPES:
            break
        at += 4
    raise DecodeError("a super-frame without IP")


def _decode_ipv4(frame: bytes, at: int) -> tuple[int, int, int]:
    """Returns protocol, where its header begins, and where the frame ends."""
    version, total, fragment, protocol = _IPV4_HEAD.unpack_from(frame, at)
    length = (version & 15) * 4
    if version >> 4 != 4 or length < _MIN_IPV4_BYTES or fragment & _FRAGMENT:
        raise DecodeError(f"IPv4 {version:02x} in a super-frame, fragment {fragment:04x}")
    return protocol, at + length, at + total


def _decode_ipv6(frame: bytes, at: int) -> tuple[int, int, int]:
    version, payload, next_header = _IPV6_HEAD.unpack_from(frame, at)
    if version >> 4 != 6:
        raise DecodeError(f"IPv6 {version:02x} in a super-frame")
    return next_header, at + _IPV6_BYTES, at + _IPV6_BYTES + payload


def _tcp_bytes(frame: bytes, at: int) -> int:
    length = (frame[at + 12] >> 4) * 4
    if length < _MIN_TCP_BYTES:
        raise DecodeError(f"a TCP header of {length} bytes")
    return length


def _udp_end(frame: bytes, at: int, ip_end: int, *, run: bool) -> int:
    """Returns where the frame ends by both its lengths. A run needs only that both have room for it."""
    end = at + int(_U16.unpack_from(frame, at + 4)[0])
    if end != ip_end and not run:
        raise DecodeError(f"UDP ends at {end}, IP at {ip_end}")
    return min(end, ip_end)


# -- cutting and mending ----------------------------------------------------------------------------------------


def _cuts(shape: Shape, length: int, room: int) -> tuple[int, int]:
    """Returns the lengths of slice 0 and of the others, 0 where there is no room. UDP datagrams stay whole."""
    datagrams = (room - shape.headers) // shape.gso_size if shape.is_udp else 0
    if datagrams >= 1:
        step = datagrams * shape.gso_size
        return shape.headers + step, step
    if room < 1:
        return 0, 1
    each = -(-length // -(-length // room))
    return each, each


def _vnet(shape: Shape, gso_type: int, gso_size: int) -> bytes:
    csum_offset = _CSUM_OFFSET_UDP if shape.is_udp else _CSUM_OFFSET_TCP
    return encode_vnet(VnetHeader(NEEDS_CSUM, gso_type, shape.headers, gso_size, shape.transport_at, csum_offset))


def _gso_type(shape: Shape, *, is_first: bool) -> int:
    if shape.is_udp:
        return GSO_UDP
    return (GSO_TCPV6 if shape.is_ipv6 else GSO_TCPV4) | (GSO_ECN if shape.is_ecn and is_first else 0)


def _mend_ipv4(shape: Shape, headers: bytearray, total: int, segments: int) -> None:
    """`segments` lie before it: each has the identification that comes next."""
    at = shape.ip_at
    (identification,) = _U16.unpack_from(headers, at + 4)
    _IPV4_MENDED.pack_into(headers, at + 2, total, (identification + segments) & 0xFFFF)
    headers[at + 10 : at + 12] = bytes(2)
    _U16.pack_into(headers, at + 10, _folded_sum(headers[at : shape.transport_at]) ^ 0xFFFF)


def _mend_tcp(shape: Shape, headers: bytearray, start: int, *, is_last: bool) -> None:
    at = shape.transport_at
    (sequence,) = _U32.unpack_from(headers, at + 4)
    _U32.pack_into(headers, at + 4, (sequence + start) & 0xFFFFFFFF)
    if start:
        headers[at + _TCP_FLAGS_OFFSET] &= ~_CWR
    if not is_last:
        headers[at + _TCP_FLAGS_OFFSET] &= ~(_FIN | _PSH)


def _pseudo_sum(shape: Shape, head: bytes, length: int) -> int:
    """RFC 9293 section 3.1, RFC 8200 section 8.1: folded and not inverted, as a kernel leaves it to be completed."""
    at = shape.ip_at
    addresses = head[at + 8 : at + 40] if shape.is_ipv6 else head[at + 12 : at + 20]
    protocol = Protocol.UDP if shape.is_udp else Protocol.TCP
    return (int.from_bytes(addresses) + protocol + length) % 0xFFFF or 0xFFFF


def _folded_sum(summed: bytes | bytearray) -> int:
    """Returns the sum of all 16-bit words, an odd last byte filled up with zero, with its carries added back.

    Since 2**16 is 1 modulo 65,535, that is the whole number modulo 65,535: ffff and not 0, unless all is zero.
    """
    number = int.from_bytes(summed)
    folded = number % 0xFFFF or (0xFFFF if number else 0)
    return (folded << 8) % 0xFFFF or folded if len(summed) % 2 else folded
