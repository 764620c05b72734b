"""ARP and neighbour discovery for known peers are answered here, and only those."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from tests.dataplane.pair import End, pair

pytestmark = pytest.mark.usefixtures("each_lane")

OWN, PEER = "02:fa:64:40:00:01", "02:fa:64:40:00:02"
EVERYBODY = "ff:ff:ff:ff:ff:ff"
OWN4, PEER4, NOBODY4 = "100.64.0.1", "100.64.0.2", "100.64.0.77"
OWN6, PEER6, PEER_LOCAL, NOBODY6 = "fd00::1", "fd00::2", "fe80::fa:64ff:fe40:2", "fd00::77"


def ask(end: End, payload: Packet, *, dst: str = EVERYBODY) -> tuple[list[Packet], int]:
    """Returns the answers that come out of the TAP, and how many datagrams left."""
    end.send([bytes(Ether(src=OWN, dst=dst) / payload)], 0.0)
    return [Ether(frame) for frame in end.received()], len(end.take())


def solicitation(target: str, source: str = OWN6) -> Packet:
    plain = IPv6(src=source, dst="ff02::1:ff00:2") / ICMPv6ND_NS(tgt=target)
    return plain if source == "::" else plain / ICMPv6NDOptSrcLLAddr(lladdr=OWN)


def test_arp_for_a_peer_is_answered_with_its_mac() -> None:
    ann, _ = pair()
    ((answer,), sent) = ask(ann, ARP(op=1, hwsrc=OWN, psrc=OWN4, pdst=PEER4))
    assert (answer.src, answer.dst) == (PEER, OWN)
    assert (answer[ARP].op, answer[ARP].hwsrc, answer[ARP].psrc, answer[ARP].pdst) == (2, PEER, PEER4, OWN4)
    assert sent == 0


@pytest.mark.parametrize("target", [PEER6, PEER_LOCAL])
def test_a_solicitation_for_a_peer_is_answered_with_its_mac(target: str) -> None:
    ann, _ = pair()
    ((answer,), sent) = ask(ann, solicitation(target), dst="33:33:ff:00:00:02")
    assert (answer.src, answer.dst, answer[IPv6].src, answer[IPv6].dst) == (PEER, OWN, target, OWN6)
    assert (answer[ICMPv6ND_NA].tgt, answer[ICMPv6NDOptDstLLAddr].lladdr) == (target, PEER)
    assert sent == 0


def test_a_probe_of_a_peers_address_is_told_that_it_is_taken() -> None:
    ann, _ = pair()
    ((answer,), _) = ask(ann, ARP(op=1, hwsrc=OWN, psrc="0.0.0.0", pdst=PEER4))
    assert (answer[ARP].hwsrc, answer[ARP].psrc) == (PEER, PEER4)
    ((answer,), _) = ask(ann, solicitation(PEER6, source="::"), dst="33:33:ff:00:00:02")
    assert (answer.dst, answer[IPv6].dst, answer[ICMPv6ND_NA].S) == ("33:33:00:00:00:01", "ff02::1", 0)


@pytest.mark.parametrize(
    "payload",
    [
        ARP(op=1, hwsrc=OWN, psrc=OWN4, pdst=NOBODY4),
        ARP(op=1, hwsrc=OWN, psrc=OWN4, pdst=OWN4),
        ARP(op=1, hwsrc=OWN, psrc=PEER4, pdst=PEER4),
        ARP(op=2, hwsrc=OWN, psrc=OWN4, pdst=PEER4),
        Dot1Q(vlan=5) / ARP(op=1, hwsrc=OWN, psrc=OWN4, pdst=PEER4),
        solicitation(NOBODY6),
        IPv6(src=OWN6) / ICMPv6ND_NA(tgt=PEER6),
        IP(src=OWN4, dst="224.0.0.251"),
    ],
)
def test_all_else_goes_out_to_the_peers(payload: Packet) -> None:
    ann, _ = pair()
    assert ask(ann, payload) == ([], 1)


def test_a_question_to_the_peer_itself_is_not_answered_for_it() -> None:
    """The kernel asks its neighbours one by one whether they still live: let them say so themselves."""
    ann, _ = pair()
    assert ask(ann, ARP(op=1, hwsrc=OWN, psrc=OWN4, pdst=PEER4), dst=PEER) == ([], 1)


def test_a_dismissed_peer_is_no_longer_answered_for() -> None:
    ann, bob = pair()
    ann.lane.dismiss(bob.name)
    assert ask(ann, ARP(op=1, hwsrc=OWN, psrc=OWN4, pdst=PEER4)) == ([], 0)
