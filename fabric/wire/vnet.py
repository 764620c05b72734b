"""The vnet header: what a kernel leaves undone in a frame, ten bytes before it (virtio 1.2 section 5.1.6).

     0       1          2          4          6            8             10
    +-------+----------+----------+----------+------------+-------------+------------------
    | flags | gso type | hdr_len  | gso_size | csum_start | csum_offset | Ethernet frame
    | u8    | u8       | u16      | u16      | u16        | u16         |
    +-------+----------+----------+----------+------------+-------------+------------------

Numbers are little-endian, unlike all else that travels. Offsets count from the start of the Ethernet header.
Flag 1: the checksum from `csum_start` to the end is to be completed, and put at `csum_start + csum_offset`.
A gso type that is not 0: `gso_size` bytes of payload go into each segment (TCP) or datagram (UDP).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from fabric.errors import DecodeError

VNET_BYTES = 10
NO_VNET = bytes(VNET_BYTES)
"""A plain frame: whole, its checksums true."""

NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP = 0, 1, 4, 5
GSO_ECN = 0x80
"""Beside a TCP type: the first segment has CWR set, the others must not (RFC 3168 section 6.1.2)."""

_LAYOUT = struct.Struct("<BBHHHH")


class VnetHeader(NamedTuple):
    """`gso_type` has `GSO_ECN` in it; `hdr_len` as read from a kernel is not to be believed.

    No dataclass, since most small frames of a host have one to decode: this is three times as fast.
    """

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int


def decode_vnet(encoded: bytes) -> VnetHeader:
    """Takes the first `VNET_BYTES` of `encoded`; raises `DecodeError` where there are fewer."""
    if len(encoded) < VNET_BYTES:
        raise DecodeError(f"a vnet header of {len(encoded)} bytes")
    return VnetHeader._make(_LAYOUT.unpack_from(encoded))


def encode_vnet(header: VnetHeader) -> bytes:
    return _LAYOUT.pack(*header)
