"""Ethernet frames as far as an overlay must look into them: who sends, and what it claims to own.

     0                6                12        14
    +----------------+----------------+---------+------------------
    | destination    | source         | type    | payload            IEEE 802.3, Ethernet II
    +----------------+----------------+---------+------------------
    | destination    | source         | 81 00   | tag | type | ...   802.1Q; 88 a8 before it: 802.1ad (QinQ)
    +----------------+----------------+---------+------------------
    | destination    | source         | length  | aa aa 03 00 00 00 | type | ...     RFC 1042 (LLC and SNAP)
    +----------------+----------------+---------+------------------

ARP (RFC 826):          1 | 0800 | 6 | 4 | operation u16 | sender MAC 6, IP 4 | target MAC 6, IP 4
Neighbour discovery     type u8 | 0 | checksum | flags or reserved u32 | target 16 (not in 133, 134) | options
(RFC 4861):             option: type u8 | length u8 in units of 8 bytes | value

Every decoder raises `DecodeError` and nothing else. MACs and IPs are `bytes`, as they stand on the wire.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fabric.errors import DecodeError

HEADER_BYTES = 14
MAX_TAGS = 4
"""Two are QinQ; deeper stacks exist in carriers' networks, endless ones only in attacks."""

MAX_EXTENSION_HEADERS = 8
BROADCAST = b"\xff" * 6
ALL_NODES_IP = bytes.fromhex("ff020000000000000000000000000001")
ALL_NODES_MAC = bytes.fromhex("333300000001")
UNSPECIFIED_IPV4 = bytes(4)
UNSPECIFIED_IPV6 = bytes(16)

TAG_TYPES = frozenset((0x8100, 0x88A8, 0x9100))
_SNAP = bytes.fromhex("aaaa03000000")
_MAX_LENGTH_FIELD = 1500
_ARP_HEAD = bytes.fromhex("000108000604")
_ND_HOP_LIMIT = 255
_FLAG_SOLICITED = 0x40
_FLAG_OVERRIDE = 0x20


class EtherType(enum.IntEnum):
    IPV4 = 0x0800
    ARP = 0x0806
    IPV6 = 0x86DD


class Protocol(enum.IntEnum):
    """IP protocol numbers that matter here."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58


class ArpOperation(enum.IntEnum):
    REQUEST = 1
    REPLY = 2


class NeighbourKind(enum.IntEnum):
    """ICMPv6 types of neighbour discovery."""

    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    SOLICITATION = 135
    ADVERTISEMENT = 136
    REDIRECT = 137


class _Extension(enum.IntEnum):
    HOP_BY_HOP = 0
    ROUTING = 43
    FRAGMENT = 44
    AUTHENTICATION = 51
    DESTINATION_OPTIONS = 60
    MOBILITY = 135
    HIP = 139
    SHIM6 = 140


_EXTENSIONS = frozenset(_Extension)


@dataclass(frozen=True, slots=True)
class Header:
    """`ethertype` is that behind all tags and SNAP, or None for another LLC frame; its payload is at `payload_at`."""

    destination: bytes
    source: bytes
    ethertype: int | None
    payload_at: int

    @property
    def is_multicast(self) -> bool:
        """Also true for broadcast."""
        return bool(self.destination[0] & 1)


@dataclass(frozen=True, slots=True)
class Arp:
    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes


@dataclass(frozen=True, slots=True)
class Ip:
    """An IPv4 or IPv6 header. `protocol` is what `payload_at` holds, behind all extension headers.

    `is_first` is False for a later fragment, whose payload can't be told; `is_fragment` is True for any.
    """

    source: bytes
    destination: bytes
    protocol: int
    payload_at: int
    is_fragment: bool
    is_first: bool


@dataclass(frozen=True, slots=True)
class NeighbourMessage:
    """`kind` is a value of `NeighbourKind`; `target` is None in router messages; `link_addresses` are those in
    source and target link-layer address options."""

    kind: int
    target: bytes | None
    link_addresses: tuple[bytes, ...]


def decode_header(frame: bytes) -> Header:
    """Raises `DecodeError` for a frame that ends inside its tags, or has more than `MAX_TAGS`."""
    at = HEADER_BYTES
    kind = _u16(frame, at - 2)
    tags = 0
    while kind in TAG_TYPES:
        tags += 1
        if tags > MAX_TAGS:
            raise DecodeError(f"more than {MAX_TAGS} VLAN tags")
        at += 4
        kind = _u16(frame, at - 2)
    if kind > _MAX_LENGTH_FIELD:
        return Header(frame[:6], frame[6:12], kind, at)
    if frame[at : at + 6] == _SNAP:
        return Header(frame[:6], frame[6:12], _u16(frame, at + 6), at + 8)
    return Header(frame[:6], frame[6:12], None, at)


def decode_arp(frame: bytes, at: int) -> Arp:
    """Raises `DecodeError` for anything but ARP for IPv4 on Ethernet."""
    body = frame[at : at + 28]
    if len(body) < 28 or body[:6] != _ARP_HEAD:
        raise DecodeError("not an ARP message for IPv4 on Ethernet")
    return Arp(_u16(body, 6), body[8:14], body[14:18], body[18:24], body[24:28])


def decode_ipv4(frame: bytes, at: int) -> Ip:
    """Raises `DecodeError` for a header that is cut or of another version; checksums are the kernel's business."""
    head = frame[at : at + 20]
    if len(head) < 20 or head[0] >> 4 != 4 or head[0] & 15 < 5:
        raise DecodeError("not an IPv4 header")
    payload_at = at + 4 * (head[0] & 15)
    if payload_at > len(frame):
        raise DecodeError("an IPv4 header longer than its frame")
    fragment = _u16(head, 6) & 0x3FFF
    is_first = not fragment & 0x1FFF
    return Ip(head[12:16], head[16:20], head[9], payload_at, bool(fragment), is_first)


