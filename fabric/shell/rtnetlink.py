"""rtnetlink(7) as far as an endpoint needs it: requests, messages, attributes. Numbers are in the host's byte order.

     0        4      6       8          12     16
    +--------+------+-------+----------+------+------------------+----------------------------------+ ...
    | length | kind | flags | sequence | port | fixed part       | attribute: length, kind, value   |
    +--------+------+-------+----------+------+------------------+----------------------------------+ ...
                                               ifinfomsg, 16 bytes: family, type, index, flags, change
                                               ifaddrmsg, 8 bytes: family, prefix length, flags, scope, index
                                               rtmsg, 12 bytes: family, lengths of destination and source, ...

Lengths count themselves; messages and attributes begin at multiples of four. Only the kernel writes to these sockets.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

RECEIVE_BYTES = 65_536
"""The kernel fills at most 32 KiB of a larger buffer with one part of a dump."""

# linux/netlink.h
NLM_F_DUMP = 0x300
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_CREATE = 0x1, 0x4, 0x100, 0x400
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLA_TYPE_MASK = 0x3FFF
# linux/rtnetlink.h
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 20, 22, 24, 26
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x40, 0x100
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC = 1, 4, 5, 7
# linux/if_link.h, linux/if_addr.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_TXQLEN, IFLA_AF_SPEC, IFLA_GSO_MAX_SIZE = 1, 3, 4, 13, 26, 41
IFLA_INET6_ADDR_GEN_MODE = 8
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8

LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBI")
ROUTE = struct.Struct("=BBBBBBBBI")

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_NUMBER = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Message:
    """One of the kernel's; `body` begins with the fixed part."""

    kind: int
    body: bytes

    @property
    def is_last(self) -> bool:
        """Whether it only ends an answer, well or in an error."""
        return self.kind in (_NLMSG_DONE, _NLMSG_ERROR)


def request(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Returns a request; `flags` are those beside NLM_F_REQUEST."""
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """Returns `value` behind its header, filled up to where the next one may begin."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def messages(received: bytes) -> Iterator[Message]:
    """Yields the messages of one read."""
    at = 0
    while at + _HEADER.size <= len(received):
        length, kind, _, _, _ = _HEADER.unpack_from(received, at)
        yield Message(kind, received[at + _HEADER.size : at + length])
        at += max(_HEADER.size, length + -length % 4)


def attributes(body: bytes, fixed: struct.Struct) -> Mapping[int, bytes]:
    """Returns the values behind the fixed part of a message, by their kinds."""
    found: dict[int, bytes] = {}
    at = fixed.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        found[kind & _NLA_TYPE_MASK] = body[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, length + -length % 4)
    return found


def number(value: bytes | None) -> int | None:
    """Returns the number that an attribute of four bytes holds."""
    return None if value is None else int(_NUMBER.unpack(value)[0])


def open_netlink(groups: int = 0) -> socket.socket:
    """Returns a socket that hears of changes that concern these RTMGRP_* groups. Raises `OSError`."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


# what changes the host


def set_link(netlink: socket.socket, index: int, *, mac: bytes, mtu: int) -> None:
    """Raises `OSError`, as do those below; `netlink` is a blocking socket."""
    values = attribute(IFLA_ADDRESS, mac) + attribute(IFLA_MTU, _NUMBER.pack(mtu))
    _order(netlink, RTM_NEWLINK, LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + values)


def set_link_number(netlink: socket.socket, index: int, kind: int, value: int) -> None:
    """Sets an attribute IFLA_* of four bytes."""
    _order(netlink, RTM_NEWLINK, LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(kind, _NUMBER.pack(value)))


def set_link_flags(netlink: socket.socket, index: int, flags: int) -> None:
    """Sets those of the IFF_* flags, and changes no other."""
    _order(netlink, RTM_NEWLINK, LINK.pack(socket.AF_UNSPEC, 0, index, flags, flags))


def set_address_rule(netlink: socket.socket, index: int, rule: int) -> None:
    """How the kernel makes the link-local IPv6 address: IN6_ADDR_GEN_MODE_*."""
    inet6 = attribute(socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([rule])))
    body = LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0) + attribute(IFLA_AF_SPEC, inet6)
    _order(netlink, RTM_NEWLINK, body)


def put_address(
    netlink: socket.socket, index: int, address: bytes, prefix_length: int, *, broadcast: bytes = b"", flags: int = 0
) -> None:
    """Gives a link an address of 4 or 16 bytes, or the one that it has already these properties."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = ADDRESS.pack(family, prefix_length, 0, 0, index)
    body += attribute(IFA_LOCAL, address) + attribute(IFA_ADDRESS, address)
    body += attribute(IFA_FLAGS, _NUMBER.pack(flags))
    if broadcast:
        body += attribute(IFA_BROADCAST, broadcast)
    _order(netlink, RTM_NEWADDR, body, _NLM_F_CREATE | _NLM_F_REPLACE)


def _order(netlink: socket.socket, kind: int, body: bytes, flags: int = 0) -> None:
    netlink.send(request(kind, body, _NLM_F_ACK | flags))
    for message in messages(netlink.recv(RECEIVE_BYTES)):
        (code,) = _CODE.unpack_from(message.body) if message.kind == _NLMSG_ERROR else (-errno.EPROTO,)
        if code:
            raise OSError(-code, os.strerror(-code))
