"""What an endpoint asks of its gateway: Port Control Protocol (RFC 6887), and NAT-PMP (RFC 6886), which it grew from.

Both are UDP to port 5351 of the gateway, and answers have the high bit of the opcode set. The first byte tells the
two apart.

PCP, request and answer (opcode 0 ANNOUNCE ends after 24 bytes, 1 MAP goes on; what follows are options):

     0       1       2               4               8                                      24
    +-------+-------+---------------+---------------+--------------------------------------+
    |   2   |  op   | reserved u16; | lifetime u32  | request: own address 16              |
    |       |       | answer: 0,    | in seconds    | answer: epoch u32 in seconds, then   |
    |       |       | result u8     |               |         12 reserved                  |
    +-------+-------+---------------+---------------+--------------------------------------+
     24                      36      37        40              42              44          60
    +-----------------------+-------+---------+---------------+---------------+-----------+
    | nonce 12              | IP    | reserved| inside port   | outside port  | outside   |
    |                       | proto |         | u16           | u16           | IP 16     |
    +-----------------------+-------+---------+---------------+---------------+-----------+
      IPv4 is written as IPv6, ::ffff:a.b.c.d. Outside: in a request, what would be welcome. Lifetime 0 deletes.

NAT-PMP:

    opcode 0, address       0, 0                            answer: 0, 128, result u16, epoch u32, outside IPv4
    1 map UDP, 2 map TCP    0, op, 0 u16, inside port u16,  answer: 0, 128 + op, result u16, epoch u32,
                            outside port u16, lifetime u32          inside port u16, outside port u16, lifetime u32

A gateway that knows another version than the one asked for says so in its own (RFC 6887 section 9 and appendix A).
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from dataclasses import dataclass

from fabric.errors import DecodeError
from fabric.wire.address import Transport
from fabric.wire.codec import Reader

GATEWAY_PORT = 5351
NEWS_GROUP = "224.0.0.1"
NEWS_PORT = 5350
"""Where a gateway that has restarted says so, to all hosts of the LAN (RFC 6887 section 14.1, RFC 6886 section 3.2)."""

NONCE_BYTES = 12
MAX_BYTES = 1100
"""RFC 6887 section 7: longer messages are none."""

_PCP_VERSION = 2
_NAT_PMP_VERSION = 0
_ANSWER = 0x80
_PCP_ANNOUNCE = 0
_PCP_MAP = 1
_PCP_HEADER_BYTES = 24
_PROTOCOLS = {Transport.UDP: 17, Transport.TCP: 6}
_TRANSPORTS = {number: transport for transport, number in _PROTOCOLS.items()}
_NAT_PMP_ADDRESS = 0
_NAT_PMP_OPCODES = {Transport.UDP: 1, Transport.TCP: 2}
_NAT_PMP_TRANSPORTS = {number: transport for transport, number in _NAT_PMP_OPCODES.items()}

SUCCESS = 0
_UNSUPPORTED_VERSION = 1


class Protocol(enum.Enum):
    """The languages in which a gateway can be asked for a port."""

    PCP = "PCP"
    NAT_PMP = "NAT-PMP"
    UPNP = "UPnP"


@dataclass(frozen=True, slots=True)
class PcpMap:
    """A request for a mapping of `port`; `outside_ip` None and `outside_port` 0 leave the choice to the gateway.

    The nonce proves later requests to be of the same client. `lifetime_s` 0 deletes.
    """

    own_ip: str
    nonce: bytes
    transport: Transport
    port: int
    outside_ip: str | None
    outside_port: int
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class PcpMapped:
    """What became of a `PcpMap`. Where `result` is no success, `lifetime_s` is for how long not to ask again."""

    result: int
    lifetime_s: int
    epoch_s: int
    nonce: bytes
    transport: Transport
    port: int
    outside_port: int
    outside_ip: str


@dataclass(frozen=True, slots=True)
class PcpNews:
    """An ANNOUNCE of the gateway: for how long it has kept its table."""

    epoch_s: int


@dataclass(frozen=True, slots=True)
class VersionRefused:
    """The gateway doesn't know the version that it was asked in; `version` is the one nearest that it knows."""

    version: int


@dataclass(frozen=True, slots=True)
class NatPmpAddress:
    """`outside_ip` means something where `result` is a success."""

    result: int
    epoch_s: int
    outside_ip: str


@dataclass(frozen=True, slots=True)
class NatPmpMapped:
    result: int
    epoch_s: int
    transport: Transport
    port: int
    outside_port: int
    lifetime_s: int


Answer = PcpMapped | PcpNews | VersionRefused | NatPmpAddress | NatPmpMapped


