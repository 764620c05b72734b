"""A wiretap shows what a wire would have carried: of runs that kernels hand over whole, what another kernel cuts.

[ann]----[router]----( internet )----[router]----[bob]
                  here: runs     there: a line without offloads, for which the kernel itself has to cut
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from fabric.lab import Host, Lab, Nat
from fabric.lab.traffic import Transfer
from fabric.lab.wiretap import Wiretap

UDP_SEGMENT = 103  # linux/udp.h
RUN = random.Random(1).randbytes(40_500)
PIECE_BYTES = 1200


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> tuple[Host, Host]:
    ann, bob = (lab.site(f"s-{name}", Nat.PUBLIC, ipv6=True).host(name) for name in ("ann", "bob"))
    bob.site.stop_offloads()
    return ann, bob


@contextmanager
def tapped(lab: Lab, *hosts: Host) -> Iterator[tuple[Wiretap, Wiretap]]:
    """A wiretap at either end. They have heard everything when the block is over, and not before."""
    here, there = (Wiretap(lab, host.site) for host in hosts)
    with here, there:
        yield here, there


def address(host: Host, version: int) -> str:
    return host.ip if version == 4 or host.address_6 is None else str(host.address_6.ip)


@pytest.mark.parametrize("version", [4, 6])
def test_a_run_of_datagrams_is_cut_as_a_kernel_cuts_it(hosts: tuple[Host, Host], version: int, lab: Lab) -> None:
    ann, bob = hosts
    family, to = (socket.AF_INET, socket.AF_INET6)[version == 6], (address(bob, version), 5000)
    receiver, sender = (end.namespace.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) for end in (bob, ann))
    with receiver, sender, tapped(lab, *hosts) as taps:
        receiver.bind(to)
        receiver.settimeout(10)
        sender.sendmsg([RUN], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", PIECE_BYTES))], 0, to)
        came = [receiver.recv(65_535) for _ in range(0, len(RUN), PIECE_BYTES)]
    assert b"".join(came) == RUN
    here, there = packets(taps, UDP)
    assert [packet[-len(payload) :] for packet, payload in zip(here, came, strict=True)] == came
    assert sorted(here) == sorted(there)
    assert (taps[0].runs, taps[1].runs) == (1, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_stream_is_cut_as_a_kernel_cuts_it(hosts: tuple[Host, Host], version: int, lab: Lab) -> None:
    ann, bob = hosts
    with tapped(lab, *hosts) as taps:
        assert Transfer(ann, bob, address(bob, version), 500_000, lab.directory).finish().intact
    here, there = packets(taps, TCP)
    assert max(len(packet) for packet in here) == 1500
    assert sorted(here) == sorted(there)  # on two processors, two taps may hear two packets in either order
    assert taps[0].runs > 5
    assert taps[1].runs == 0


def packets(taps: tuple[Wiretap, Wiretap], kind: type[Packet]) -> tuple[list[bytes], list[bytes]]:
    """What went from ann to bob in IP packets, as each tap has it, but for the hop between; checksums are proven."""
    both = []
    for tap in taps:
        found = [Ether(frame) for frame in tap.frames]
        found = [each for each in found if kind in each and is_from_ann(each)]
        for packet in found:
            assert bytes(packet) == with_checksums_by_scapy(packet)
        both.append([without_hops(packet) for packet in found])
    return both[0], both[1]


def is_from_ann(packet: Packet) -> bool:
    return (packet[IP].src if IP in packet else packet[IPv6].src) in ("5.1.1.10", "2a00:5:1::a")


def with_checksums_by_scapy(packet: Packet) -> bytes:
    again = packet.copy()
    for layer in (IP, TCP, UDP):
        if layer in again:
            del again[layer].chksum
    return bytes(again)


def without_hops(packet: Packet) -> bytes:
    """The same for every hop: without what a router counts down."""
    if IP in packet:
        packet[IP].ttl = packet[IP].chksum = 0
        return bytes(packet[IP])
    packet[IPv6].hlim = 0
    return bytes(packet[IPv6])


def test_what_is_lost_on_the_internet_is_lost_datagram_by_datagram(lab: Lab, hosts: tuple[Host, Host]) -> None:
    """Half of them, of runs of forty: were a run lost whole, what arrives would be a multiple of forty."""
    ann, bob = hosts
    lab.lose(500)
    try:
        counts = [len(arrived(ann, bob)) % 40 for _ in range(3)]
    finally:
        lab.lose(0)
    assert any(counts)


def arrived(ann: Host, bob: Host) -> list[bytes]:
    """What comes of a run of forty datagrams, and of one for itself that is sent until it comes."""
    receiver, sender = (
        end.namespace.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for end in (bob, ann)
    )
    with receiver, sender:
        receiver.bind((bob.ip, 5000))
        receiver.settimeout(0.05)
        sender.sendmsg([bytes(40_000)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", 1000))], 0, (bob.ip, 5000))
        came: list[bytes] = []
        while True:
            try:
                came.append(receiver.recv(2000))
            except TimeoutError:
                sender.sendto(b"end", (bob.ip, 5000))
            if came[-1:] == [b"end"]:
                return came[:-1]