def decode_ipv6(frame: bytes, at: int) -> Ip:
    """Raises `DecodeError` for a header that is cut or of another version, and for a chain of extension headers
    that does not end in this frame (RFC 7112: the first fragment holds all of it)."""
    head = frame[at : at + 40]
    if len(head) < 40 or head[0] >> 4 != 6:
        raise DecodeError("not an IPv6 header")
    protocol, at = head[6], at + 40
    is_fragment, is_first = False, True
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        if protocol not in _EXTENSIONS or not is_first:
            return Ip(head[8:24], head[24:40], protocol, at, is_fragment, is_first)
        extension = frame[at : at + 8]
        if len(extension) < 8:
            raise DecodeError("an IPv6 extension header that is cut")
        if protocol == _Extension.FRAGMENT:
            is_fragment, is_first = True, not _u16(extension, 2) & 0xFFF8
        at += _extension_bytes(protocol, extension[1])
        protocol = extension[0]
    raise DecodeError(f"more than {MAX_EXTENSION_HEADERS} IPv6 extension headers")


def decode_ports(frame: bytes, at: int) -> tuple[int, int]:
    """Returns source and destination port of UDP or TCP at `at`."""
    return _u16(frame, at), _u16(frame, at + 2)


def decode_neighbour_message(frame: bytes, at: int) -> NeighbourMessage | None:
    """Returns None for an ICMPv6 message of another type. Raises `DecodeError` where fields or options are cut."""
    if at >= len(frame):
        raise DecodeError("an empty ICMPv6 message")
    kind = frame[at]
    if not NeighbourKind.ROUTER_SOLICITATION <= kind <= NeighbourKind.REDIRECT:
        return None
    target = None
    match kind:
        case NeighbourKind.ROUTER_SOLICITATION:
            options_at = at + 8
        case NeighbourKind.ROUTER_ADVERTISEMENT:
            options_at = at + 16
        case NeighbourKind.REDIRECT:
            options_at = at + 40
        case _:
            options_at = at + 24
            target = frame[at + 8 : options_at]
    if options_at > len(frame):
        raise DecodeError("a neighbour discovery message that is cut")
    return NeighbourMessage(kind, target, _link_addresses(frame, options_at))


def encode_arp_reply(mac: bytes, ip: bytes, request: Arp) -> bytes:
    """Returns the frame in which `mac` says to the sender of `request` that it has `ip`."""
    return (
        request.sender_mac
        + mac
        + EtherType.ARP.to_bytes(2)
        + _ARP_HEAD
        + ArpOperation.REPLY.to_bytes(2)
        + mac
        + ip
        + request.sender_mac
        + request.sender_ip
    )


def encode_neighbour_advertisement(mac: bytes, ip: bytes, to_mac: bytes, to_ip: bytes) -> bytes:
    """Returns the frame in which `mac` says that it has `ip` (RFC 4861 section 7.2.4).

    An unspecified `to_ip` asks to detect duplicates: the answer goes to all nodes, and is not solicited.
    """
    flags = _FLAG_OVERRIDE
    if to_ip == UNSPECIFIED_IPV6:
        to_mac, to_ip = ALL_NODES_MAC, ALL_NODES_IP
    else:
        flags |= _FLAG_SOLICITED
    tail = bytes((flags, 0, 0, 0)) + ip + b"\x02\x01" + mac
    length = 4 + len(tail)
    pseudo = ip + to_ip + length.to_bytes(4) + Protocol.ICMPV6.to_bytes(4)
    checksum = internet_checksum(pseudo + b"\x88\0\0\0" + tail)
    ipv6 = b"\x60\0\0\0" + length.to_bytes(2) + bytes((Protocol.ICMPV6, _ND_HOP_LIMIT)) + ip + to_ip
    return to_mac + mac + EtherType.IPV6.to_bytes(2) + ipv6 + b"\x88\0" + checksum.to_bytes(2) + tail


def link_local_ip(mac: bytes) -> bytes:
    """Returns the IPv6 link-local address that an interface with `mac` makes (RFC 4291 appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def internet_checksum(message: bytes) -> int:
    """Returns the checksum of RFC 1071 over `message`."""
    even = message + b"\0" * (len(message) & 1)
    total = sum(int.from_bytes(even[at : at + 2]) for at in range(0, len(even), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _link_addresses(frame: bytes, at: int) -> tuple[bytes, ...]:
    """Trailing bytes of a short frame's padding are taken for options too: they are zero, hence an end."""
    addresses = []
    while at < len(frame):
        length = 8 * frame[at + 1] if at + 1 < len(frame) else 0
        if length == 0:
            if any(frame[at:]):
                raise DecodeError("a neighbour discovery option without a length")
            break
        if at + length > len(frame):
            raise DecodeError("a neighbour discovery option that is cut")
        if frame[at] in (1, 2):
            addresses.append(frame[at + 2 : at + length])
        at += length
    return tuple(addresses)


def _extension_bytes(protocol: int, length: int) -> int:
    match protocol:
        case _Extension.FRAGMENT:
            return 8
        case _Extension.AUTHENTICATION:
            return 4 * (length + 2)
        case _:
            return 8 * (length + 1)


def _u16(message: bytes, at: int) -> int:
    if at + 2 > len(message):
        raise DecodeError(f"ends at {len(message)}, inside a field at {at}")
    return message[at] << 8 | message[at + 1]
