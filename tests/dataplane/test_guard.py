"""The source guard: every sentence of protocol.md section 9, with frames as scapy builds them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Solicit
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, LLC, SNAP, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from fabric.dataplane.contract import Drop, Port
from fabric.dataplane.guard import SourceGuard
from fabric.wire.ethernet import link_local_ip
from tests.dataplane.pair import End, carry, ipv4, meet, pair

OWN, PEER, OTHER = "02:fa:64:40:00:02", "02:fa:64:40:00:01", "02:fa:64:40:00:09"
IP4, IP6, LOCAL = "100.64.0.1", "fd00::1", "fe80::fa:64ff:fe40:1"
OTHER4, OTHER6, OTHER_LOCAL = "100.64.0.9", "fd00::9", "fe80::fa:64ff:fe40:9"
ann = End(1)
GUARD = SourceGuard(End(2).mac, ann.port(), (link_local_ip(ann.mac), ann.ipv4, ann.ipv6))
BRIDGE = SourceGuard(End(2).mac, ann.port(bridge=True), ())


def verdict(payload: Packet, *, src: str = PEER, dst: str = OWN, guard: SourceGuard = GUARD) -> Drop | None:
    return guard.check(bytes(Ether(src=src, dst=dst) / payload))


SOLICITED = "33:33:ff:00:00:09"
ALLOWED: list[tuple[str, Packet, str]] = [
    ("tcp", IP(src=IP4) / TCP(), OWN),
    ("udp", IP(src=IP4) / UDP(sport=5000, dport=53), OWN),
    ("udp behind options", IP(src=IP4, options=b"\x94\x04\0\0") / UDP(sport=5000, dport=53), OWN),
    ("ping", IP(src=IP4) / ICMP(), OWN),
    ("later fragment", IP(src=IP4, frag=9) / Raw(b"\x00\x43\x00\x44"), OWN),
    ("multicast", IP(src=IP4, dst="224.0.0.251") / UDP(sport=5353, dport=5353), "01:00:5e:00:00:fb"),
    ("broadcast", IP(src=IP4, dst="255.255.255.255") / UDP(sport=9, dport=9), "ff:ff:ff:ff:ff:ff"),
    ("tcp over ipv6", IPv6(src=IP6) / TCP(), OWN),
    ("udp over ipv6", IPv6(src=IP6) / UDP(sport=5000, dport=53), OWN),
    ("ping over ipv6", IPv6(src=IP6) / ICMPv6EchoRequest(), OWN),
    ("link-local of the mac", IPv6(src=LOCAL) / ICMPv6EchoRequest(), OWN),
    ("dhcpv6 client", IPv6(src=LOCAL) / UDP(sport=546, dport=547) / DHCP6_Solicit(), "33:33:00:01:00:02"),
    ("arp request", ARP(op=1, hwsrc=PEER, psrc=IP4, pdst=OTHER4), "ff:ff:ff:ff:ff:ff"),
    ("arp reply", ARP(op=2, hwsrc=PEER, psrc=IP4, hwdst=OWN, pdst="100.64.0.2"), OWN),
    ("arp probe of its own", ARP(op=1, hwsrc=PEER, psrc="0.0.0.0", pdst=IP4), "ff:ff:ff:ff:ff:ff"),
    ("solicitation", IPv6(src=IP6) / ICMPv6ND_NS(tgt=OTHER6) / ICMPv6NDOptSrcLLAddr(lladdr=PEER), SOLICITED),
    ("advertisement", IPv6(src=IP6) / ICMPv6ND_NA(tgt=IP6) / ICMPv6NDOptDstLLAddr(lladdr=PEER), OWN),
    ("detection of its own", IPv6(src="::") / ICMPv6ND_NS(tgt=IP6), "33:33:ff:00:00:01"),
    ("detection of its link-local", IPv6(src="::") / ICMPv6ND_NS(tgt=LOCAL), "33:33:ff:40:00:01"),
    ("router solicitation", IPv6(src=LOCAL) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=PEER), "33:33:00:00:00:02"),
    ("router solicitation from nobody yet", IPv6(src="::") / ICMPv6ND_RS(), "33:33:00:00:00:02"),
    ("listener report", IPv6(src="::") / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(), "33:33:00:00:00:16"),
    ("unknown ethertype", Raw(b"\x88\xb5" + bytes(50)), OWN),
]
DHCP_OFFER = BOOTP(op=2) / DHCP(options=[("message-type", "offer"), "end"])
REFUSED: list[tuple[str, Packet, str]] = [
    ("another's ipv4", IP(src=OTHER4) / TCP(), OWN),
    ("nobody's ipv4", IP(src="0.0.0.0") / UDP(sport=68, dport=67), "ff:ff:ff:ff:ff:ff"),
    ("a group's ipv4", IP(src="224.0.0.1") / UDP(), OWN),
    ("another's ipv6", IPv6(src=OTHER6) / TCP(), OWN),
    ("another's link-local", IPv6(src=OTHER_LOCAL) / TCP(), OWN),
    ("a group's ipv6", IPv6(src="ff02::1") / TCP(), OWN),
    ("nobody's ipv6", IPv6(src="::") / TCP(), OWN),
    ("dhcp server", IP(src=IP4) / UDP(sport=67, dport=68) / DHCP_OFFER, "ff:ff:ff:ff:ff:ff"),
    ("dhcp server from another port", IP(src=IP4) / UDP(sport=5000, dport=68) / DHCP_OFFER, OWN),
    ("dhcp server to this host", IP(src=IP4) / UDP(sport=67, dport=68) / DHCP_OFFER, OWN),
    ("dhcp server behind options", IP(src=IP4, options=b"\x94\x04\0\0") / UDP(sport=67, dport=68) / DHCP_OFFER, OWN),
    ("dhcpv6 server", IPv6(src=LOCAL) / UDP(sport=547, dport=546) / DHCP6_Advertise(), OWN),
    ("dhcpv6 server from another port", IPv6(src=LOCAL) / UDP(sport=9, dport=546) / DHCP6_Advertise(), OWN),
    ("icmp redirect", IP(src=IP4) / ICMP(type=5), OWN),
    ("router advertisement", IPv6(src=LOCAL) / ICMPv6ND_RA(), "33:33:00:00:00:01"),
    (
        "router advertisement behind extensions",
        IPv6(src=LOCAL) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / ICMPv6ND_RA(),
        "33:33:00:00:00:01",
    ),
    ("router advertisement in a fragment", IPv6(src=LOCAL) / IPv6ExtHdrFragment(m=1) / ICMPv6ND_RA(), OWN),
    ("advertisement in a fragment", IPv6(src=IP6) / IPv6ExtHdrFragment(m=1) / ICMPv6ND_NA(tgt=IP6), OWN),
    ("redirect", IPv6(src=LOCAL) / ICMPv6ND_Redirect(), OWN),
    ("arp reply for another", ARP(op=2, hwsrc=PEER, psrc=OTHER4), OWN),
    ("arp with another's mac", ARP(op=1, hwsrc=OTHER, psrc=IP4, pdst=OTHER4), OWN),
    ("arp announcement of another", ARP(op=1, hwsrc=PEER, psrc=OTHER4, pdst=OTHER4), "ff:ff:ff:ff:ff:ff"),
    ("arp probe of another", ARP(op=1, hwsrc=PEER, psrc="0.0.0.0", pdst=OTHER4), "ff:ff:ff:ff:ff:ff"),
    ("arp reply from nobody", ARP(op=2, hwsrc=PEER, psrc="0.0.0.0", pdst=IP4), OWN),
    ("advertisement for another", IPv6(src=IP6) / ICMPv6ND_NA(tgt=OTHER6), OWN),
    ("advertisement of another mac", IPv6(src=IP6) / ICMPv6ND_NA(tgt=IP6) / ICMPv6NDOptDstLLAddr(lladdr=OTHER), OWN),
    ("solicitation of another mac", IPv6(src=IP6) / ICMPv6ND_NS(tgt=OTHER6) / ICMPv6NDOptSrcLLAddr(lladdr=OTHER), OWN),
    ("router solicitation of another mac", IPv6(src=IP6) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=OTHER), OWN),
    ("detection of another's", IPv6(src="::") / ICMPv6ND_NS(tgt=OTHER6), SOLICITED),
    (
        "detection with a link address",
        IPv6(src="::") / ICMPv6ND_NS(tgt=IP6) / ICMPv6NDOptSrcLLAddr(lladdr=PEER),
        SOLICITED,
    ),
    ("advertisement from nobody", IPv6(src="::") / ICMPv6ND_NA(tgt=IP6), OWN),
    ("to a bridge's address", Raw(b"\x88\xcc" + bytes(50)), "01:80:c2:00:00:0e"),
    ("to a bridge's other address", IP(src=IP4) / TCP(), "01:80:c2:11:22:33"),
]
TAGS = {
    "untagged": None,
    "tagged": Dot1Q(vlan=7),
    "priority only": Dot1Q(vlan=0, prio=3),
    "in qinq": Dot1AD(vlan=2) / Dot1Q(vlan=7),
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(("payload", "dst"), [case[1:] for case in ALLOWED], ids=[case[0] for case in ALLOWED])
def test_what_is_a_peers_own_passes(payload: Packet, dst: str, tag: str) -> None:
    tags = TAGS[tag]
    assert verdict(payload if tags is None else tags / payload, dst=dst) is None


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(("payload", "dst"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_not_its_own_is_dropped(payload: Packet, dst: str, tag: str) -> None:
    tags = TAGS[tag]
    assert verdict(payload if tags is None else tags / payload, dst=dst) is Drop.SOURCE_GUARD


@pytest.mark.parametrize(("payload", "dst"), [case[1:] for case in ALLOWED], ids=[case[0] for case in ALLOWED])
def test_nothing_passes_from_another_mac(payload: Packet, dst: str) -> None:
    for src in (OTHER, OWN, "ff:ff:ff:ff:ff:ff", "03:fa:64:40:00:01"):
        assert verdict(payload, src=src, dst=dst) is Drop.SOURCE_GUARD


@pytest.mark.parametrize("protocol", [TCP(), UDP()])
@pytest.mark.parametrize("ip", [IP(src=str(ann.addresses[0])), IPv6(src=str(ann.addresses[1]))])
def test_the_quick_way_in_is_as_careful_as_the_long_one(ip: Packet, protocol: Packet) -> None:
    """One tag more makes the same packet go the long way."""
    plain = bytes(Ether(src=PEER, dst=OWN) / ip / protocol)
    tagged = bytes(Ether(src=PEER, dst=OWN) / Dot1Q(vlan=5) / ip / protocol)
    for length in range(14, len(plain) + 1):
        assert GUARD.check(plain[:length]) is GUARD.check(tagged[: length + 4])
    other_version = bytearray(plain), bytearray(tagged)
    for frame, at in zip(other_version, (14, 18), strict=True):
        frame[at] ^= 0x30
    assert GUARD.check(bytes(other_version[0])) is GUARD.check(bytes(other_version[1])) is Drop.MALFORMED


def test_ip_in_snap_is_looked_into() -> None:
    frame = bytes(Dot3(src=PEER, dst=OWN) / LLC() / SNAP(code=0x0800) / IP(src=OTHER4) / TCP())
    assert GUARD.check(frame) is Drop.SOURCE_GUARD


def test_spanning_tree_stays_on_its_side_unless_bridged() -> None:
    frame = bytes(Dot3(src=PEER, dst="01:80:c2:00:00:00") / LLC() / STP())
    assert GUARD.check(frame) is Drop.SOURCE_GUARD
    assert BRIDGE.check(frame) is None


@pytest.mark.parametrize(
    "payload",
    [
        IP(src=IP4, version=6) / TCP(),
        Raw(b"\x08\x00" + b"\x45" + bytes(10)),
        Raw(b"\x08\x06" + bytes(20)),
        Raw(b"\x86\xdd" + b"\x60" + bytes(20)),
        IPv6(src=IP6) / ICMPv6ND_NS(tgt=OTHER6) / Raw(b"\x01\x05"),
    ],
)
def test_headers_that_cannot_be_read_are_malformed(payload: Packet) -> None:
    frame = bytes(Ether(src=PEER, dst=OWN) / payload)
    if isinstance(payload, Raw):
        frame = frame[:12] + bytes(payload)
    assert GUARD.check(frame) is Drop.MALFORMED


@pytest.mark.parametrize(("payload", "dst"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_bridge_may_send_for_others(payload: Packet, dst: str) -> None:
    assert verdict(payload, src=OTHER, dst=dst, guard=BRIDGE) is None
    assert verdict(payload, src=OWN, dst=dst, guard=BRIDGE) is Drop.SOURCE_GUARD
    assert verdict(payload, src="03:00:00:00:00:01", dst=dst, guard=BRIDGE) is Drop.MALFORMED


heads = st.sampled_from([bytes.fromhex(kind) for kind in ("0800", "0806", "86dd", "81000001", "88a80001", "0026")])


@given(heads, heads, st.binary(max_size=100))
def test_noise_has_a_verdict_and_no_exception(first: bytes, second: bytes, rest: bytes) -> None:
    frame = End(2).mac + ann.mac + first + second + rest
    assert GUARD.check(frame) in (None, Drop.SOURCE_GUARD, Drop.MALFORMED)
    assert BRIDGE.check(frame) is None


@given(st.data())
def test_no_single_byte_changed_in_a_header_gets_another_source_in(data: st.DataObject) -> None:
    """The quick way in and the careful one agree: the source is the peer's, or the frame is out."""
    payload = data.draw(st.sampled_from([IP(src=IP4) / TCP(), IPv6(src=IP6) / TCP()]))
    fine = bytearray(bytes(Ether(src=PEER, dst=OWN) / payload))
    source = range(26, 30) if fine[12:14] == b"\x08\x00" else range(22, 38)
    at = data.draw(st.sampled_from([*range(6, 12), *source]))
    fine[at] ^= data.draw(st.integers(1, 255))
    assert GUARD.check(bytes(fine)) is Drop.SOURCE_GUARD