def encode_pcp_map(request: PcpMap) -> bytes:
    """Raises `ValueError` for a transport that is neither UDP nor TCP."""
    if request.transport not in _PROTOCOLS:
        raise ValueError(f"no mapping for {request.transport.name}")
    header = struct.pack("!BBHI16s", _PCP_VERSION, _PCP_MAP, 0, request.lifetime_s, _wide(request.own_ip))
    outside = _wide(request.outside_ip or "0.0.0.0")  # noqa: S104  RFC 6887 section 11.1: no wish, nothing is bound
    return header + struct.pack(
        "!12sB3xHH16s", request.nonce, _PROTOCOLS[request.transport], request.port, request.outside_port, outside
    )


def encode_nat_pmp_address() -> bytes:
    """Asks for the outside address."""
    return bytes((_NAT_PMP_VERSION, _NAT_PMP_ADDRESS))


def encode_nat_pmp_map(transport: Transport, port: int, outside_port: int, lifetime_s: int) -> bytes:
    """Asks for a mapping. Lifetime and outside port 0 delete the one that is there (RFC 6886 section 3.4)."""
    opcode = _NAT_PMP_OPCODES[transport]
    return struct.pack("!BBHHHI", _NAT_PMP_VERSION, opcode, 0, port, outside_port, lifetime_s)


def decode_answer(payload: bytes) -> Answer:
    """Raises `DecodeError` for what is no answer of a gateway."""
    if len(payload) > MAX_BYTES:
        raise DecodeError(f"an answer of {len(payload)} bytes")
    reader = Reader(payload)
    version, opcode = reader.take_u8(), reader.take_u8()
    if not opcode & _ANSWER:
        raise DecodeError("a request, where an answer is wanted")
    if version == _NAT_PMP_VERSION:
        return _decode_nat_pmp(opcode & ~_ANSWER, reader)
    reader.take_u8()
    result = reader.take_u8()
    if result == _UNSUPPORTED_VERSION:
        return VersionRefused(version)
    if version != _PCP_VERSION or len(payload) % 4:
        raise DecodeError(f"an answer of version {version}, {len(payload)} bytes")
    return _decode_pcp(opcode & ~_ANSWER, result, reader)


def _decode_pcp(opcode: int, result: int, reader: Reader) -> PcpMapped | PcpNews:
    lifetime_s, epoch_s = reader.take_u32(), reader.take_u32()
    reader.take(12)
    match opcode:
        case 0:
            return PcpNews(epoch_s)
        case 1:
            nonce, protocol = reader.take(NONCE_BYTES), reader.take_u8()
            reader.take(3)
            port, outside_port, outside = reader.take_u16(), reader.take_u16(), reader.take(16)
            transport = _transport(_TRANSPORTS, protocol)
            return PcpMapped(result, lifetime_s, epoch_s, nonce, transport, port, outside_port, str(_narrow(outside)))
        case _:
            raise DecodeError(f"an answer to opcode {opcode}")


def _decode_nat_pmp(opcode: int, reader: Reader) -> NatPmpAddress | NatPmpMapped | VersionRefused:
    result, epoch_s = reader.take_u16(), reader.take_u32()
    if result == _UNSUPPORTED_VERSION:
        return VersionRefused(_NAT_PMP_VERSION)
    if opcode == _NAT_PMP_ADDRESS:
        # An error may come without the address (RFC 6886 section 3.5 shows 8 bytes).
        ip = reader.take(4) if result == SUCCESS else bytes(4)
        return NatPmpAddress(result, epoch_s, str(ipaddress.IPv4Address(ip)))
    transport = _transport(_NAT_PMP_TRANSPORTS, opcode)
    port, outside_port, lifetime_s = reader.take_u16(), reader.take_u16(), reader.take_u32()
    return NatPmpMapped(result, epoch_s, transport, port, outside_port, lifetime_s)


def _transport(known: dict[int, Transport], number: int) -> Transport:
    if number not in known:
        raise DecodeError(f"a mapping for the unknown protocol {number}")
    return known[number]


def _wide(ip: str) -> bytes:
    packed = ipaddress.ip_address(ip).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def _narrow(packed: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    wide = ipaddress.IPv6Address(packed)
    return wide.ipv4_mapped or wide


_WORDS = {
    Protocol.PCP: {  # RFC 6887 section 7.4
        2: "not authorised",
        3: "malformed request",
        4: "unsupported opcode",
        5: "unsupported option",
        6: "malformed option",
        7: "its own line is down",
        8: "no resources",
        9: "unsupported protocol",
        10: "quota exceeded",
        11: "cannot provide the outside port",
        12: "another NAT stands between",
        13: "too many remote peers",
    },
    Protocol.NAT_PMP: {  # RFC 6886 section 3.5
        2: "not authorised",
        3: "its own line is down",
        4: "no resources",
        5: "unsupported opcode",
    },
}


def result_words(protocol: Protocol, result: int) -> str:
    """Returns why a gateway refuses, for people."""
    return _WORDS.get(protocol, {}).get(result, f"result {result}")
