"""Just enough multicast DNS (RFC 6762) to ask one name and answer it: what printers and players do on a LAN."""

from __future__ import annotations

import ipaddress
import socket
import struct

GROUP, PORT = "224.0.0.251", 5353
TYPE_A, CLASS_IN, CACHE_FLUSH = 1, 1, 0x8000
LIFETIME_S = 120


def query(name: str) -> bytes:
    """A question for the IPv4 address of `name`."""
    return struct.pack("!6H", 0, 0, 1, 0, 0, 0) + _labels(name) + struct.pack("!2H", TYPE_A, CLASS_IN)


def answer(name: str, address: str) -> bytes:
    """An authoritative answer: `name` is at `address`."""
    record = struct.pack("!2HIH", TYPE_A, CLASS_IN | CACHE_FLUSH, LIFETIME_S, 4) + socket.inet_aton(address)
    return struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0) + _labels(name) + record


def answered_address(message: bytes, name: str) -> str | None:
    """The address in an answer for `name`; None for any other message."""
    head = answer(name, "0.0.0.0")[:-4]  # noqa: S104  a placeholder, nothing is bound to it
    if not message.startswith(head) or len(message) != len(head) + 4:
        return None
    return str(ipaddress.IPv4Address(message[len(head) :]))


def _labels(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
