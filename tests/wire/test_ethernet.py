"""Frames as others build them (scapy), and frames as nobody should."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp6 import DHCP6_Advertise
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from fabric.errors import DecodeError
from fabric.wire import ethernet
from fabric.wire.ethernet import (
    Arp,
    NeighbourKind,
    Protocol,
    decode_arp,
    decode_header,
    decode_ipv4,
    decode_ipv6,
    decode_neighbour_message,
    decode_ports,
    encode_arp_reply,
    encode_neighbour_advertisement,
)

A, B = "02:fa:64:40:00:01", "02:fa:64:40:00:02"
MAC_A, MAC_B = bytes.fromhex("02fa64400001"), bytes.fromhex("02fa64400002")
IP_A, IP_B = IPv4Address("100.64.0.1").packed, IPv4Address("100.64.0.2").packed
IP6_A, IP6_B = IPv6Address("fd00::1").packed, IPv6Address("fd00::2").packed


def ether(payload: Packet) -> bytes:
    return bytes(Ether(src=A, dst=B) / payload)


@pytest.mark.parametrize(
    ("payload", "payload_at"),
    [
        (IP(src="1.2.3.4"), 14),
        (Dot1Q(vlan=5) / IP(src="1.2.3.4"), 18),
        (Dot1AD(vlan=9) / Dot1Q(vlan=5) / IP(src="1.2.3.4"), 22),
    ],
)
def test_the_ethertype_behind_all_tags_is_found(payload: Packet, payload_at: int) -> None:
    header = decode_header(ether(payload))
    assert (header.destination, header.source, header.ethertype) == (MAC_B, MAC_A, 0x0800)
    assert header.payload_at == payload_at
    assert decode_ipv4(ether(payload), payload_at).source == bytes((1, 2, 3, 4))


def test_ip_in_snap_is_found_and_other_llc_has_no_ethertype() -> None:
    snap = bytes(Dot3(src=A, dst=B) / LLC() / SNAP(code=0x0800) / IP(src="1.2.3.4"))
    header = decode_header(snap)
    assert (header.ethertype, header.payload_at) == (0x0800, 22)
    assert (
        decode_header(bytes(Dot3(src=A, dst=B) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(bytes(20)))).ethertype is None
    )


def test_a_tower_of_tags_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_header(MAC_B + MAC_A + b"\x81\x00\x00\x01" * 5 + b"\x08\x00")


def test_an_arp_request_reads_as_it_was_written() -> None:
    frame = ether(ARP(op=1, hwsrc=A, psrc="100.64.0.1", hwdst="00:00:00:00:00:00", pdst="100.64.0.2"))
    assert decode_arp(frame, 14) == Arp(1, MAC_A, IP_A, bytes(6), IP_B)


def test_an_arp_reply_is_one_to_scapy() -> None:
    request = Arp(1, MAC_A, IP_A, bytes(6), IP_B)
    reply = Ether(encode_arp_reply(MAC_B, IP_B, request))
    assert (reply.src, reply.dst, reply.type) == (B, A, 0x0806)
    arp = reply[ARP]
    assert (arp.op, arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (2, B, "100.64.0.2", A, "100.64.0.1")


@pytest.mark.parametrize(
    ("to_ip", "destination", "destination_ip", "solicited"),
    [(IP6_A, A, "fd00::1", 1), (bytes(16), "33:33:00:00:00:01", "ff02::1", 0)],
)
def test_a_neighbour_advertisement_is_one_to_scapy(
    to_ip: bytes, destination: str, destination_ip: str, solicited: int
) -> None:
    frame = encode_neighbour_advertisement(MAC_B, IP6_B, MAC_A, to_ip)
    reply = Ether(frame)
    assert (reply.src, reply.dst, reply[IPv6].src, reply[IPv6].dst) == (B, destination, "fd00::2", destination_ip)
    assert (reply[IPv6].hlim, reply[ICMPv6ND_NA].tgt, reply[ICMPv6ND_NA].S, reply[ICMPv6ND_NA].O) == (
        255,
        "fd00::2",
        solicited,
        1,
    )
    assert reply[ICMPv6NDOptDstLLAddr].lladdr == B
    written = reply[ICMPv6ND_NA].cksum
    del reply[ICMPv6ND_NA].cksum
    assert Ether(bytes(reply))[ICMPv6ND_NA].cksum == written


def test_ports_are_found_behind_ip_options_and_fragments_told() -> None:
    frame = ether(IP(options=b"\x94\x04\x00\x00") / UDP(sport=67, dport=68))
    ip = decode_ipv4(frame, 14)
    assert (ip.payload_at, ip.is_fragment, ip.is_first) == (38, False, True)
    assert decode_ports(frame, ip.payload_at) == (67, 68)
    first = decode_ipv4(ether(IP(flags="MF") / ICMP()), 14)
    later = decode_ipv4(ether(IP(frag=100) / ICMP()), 14)
    assert (first.is_fragment, first.is_first, later.is_fragment, later.is_first) == (True, True, True, False)


def test_ipv6_extension_headers_are_walked() -> None:
    chain = IPv6(src="fd00::1") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(m=1) / TCP()
    ip = decode_ipv6(ether(chain), 14)
    assert (ip.source, ip.protocol, ip.is_fragment, ip.is_first) == (IP6_A, Protocol.TCP, True, True)
    assert ip.payload_at == 14 + 40 + 8 + 8 + 8
    assert not decode_ipv6(ether(IPv6() / IPv6ExtHdrFragment(offset=8) / TCP()), 14).is_first
    assert decode_ipv6(ether(IPv6() / UDP(sport=547) / DHCP6_Advertise()), 14).protocol == Protocol.UDP


def test_a_chain_that_does_not_end_in_the_frame_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_ipv6(ether(IPv6() / IPv6ExtHdrHopByHop())[:-4], 14)
    long_chain = IPv6() / IPv6ExtHdrHopByHop()
    for _ in range(9):
        long_chain = long_chain / IPv6ExtHdrDestOpt()
    with pytest.raises(DecodeError):
        decode_ipv6(ether(long_chain / TCP()), 14)


def test_neighbour_messages_show_target_and_link_addresses() -> None:
    def decode(message: Packet) -> tuple[int, bytes | None, tuple[bytes, ...]]:
        frame = ether(IPv6() / message)
        decoded = decode_neighbour_message(frame, decode_ipv6(frame, 14).payload_at)
        assert decoded is not None
        return decoded.kind, decoded.target, decoded.link_addresses

    solicitation = ICMPv6ND_NS(tgt="fd00::2") / ICMPv6NDOptSrcLLAddr(lladdr=A)
    assert decode(solicitation) == (NeighbourKind.SOLICITATION, IP6_B, (MAC_A,))
    assert decode(ICMPv6ND_NA(tgt="fd00::1")) == (NeighbourKind.ADVERTISEMENT, IP6_A, ())
    advertisement = ICMPv6ND_RA() / ICMPv6NDOptSrcLLAddr(lladdr=A)
    assert decode(advertisement) == (NeighbourKind.ROUTER_ADVERTISEMENT, None, (MAC_A,))


@pytest.mark.parametrize("tail", [b"\x01\x00" + MAC_A, b"\x01\x02" + MAC_A, b"\x01"])
def test_neighbour_options_that_are_cut_are_refused(tail: bytes) -> None:
    frame = ether(IPv6() / ICMPv6ND_NS(tgt="fd00::2")) + tail
    with pytest.raises(DecodeError):
        decode_neighbour_message(frame, 54)


def test_the_link_local_address_follows_from_the_mac() -> None:
    assert str(IPv6Address(ethernet.link_local_ip(MAC_A))) == "fe80::fa:64ff:fe40:1"


DECODERS: list[Callable[[bytes], object]] = [
    decode_header,
    lambda frame: decode_arp(frame, 14),
    lambda frame: decode_ipv4(frame, 14),
    lambda frame: decode_ipv6(frame, 14),
    lambda frame: decode_ports(frame, 14),
    lambda frame: decode_neighbour_message(frame, 14),
]
heads = st.sampled_from([b"", b"\x81\x00\x00\x01", b"\x45", b"\x60" + bytes(5) + b"\x00", b"\x87" + bytes(23)])


@given(st.binary(max_size=14), heads, st.binary(max_size=90), st.sampled_from(DECODERS))
def test_noise_gives_a_value_or_a_decode_error(
    start: bytes, head: bytes, rest: bytes, decode: Callable[[bytes], object]
) -> None:
    for frame in (start + head + rest, start.ljust(14, b"\0") + head + rest):
        with contextlib.suppress(DecodeError):
            decode(frame)