# in the lane


@pytest.mark.usefixtures("each_lane")
def test_the_lane_drops_and_counts_by_peer() -> None:
    one, other = pair()
    stolen = ipv4(End(9), other)
    assert carry(one, other, [stolen, ipv4(one, other)]) == [ipv4(one, other)]
    assert other.lane.counters(one.name).drops == {Drop.SOURCE_GUARD: 1}
    assert other.lane.counters(one.name).rx_bytes == len(ipv4(one, other))


@pytest.mark.usefixtures("each_lane")
def test_an_address_that_another_peer_has_is_not_given_twice() -> None:
    bob, first, second = End(2), End(1), End(3)
    meet(first, bob)
    meet(second, bob)
    bob.lane.admit(second.name, Port(second.mac, (*second.addresses, *first.addresses, *bob.addresses)))
    for victim in (first, bob):
        stolen = bytes(Ether(src=second.mac.hex(":"), dst=OWN) / IP(src=str(victim.addresses[0])) / TCP())
        assert carry(second, bob, [stolen]) == []
    assert carry(first, bob, [ipv4(first, bob)]) == [ipv4(first, bob)]


@pytest.mark.usefixtures("each_lane")
def test_a_bridge_is_learned_behind_and_aged() -> None:
    one, other = End(1), End(2)
    meet(one, other, bridge=True)
    bystander = End(3)
    meet(other, bystander)
    station = b"\x02\x77\x00\x00\x00\x01"
    hello = other.mac + station + b"\x88\xb5hello"
    assert carry(one, other, [hello]) == [hello]
    answer = station + other.mac + b"\x88\xb5answer"
    other.send([answer], 1.0)
    assert [to for _, to in other.lane.take_datagrams()] == [one.source]
    other.lane.handle_timeout(1000.0)
    other.send([answer], 1000.0)
    assert {to for _, to in other.lane.take_datagrams()} == {one.source, bystander.source}


@pytest.mark.usefixtures("each_lane")
def test_a_bridge_cannot_speak_for_another_peer() -> None:
    one, other, third = End(1), End(2), End(3)
    meet(one, other, bridge=True)
    meet(third, other)
    assert carry(one, other, [other.mac + third.mac + b"\x88\xb5I am the third"]) == []
    assert other.lane.counters(one.name).drops == {Drop.SOURCE_GUARD: 1}
