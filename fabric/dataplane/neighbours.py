"""Answers to ARP and neighbour discovery for peers: who they are is known from their certificates.

So a question never needs to cross the overlay, and nobody can answer it falsely.
"""

from __future__ import annotations

from fabric.errors import DecodeError
from fabric.wire.ethernet import (
    UNSPECIFIED_IPV4,
    ArpOperation,
    EtherType,
    Header,
    NeighbourKind,
    Protocol,
    decode_arp,
    decode_header,
    decode_ipv6,
    decode_neighbour_message,
    encode_arp_reply,
    encode_neighbour_advertisement,
)


class Neighbours:
    """Which MAC has which IP; both packed. The first to claim an address keeps it."""

    def __init__(self) -> None:
        self._macs: dict[bytes, bytes] = {}

    def add(self, ip: bytes, mac: bytes) -> bool:
        """Returns False where another MAC has that address."""
        return self._macs.setdefault(ip, mac) == mac

    def remove(self, mac: bytes) -> None:
        for ip in [ip for ip, owner in self._macs.items() if owner == mac]:
            del self._macs[ip]

    def answer(self, frame: bytes) -> bytes | None:
        """Returns the answer to a multicast frame from this host that asks for a peer's MAC, else None.

        Only untagged questions: what a VLAN's addresses are, certificates don't say.
        """
        try:
            header = decode_header(frame)
            if header.payload_at != 14:
                return None
            match header.ethertype:
                case EtherType.ARP:
                    return self._answer_arp(frame, header)
                case EtherType.IPV6:
                    return self._answer_solicitation(frame, header)
                case _:
                    return None
        except DecodeError:
            return None

    def _answer_arp(self, frame: bytes, header: Header) -> bytes | None:
        """A probe (RFC 5227) of a peer's address is answered too: it is taken. An announcement asks nothing."""
        arp = decode_arp(frame, header.payload_at)
        mac = self._macs.get(arp.target_ip)
        is_announcement = arp.sender_ip == arp.target_ip != UNSPECIFIED_IPV4
        if mac is None or arp.operation != ArpOperation.REQUEST or is_announcement:
            return None
        return encode_arp_reply(mac, arp.target_ip, arp)

    def _answer_solicitation(self, frame: bytes, header: Header) -> bytes | None:
        ip = decode_ipv6(frame, header.payload_at)
        if ip.protocol != Protocol.ICMPV6 or not ip.is_first:
            return None
        message = decode_neighbour_message(frame, ip.payload_at)
        if message is None or message.kind != NeighbourKind.SOLICITATION or message.target is None:
            return None
        mac = self._macs.get(message.target)
        if mac is None:
            return None
        return encode_neighbour_advertisement(mac, message.target, header.source, ip.source)
