"""What a network card makes of a packet that a kernel has left to it: cut as for the wire, its checksums complete.

    | vnet header | headers | payload ...         |   ->   | headers 0 | gso_size |   | headers 1 | gso_size |  ...

A kernel counts the length of the whole into the sum of the pseudo-header, which it leaves in the checksum field; a card
replaces it by that of the piece, and believes the rest: what is wrong there is wrong on the wire.
"""

from __future__ import annotations

import struct

VNET = struct.Struct("<BBHHHH")
"""flags, gso type, headers' length, gso_size, where the checksum starts, where in there its field is: virtio 5.1.6."""
NEEDS_CHECKSUM = 1
GSO_NONE, GSO_TCP_4, GSO_TCP_6, GSO_UDP, GSO_ECN = 0, 1, 4, 5, 0x80
UDP_HEADER_BYTES, ETHERNET_BYTES, TAG_BYTES = 8, 14, 4
ETHERTYPES_OF_TAGS = (0x8100, 0x88A8)
FIN_AND_PSH, CWR = 0x09, 0x80


def finish(packet: bytes) -> list[bytes]:
    """The frames on the wire of one that has a vnet header before it, as a packet socket reads it (packet(7))."""
    flags, kind, _, gso_size, start, field = VNET.unpack_from(packet)
    frame = packet[VNET.size :]
    if kind & ~GSO_ECN in (GSO_TCP_4, GSO_TCP_6, GSO_UDP):
        return _cut(frame, start, start + field, gso_size, is_udp=kind == GSO_UDP)
    if kind != GSO_NONE:
        raise ValueError(f"no card here can cut packets of kind {kind}")
    if flags & NEEDS_CHECKSUM:
        return [_checked(bytearray(frame), start, start + field, is_udp=False)]
    return [frame]


def _cut(frame: bytes, start: int, field: int, gso_size: int, *, is_udp: bool) -> list[bytes]:
    headers = start + (UDP_HEADER_BYTES if is_udp else (frame[start + 12] >> 4) * 4)
    payload = frame[headers:]
    pieces = []
    for number, at in enumerate(range(0, len(payload), gso_size)):
        piece = bytearray(frame[:headers] + payload[at : at + gso_size])
        _shorten_ip(piece, number)
        if is_udp:
            struct.pack_into("!H", piece, start + 4, len(piece) - start)
        else:
            _move_tcp(piece, start, at, is_last=at + gso_size >= len(payload))
        (pseudo,) = struct.unpack_from("!H", piece, field)
        struct.pack_into("!H", piece, field, (pseudo - len(frame) + len(piece)) % 0xFFFF)
        pieces.append(_checked(piece, start, field, is_udp=is_udp))
    return pieces


def _shorten_ip(piece: bytearray, number: int) -> None:
    ip = ip_start(piece)
    if piece[ip] >> 4 == 6:
        struct.pack_into("!H", piece, ip + 4, len(piece) - ip - 40)
        return
    (identification,) = struct.unpack_from("!H", piece, ip + 4)
    struct.pack_into("!HH", piece, ip + 2, len(piece) - ip, (identification + number) & 0xFFFF)
    struct.pack_into("!H", piece, ip + 10, 0)
    end = ip + (piece[ip] & 15) * 4
    struct.pack_into("!H", piece, ip + 10, 0xFFFF - _sum(piece[ip:end]))


def _move_tcp(piece: bytearray, start: int, at: int, *, is_last: bool) -> None:
    (sequence,) = struct.unpack_from("!I", piece, start + 4)
    struct.pack_into("!I", piece, start + 4, (sequence + at) & 0xFFFF_FFFF)
    if not is_last:
        piece[start + 13] &= ~FIN_AND_PSH
    if at > 0:
        piece[start + 13] &= ~CWR


def ip_start(frame: bytes | bytearray) -> int:
    """Where the IP header of a frame begins: behind the Ethernet header and its tags."""
    at = ETHERNET_BYTES
    while struct.unpack_from("!H", frame, at - 2)[0] in ETHERTYPES_OF_TAGS:
        at += TAG_BYTES
    return at


def _checked(piece: bytearray, start: int, field: int, *, is_udp: bool) -> bytes:
    """With the checksum that begins with what is in its field (RFC 1071; a UDP sum of zero means none: RFC 768)."""
    checksum = 0xFFFF - _sum(piece[start:])
    struct.pack_into("!H", piece, field, checksum or (0xFFFF if is_udp else 0))
    return bytes(piece)


def _sum(words: bytes | bytearray) -> int:
    """The ones' complement sum of 16-bit words, 1 to 0xffff: only zeros would have the sum zero."""
    padded = words if len(words) % 2 == 0 else words + b"\0"
    return int.from_bytes(padded) % 0xFFFF or 0xFFFF
