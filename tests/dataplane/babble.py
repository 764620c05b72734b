"""Frames of every kind that a host, or somebody worse, gives to a lane; each behind its vnet header."""

from __future__ import annotations

import struct
from random import Random

from fabric.wire.vnet import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, NEEDS_CSUM, NO_VNET
from tests.dataplane.pair import End

_PATTERN = bytes(range(256)) * 300
_TAGS = (b"\x81\x00\x00\x05", b"\x88\xa8\x00\x06", b"\x91\x00\x00\x07")
_SNAP = b"\xaa\xaa\x03\x00\x00\x00"
_OPTIONS = b"\x01" * 12


def payload(chance: Random, length: int) -> bytes:
    """Bytes that differ from one frame to the next, and that cost little to draw."""
    start = chance.randrange(256)
    return _PATTERN[start : start + length]


def ethernet(chance: Random, one: End, destination: bytes, ethertype: bytes, *, most_tags: int = 3) -> bytes:
    tags = [chance.choice(_TAGS) for _ in range(chance.choice((0, 0, 0, 1, 2, most_tags)))]
    return destination + one.mac + b"".join(tags) + ethertype


def transport(chance: Random, *, is_udp: bool, length: int) -> bytes:
    """The header of TCP or UDP before `length` bytes."""
    if is_udp:
        ports = chance.choice(((4000, 5000), (4000, 5000), (67, 5000), (4000, 68), (547, 1), (4, 546)))
        return struct.pack("!HHHH", *ports, 8 + length, chance.randrange(65536))
    options = chance.choice((b"", b"", _OPTIONS))
    offset = (20 + len(options)) // 4 << 4
    flags = chance.choice((0x10, 0x18, 0x19, 0x98, 0x99, 0xFF))
    sequence = chance.choice((0, 1, 0xFFFF_FF00))
    return struct.pack("!HHIIBBHHH", 4000, 5000, sequence, 9, offset, flags, 500, chance.randrange(65536), 0) + options


def ip(chance: Random, one: End, other: End, body: bytes, *, protocol: int, is_ipv6: bool) -> bytes:
    if is_ipv6:
        return struct.pack("!IHBB", 0x60000000, len(body), protocol, 64) + one.ipv6 + other.ipv6 + body
    options = chance.choice((b"", b"", b"", b"\x01" * 8))
    total = 20 + len(options) + len(body)
    fragment = chance.choice((0, 0, 0, 0x4000, 0x2000, 0x0010))
    first = 0x40 + (20 + len(options)) // 4
    head = struct.pack("!BBHHHBBH", first, 0, total & 0xFFFF, 0xFFFC, fragment, 64, protocol, 0x1234)
    return head + one.ipv4 + other.ipv4 + options + body


def super_frame(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    """As a kernel makes it, most of the time."""
    is_udp, is_ipv6 = chance.random() < 0.4, chance.random() < 0.5
    length = chance.choice((1, 100, 1200, 1201, 3000, 3000, 10_000, 10_000, 30_000, 65_000))
    gso_size = chance.choice((7, 8, 100, 536, 1000, 1200, 1448, 9000))
    head = transport(chance, is_udp=is_udp, length=length)
    is_plain_ip = chance.random() < 0.9
    body = head + payload(chance, length)
    while True:
        packet = ip(chance, one, other, body, protocol=17 if is_udp else 6, is_ipv6=is_ipv6)
        if is_ipv6 or not is_plain_ip or packet[6:8] in (b"\0\0", b"\x40\0"):
            break
    link = ethernet(chance, one, destination, b"\x86\xdd" if is_ipv6 else b"\x08\x00", most_tags=2)
    gso_type = GSO_UDP if is_udp else GSO_TCPV6 if is_ipv6 else GSO_TCPV4
    if not is_udp and chance.random() < 0.2:
        gso_type |= GSO_ECN
    at = len(link) + len(packet) - len(body)
    vnet = struct.pack("<BBHHHH", NEEDS_CSUM, gso_type, chance.randrange(300), gso_size, at, 6 if is_udp else 16)
    return vnet + link + packet


def partial(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    """One frame whose checksum is to be completed."""
    item = super_frame(chance, one, other, destination)
    return item[:1] + bytes((GSO_NONE,)) + item[2 : 10 + chance.choice((1500, 600, 200))]


def internet(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    is_ipv6 = chance.random() < 0.5
    protocol = chance.choice((6, 6, 17, 17, 1, 58, 0, 44, 99))
    if protocol in (6, 17):
        body = transport(chance, is_udp=protocol == 17, length=200)
    else:
        body = bytes((chance.choice((128, 5, 133, 134, 135, 136, 137, 143, 58)), 0, 0, 0)) + bytes(4)
        body += chance.choice((one.ipv6, other.ipv6, b""))
        body += chance.choice((b"", b"\x01\x01" + one.mac, b"\x02\x01" + other.mac, b"\x01\x00"))
    body += payload(chance, chance.choice((0, 3, 200, 1300)))
    liar = chance.choice((one, one, one, other))
    frame = ethernet(chance, one, destination, b"\x86\xdd" if is_ipv6 else b"\x08\x00")
    frame += ip(chance, liar, other, body, protocol=protocol, is_ipv6=is_ipv6)
    return NO_VNET + frame[: chance.choice((len(frame), len(frame), len(frame), 33, 37, 38, 53, 54, 60))]


def arp(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    operation = chance.choice((1, 2))
    sender = chance.choice((one.ipv4, one.ipv4, other.ipv4, bytes(4)))
    target = chance.choice((one.ipv4, other.ipv4))
    head = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2)
    body = head + chance.choice((one.mac, one.mac, other.mac)) + sender + bytes(6) + target
    return NO_VNET + ethernet(chance, one, destination, b"\x08\x06") + body[: chance.choice((28, 28, 20))]


def other_kind(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    """LLC, SNAP, and what nobody looks into."""
    length = chance.choice((0, 1, 46, 60, 500, 1386, 1420, 2000, 5000, 65_543))
    kind = chance.choice((b"\x88\xb5", b"\x88\xb5", b"\x00\x2e\x42\x42\x03", b"\x00\x40" + _SNAP + b"\x08\x00"))
    return NO_VNET + ethernet(chance, one, destination, kind) + payload(chance, length)


def stub(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    return NO_VNET + (destination + one.mac + b"\x08\x00")[: chance.randrange(15)]


def station(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    """From behind a bridge: somebody, a group, or who is known to be elsewhere."""
    source = chance.choice((b"\x02\x77\0\0\0" + bytes((chance.randrange(4),)), other.mac, b"\x03\0\0\0\0\1"))
    return NO_VNET + destination + source + b"\x88\xb5" + payload(chance, 50)


def liar(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    """Any of the others, with one byte of vnet header or headers changed."""
    item = bytearray(chance.choice((super_frame, super_frame, partial, internet))(chance, one, other, destination))
    item[chance.randrange(min(len(item), 90))] ^= 1 << chance.randrange(8)
    return bytes(item[: chance.choice((len(item), len(item), 9, 40, 80))])


KINDS = (super_frame, super_frame, super_frame, partial, internet, internet, arp, other_kind, stub, station, liar)


def any_frame(chance: Random, one: End, other: End, destination: bytes) -> bytes:
    """Returns a frame from `one` behind its vnet header; `other` is whom it speaks to, or of."""
    return chance.choice(KINDS)(chance, one, other, destination)
