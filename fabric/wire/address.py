"""An address to send to, and what makes one worth trying.

Address on the wire:

     0        1        2                      2 + n       4 + n
    +--------+--------+----------------------+-----------+
    | trans- | family | IP, n = 4 or 16      | port u16  |
    | port   | 4 or 6 |                      |           |
    +--------+--------+----------------------+-----------+
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass

from fabric.errors import DecodeError
from fabric.wire.codec import Reader


class Transport(enum.IntEnum):
    """How bytes get to an address."""

    UDP = 1
    TCP = 2
    RELAY_UDP = 3
    RELAY_TLS = 4


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """`ip` is the canonical text of an IPv4 or IPv6 address without a scope; `port` 1 to 65535.

    `via` tells apart what goes to one place by different ways of this host, and never travels. By transport:

        UDP        0 the main socket; else one of the sockets opened beside it (see `fabric.core.events.SocketsWanted`)
        TCP        0 an address to connect to; else an open connection
        RELAY_...  0 the relay itself; else the channel at it that leads to a peer
    """

    ip: str
    port: int
    transport: Transport = Transport.UDP
    via: int = 0

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.ip

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.is_ipv6 else f"{self.ip}:{self.port}"


def sender_of(source: Address) -> str:
    """Returns what tells one sender from another: its host, or its channel at a relay. Its port it can choose."""
    if source.transport in (Transport.UDP, Transport.TCP):
        return source.ip
    return f"{source} {source.via}"


Target = tuple[str, int] | tuple[str, int, Transport, int]
"""An address as a lane and its pump pass it on: (IP, port) for the main UDP socket, else with transport and `via`."""


def target_of(address: Address) -> Target:
    if address.transport is Transport.UDP and not address.via:
        return (address.ip, address.port)
    return (address.ip, address.port, address.transport, address.via)


def address_of(target: Target) -> Address:
    return Address(*target)


class CandidateKind(enum.IntEnum):
    """Where a candidate address comes from; RFC 8445 section 5.1.1 in our words."""

    HOST = 1
    REFLEXIVE = 2
    MAPPED = 3
    RELAYED = 4
    PEER_REFLEXIVE = 5


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """An address that may reach a peer."""

    kind: CandidateKind
    address: Address


def encode_address(address: Address) -> bytes:
    """`via` is this host's own business, and left out."""
    packed = ipaddress.ip_address(address.ip).packed
    family = 6 if len(packed) == 16 else 4
    return bytes((address.transport, family)) + packed + address.port.to_bytes(2)


def decode_address(reader: Reader) -> Address:
    """Raises `DecodeError` for an unknown transport or family, and for port 0."""
    try:
        transport = Transport(reader.take_u8())
    except ValueError as error:
        raise DecodeError(str(error)) from None
    family = reader.take_u8()
    if family not in (4, 6):
        raise DecodeError(f"address family {family}")
    ip = str(ipaddress.ip_address(reader.take(4 if family == 4 else 16)))
    port = reader.take_u16()
    if port == 0:
        raise DecodeError("port 0")
    return Address(ip, port, transport)
