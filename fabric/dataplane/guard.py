"""The source guard of one port: a peer sends only from its own MAC and addresses (protocol.md section 9).

    frame -> well-known unicast? -> source among the port's -> in              nearly all traffic: a few comparisons
          -> otherwise: decode -> MAC, ARP sender, IP source, neighbour discovery, DHCP -> in, or the reason why not

Of link-local IPv6 addresses a port has the one that follows from its MAC (RFC 4291 appendix A), and no other.
"""

from __future__ import annotations

from collections.abc import Iterable

from fabric.dataplane.contract import Drop, Port
from fabric.errors import DecodeError
from fabric.wire.ethernet import (
    UNSPECIFIED_IPV4,
    UNSPECIFIED_IPV6,
    ArpOperation,
    EtherType,
    Header,
    Ip,
    NeighbourKind,
    Protocol,
    decode_arp,
    decode_header,
    decode_ipv4,
    decode_ipv6,
    decode_neighbour_message,
    decode_ports,
)

_BRIDGE_PREFIX = b"\x01\x80\xc2"
"""Spanning tree, LACP, LLDP and their like: spoken between neighbours on one wire, which peers are not."""

_PLAIN_IPV4 = b"\x45"
_PLAIN_IPV4_BYTES = 14 + 20 + 4
_PLAIN_IPV6_BYTES = 14 + 40
"""Ethernet and IP, and the ports of UDP: what is shorter is looked at with care."""

_TCP = bytes((Protocol.TCP,))
_UDP = bytes((Protocol.UDP,))
_DHCP_SERVER, _DHCP_CLIENT = 67, 68
_DHCPV6_CLIENT, _DHCPV6_SERVER = 546, 547
_DHCP_SERVER_PORT = _DHCP_SERVER.to_bytes(2)
_DHCP_CLIENT_PORT = _DHCP_CLIENT.to_bytes(2)
_ICMP_REDIRECT = 5
_MULTICAST_LISTENER_REPORTS = (131, 132, 143)
"""Report and done of RFC 2710, report of RFC 3810: sent from the unspecified address while one is being tested."""


class SourceGuard:
    """`own_mac` is this host's; `addresses` are all that the port may send from, packed."""

    __slots__ = ("_addresses", "_bridge", "_ipv4_head", "_ipv6_head", "_mac", "_own_mac")

    def __init__(self, own_mac: bytes, port: Port, addresses: Iterable[bytes]) -> None:
        self._own_mac = own_mac
        self._mac = port.mac
        self._bridge = port.bridge
        self._addresses = frozenset(addresses)
        self._ipv4_head = own_mac + port.mac + EtherType.IPV4.to_bytes(2)
        self._ipv6_head = own_mac + port.mac + EtherType.IPV6.to_bytes(2)

    def check(self, frame: bytes) -> Drop | None:
        """Returns why the frame must not come in, or None where it may."""
        head = frame[:14]
        if head == self._ipv4_head and frame[14:15] == _PLAIN_IPV4 and len(frame) >= _PLAIN_IPV4_BYTES:
            if frame[26:30] in self._addresses:
                protocol = frame[23:24]
                if protocol == _TCP or (
                    protocol == _UDP and frame[34:36] != _DHCP_SERVER_PORT and frame[36:38] != _DHCP_CLIENT_PORT
                ):
                    return None
        elif (
            head == self._ipv6_head
            and frame[20:21] == _TCP
            and frame[22:38] in self._addresses
            and len(frame) >= _PLAIN_IPV6_BYTES
            and frame[14] >> 4 == 6
        ):
            return None
        if self._bridge:
            return self._check_bridged(frame)
        try:
            return None if self._is_own(frame) else Drop.SOURCE_GUARD
        except DecodeError:
            return Drop.MALFORMED

    def _check_bridged(self, frame: bytes) -> Drop | None:
        """Others may stand behind a bridge, but nobody is a group, and nobody is this host."""
        if frame[6] & 1:
            return Drop.MALFORMED
        return Drop.SOURCE_GUARD if frame[6:12] == self._own_mac else None

    def _is_own(self, frame: bytes) -> bool:
        if frame[6:12] != self._mac or frame[:3] == _BRIDGE_PREFIX:
            return False
        header = decode_header(frame)
        match header.ethertype:
            case EtherType.ARP:
                return self._is_own_arp(frame, header)
            case EtherType.IPV4:
                return self._is_own_ipv4(frame, decode_ipv4(frame, header.payload_at))
            case EtherType.IPV6:
                return self._is_own_ipv6(frame, decode_ipv6(frame, header.payload_at))
            case _:
                return True

    def _is_own_arp(self, frame: bytes, header: Header) -> bool:
        arp = decode_arp(frame, header.payload_at)
        if arp.sender_mac != self._mac:
            return False
        if arp.sender_ip == UNSPECIFIED_IPV4:  # a probe of its own address, RFC 5227 section 2.1.1
            return arp.operation == ArpOperation.REQUEST and arp.target_ip in self._addresses
        return arp.sender_ip in self._addresses

    def _is_own_ipv4(self, frame: bytes, ip: Ip) -> bool:
        if ip.source not in self._addresses:
            return False
        if not ip.is_first:
            return True
        match ip.protocol:
            case Protocol.UDP:
                source, destination = decode_ports(frame, ip.payload_at)
                return source != _DHCP_SERVER and destination != _DHCP_CLIENT
            case Protocol.ICMP:
                return frame[ip.payload_at : ip.payload_at + 1] != bytes((_ICMP_REDIRECT,))
            case _:
                return True

    def _is_own_ipv6(self, frame: bytes, ip: Ip) -> bool:
        if ip.source not in self._addresses:
            return ip.source == UNSPECIFIED_IPV6 and self._is_own_duplicate_detection(frame, ip)
        if not ip.is_first:
            return True
        match ip.protocol:
            case Protocol.UDP:
                source, destination = decode_ports(frame, ip.payload_at)
                return source != _DHCPV6_SERVER and destination != _DHCPV6_CLIENT
            case Protocol.ICMPV6:
                return self._is_own_neighbour_message(frame, ip)
            case _:
                return True

    def _is_own_duplicate_detection(self, frame: bytes, ip: Ip) -> bool:
        """What a host may send before it has an address: a test of one of its own, and the groups it listens to."""
        if ip.protocol != Protocol.ICMPV6 or ip.is_fragment:
            return False
        message = decode_neighbour_message(frame, ip.payload_at)
        if message is None:
            return frame[ip.payload_at] in _MULTICAST_LISTENER_REPORTS
        is_test = message.kind == NeighbourKind.SOLICITATION and message.target in self._addresses
        is_router_wanted = message.kind == NeighbourKind.ROUTER_SOLICITATION
        return (is_test or is_router_wanted) and not message.link_addresses  # RFC 4861 sections 4.1 and 4.3

    def _is_own_neighbour_message(self, frame: bytes, ip: Ip) -> bool:
        message = decode_neighbour_message(frame, ip.payload_at)
        if message is None:
            return True
        if ip.is_fragment:  # RFC 6980: never in fragments, where a guard can be led astray
            return False
        if any(address != self._mac for address in message.link_addresses):
            return False
        match message.kind:
            case NeighbourKind.ROUTER_ADVERTISEMENT | NeighbourKind.REDIRECT:
                return False
            case NeighbourKind.ADVERTISEMENT:
                return message.target in self._addresses
            case _:
                return True
