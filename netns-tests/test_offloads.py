"""Frames cross as long as kernels make them, and come out as true as if each had crossed for itself, over both lanes.

( internet )----[discovery]
   |      |
 public  public
   |      |
  ann    bob ---- [behind]       a cable without offloads: bob's kernel cuts, and has to complete the checksums
             \\--- ( bridge )     likewise; whoever is behind it has bob's addresses

A checksum that is wrong within the overlay shows on that cable only: a kernel that gets a frame for itself, with the
word that its checksum is still to be made, asks for nothing.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.namespace import Namespace
from fabric.lab.overlay import await_connected, introduce, start_all
from fabric.lab.program import run
from fabric.lab.wiretap import Ear
from tests.dataplane.superframes import Stream

LANES = {"native": ("native", "native"), "reference": ("reference", "reference"), "mixed": ("native", "reference")}
PAYLOAD = random.Random(1).randbytes(4_000_000)
PIECE_BYTES, PIECES, RUNS = 1000, 41, 30
SUPER_FRAMES = 5
SHORTEST_FULL_FRAME_BYTES = 1280
PATIENCE_S = 20.0

BEHIND = ("10.77.0.2", "fd77::2")
ONWARD = """
table ip onward {
    chain in {
        type nat hook prerouting priority dstnat
        iifname %(device)s meta l4proto { tcp, udp } dnat to 10.77.0.2
    }
}
table ip6 onward {
    chain in {
        type nat hook prerouting priority dstnat
        iifname %(device)s meta l4proto { tcp, udp } dnat to fd77::2
    }
}
"""

# linux/if_tun.h, linux/udp.h, linux/if_packet.h
TUNSETIFF, TAP, NO_PI = 0x400454CA, 0x0002, 0x1000
UDP_SEGMENT = 103
SOL_PACKET, PACKET_VNET_HDR = 263, 15

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class End:
    """An endpoint, and what it says of itself: to ask it takes half a second."""

    namespace: Namespace
    device: str
    mac: str
    ipv4: str
    ipv6: str

    def ip(self, version: int) -> str:
        return self.ipv4 if version == 4 else self.ipv6


Pair = tuple[End, End]


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> tuple[Endpoint, Endpoint]:
    made = overlay.endpoints({name: lab.site(f"s-{name}", Nat.PUBLIC) for name in ("ann", "bob")})
    introduce(*made.values())
    return made["ann"], made["bob"]


@pytest.fixture(scope="module", params=LANES)
def pair(request: pytest.FixtureRequest, people: tuple[Endpoint, Endpoint]) -> Pair:
    lanes = LANES[request.param]
    for endpoint, lane in zip(people, lanes, strict=True):
        endpoint.stop()
        endpoint.carry_by(lane)
    start_all(people)
    await_connected(*people)
    one, other = (end(endpoint, lane) for endpoint, lane in zip(people, lanes, strict=True))
    return one, other


def end(endpoint: Endpoint, lane: str) -> End:
    told = endpoint.status()["endpoint"]
    assert told["lane"] == lane
    ipv4, ipv6 = sorted((shown.partition("/")[0] for shown in told["addresses"]), key=lambda shown: ":" in shown)
    return End(endpoint.host.namespace, told["device"], told["mac"], ipv4, ipv6)


# -- to the ends themselves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_streams_cross_both_ways_in_super_frames(pair: Pair, version: int) -> None:
    for one, other in (pair, pair[::-1]):
        before = counts(one, other)
        here, there = one.namespace, other.namespace
        assert streamed(here, there, (other.ip(version), 5000)) == PAYLOAD
        assert_few_frames(before, counts(one, other), len(PAYLOAD))


@pytest.mark.parametrize("version", [4, 6])
def test_runs_of_datagrams_cross_both_ways_in_super_frames(pair: Pair, version: int) -> None:
    for one, other in (pair, pair[::-1]):
        before = counts(one, other)
        assert_runs_arrive(one.namespace, other.namespace, (other.ip(version), 5000))
        assert_few_frames(before, counts(one, other), RUNS * PIECES * PIECE_BYTES)


def counts(one: End, other: End) -> tuple[int, int, int]:
    """Frames that one's kernel has sent and the other's received, and checksums that were found to be wrong."""
    sent, received = (each.namespace.counters(each.device) for each in (one, other))
    wrong = sum(each.namespace.checksum_errors() for each in (one, other))
    return sent.tx_packets, received.rx_packets, wrong


def assert_few_frames(before: tuple[int, int, int], after: tuple[int, int, int], length: int) -> None:
    sent, received, wrong = (late - early for early, late in zip(before, after, strict=True))
    assert 0 < sent < length / SHORTEST_FULL_FRAME_BYTES / 4
    assert 0 < received < length / SHORTEST_FULL_FRAME_BYTES / 4
    assert wrong == 0


def streamed(here: Namespace, there: Namespace, at: tuple[str, int], via: tuple[str, int] | None = None) -> bytes:
    """What arrives `there`, where `at` listens, of a payload that is sent from here to `via`, or to `at` itself."""
    family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
    listener = there.inside(lambda: socket.create_server(at, family=family))
    client = here.inside(lambda: socket.socket(family, socket.SOCK_STREAM))
    for each in (listener, client):
        each.settimeout(PATIENCE_S)

    def send() -> None:
        with client:
            client.connect(via or at)
            client.sendall(PAYLOAD)

    sender = threading.Thread(target=send)
    sender.start()
    with listener:
        connection, _ = listener.accept()
    connection.settimeout(PATIENCE_S)
    with connection, connection.makefile("rb") as file:
        arrived = file.read()
    sender.join()
    return arrived


def assert_runs_arrive(
    here: Namespace, there: Namespace, at: tuple[str, int], via: tuple[str, int] | None = None
) -> None:
    """Runs that leave in one send each arrive datagram for datagram, the last one of each shorter than the others."""
    family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
    receiver, sender = (end.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) for end in (there, here))
    length = struct.pack("@H", PIECE_BYTES)
    with receiver, sender:
        receiver.bind(at)
        receiver.settimeout(PATIENCE_S)
        for number in range(RUNS):
            block = PAYLOAD[number * PIECES * PIECE_BYTES :][: PIECES * PIECE_BYTES - 700]
            sent = [block[start : start + PIECE_BYTES] for start in range(0, len(block), PIECE_BYTES)]
            sender.sendmsg([block], [(socket.IPPROTO_UDP, UDP_SEGMENT, length)], 0, via or at)
            assert [receiver.recv(2000) for _ in sent] == sent


# -- onward -----------------------------------------------------------------------------------------------------


@pytest.fixture
def behind(lab: Lab, pair: Pair) -> Iterator[Namespace]:
    """Somebody that bob routes to: whatever comes for bob over the overlay is translated and goes on to there."""
    bob, made = pair[1].namespace, lab.namespace("behind")
    bob.connect("to-behind", made, "eth0")
    for where, device, number in ((bob, "to-behind", 1), (made, "eth0", 2)):
        where.stop_offloads(device)
        where.add_address(device, IPv4Interface(f"10.77.0.{number}/24"))
        where.add_address(device, IPv6Interface(f"fd77::{number}/64"))
    for to, via in (("0.0.0.0/0", "10.77.0.1/24"), ("::/0", "fd77::1/64")):
        made.add_route(ip_interface(to).network, ip_interface(via))
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        bob.sysctl(f"net/{key}", 1)
    bob.load_rules(ONWARD % {"device": pair[1].device})
    yield made
    bob.load_rules("")
    bob.remove_device("to-behind")
    made.destroy()


@pytest.mark.parametrize("version", [4, 6])
def test_what_an_endpoint_routes_onward_is_true_on_the_wire(pair: Pair, behind: Namespace, version: int) -> None:
    ann, bob = pair
    at, via = (BEHIND[version == 6], 5000), (bob.ip(version), 5000)
    before = counts(ann, bob)
    with Ear(bob.namespace, "to-behind") as ear:
        assert streamed(ann.namespace, behind, at, via) == PAYLOAD
        assert_runs_arrive(ann.namespace, behind, at, via)
    assert_few_frames(before, counts(ann, bob), len(PAYLOAD))
    assert_true(ear, TCP, len(PAYLOAD) // 1500)
    assert_true(ear, UDP, RUNS * PIECES)
    assert behind.checksum_errors() == 0


def assert_true(ear: Ear, kind: type[TCP | UDP], at_least: int) -> None:
    """Every so many frames of those that passed, byte for byte: scapy takes a millisecond for one."""
    assert ear.runs == 0
    found = [frame for frame in ear.frames if protocol(frame) == (6 if kind is TCP else 17)]
    assert len(found) >= at_least
    for frame in found[:: len(found) // 200 or 1]:
        assert frame == with_checksums_by_scapy(frame)
    assert max(map(len, found)) <= 1514


def protocol(frame: bytes) -> int:
    return {0x0800: frame[23], 0x86DD: frame[20]}.get(int.from_bytes(frame[12:14]), -1)


def with_checksums_by_scapy(frame: bytes) -> bytes:
    """A sum of zero has two forms, and who only adds differences to one, as the kernel does where it cuts, finds the
    other than who begins anew (RFC 1624 section 3): both are right in TCP, and the frame's own stays."""
    packet = Ether(frame)
    own = packet[TCP].chksum if TCP in packet else None
    for layer in (IP, TCP, UDP):
        if layer in packet:
            del packet[layer].chksum
    made = Ether(bytes(packet))
    if own == 0xFFFF and made[TCP].chksum == 0:
        made[TCP].chksum = own
    return bytes(made)


# -- over a bridge ----------------------------------------------------------------------------------------------


@pytest.fixture
def bridged(pair: Pair) -> Iterator[Namespace]:
    """bob's host, with a bridge in the place of a stack of its own: what comes for bob leaves by another port."""
    bob = pair[1].namespace
    bob.add_bridge("bridge")
    for key in ("ipv4/conf/all/arp_ignore", "ipv6/conf/bridge/disable_ipv6"):  # nobody answers here for it
        bob.sysctl(f"net/{key}", 1)
    bob.enslave(pair[1].device, "bridge")
    forget(bob, pair[1].mac, pair[1].device)
    yield bob
    bob.remove_device("bridge")


def forget(bridged: Namespace, mac: str, device: str) -> None:
    """The bridge takes a port's own address for its own no more."""
    run(bridged, ("bridge", "fdb", "del", mac, "dev", device, "master")).must()


def point(bridged: Namespace, mac: str, device: str) -> None:
    """What is for `mac` leaves the bridge by that device."""
    run(bridged, ("bridge", "fdb", "replace", mac, "dev", device, "master", "static")).must()


@pytest.mark.parametrize("is_tagged", [False, True], ids=["plain", "tagged"])
@pytest.mark.parametrize("is_udp", [False, True], ids=["TCP", "UDP"])
@pytest.mark.parametrize("version", [4, 6])
def test_a_bridge_cuts_a_super_frame_to_true_frames(
    pair: Pair, bridged: Namespace, version: int, is_udp: bool, is_tagged: bool
) -> None:
    """True it is always; whole only where no pause between its slices was longer than `HURRY_S`, 5 ms, and a machine
    that does something else can make one."""
    ann, bob = pair
    stream = Stream(is_udp, version == 6, int(is_tagged), length=40_321, gso_size=1300, has_options=not is_udp)
    stream = stream.like(source_mac=ann.mac, destination_mac=bob.mac, ipv4=ends(pair, 4), ipv6=ends(pair, 6))
    with port(bridged, bob.mac) as out, ann.namespace.inside(lambda: injector(ann.device)) as ether:
        expected, passed = stream.segments(), []
        for _ in range(SUPER_FRAMES):
            before = bridged.counters(bob.device).rx_packets
            ether.send(stream.vnet(hdr_len=stream.headers) + stream.whole())
            assert taken(out, ann.mac, bob.mac, len(expected)) == expected
            passed.append(bridged.counters(bob.device).rx_packets - before)
        assert min(passed) < 5, "none came to the bridge whole"


def ends(pair: Pair, version: int) -> tuple[str, str]:
    return pair[0].ip(version), pair[1].ip(version)


def injector(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.bind((device, 0))
    return made


@contextmanager
def port(bridged: Namespace, mac: str) -> Iterator[int]:
    """A device of the bridge that takes nothing but whole frames, and behind which `mac` is."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"port", TAP | NO_PI))
        return fd

    fd = bridged.inside(make)
    try:
        bridged.enslave("port", "bridge")
        bridged.set_up("port")
        point(bridged, mac, "port")
        yield fd
    finally:
        os.close(fd)


def taken(fd: int, source: str, destination: str, count: int) -> list[bytes]:
    """The next frames from one to the other that come out: kernels solicit routers meanwhile, of everybody."""
    ends = bytes.fromhex((destination + source).replace(":", ""))
    frames: list[bytes] = []
    while len(frames) < count:
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        assert ready, f"{len(frames)} of {count} frames came out"
        frame = os.read(fd, 1 << 16)
        if frame[:12] == ends:
            frames.append(frame)
    return frames


def test_somebody_behind_a_bridge_speaks_with_a_peer(lab: Lab, pair: Pair, bridged: Namespace) -> None:
    """It has bob's own addresses: those are what a peer's guard lets pass."""
    ann, bob = pair
    far = lab.namespace("far")
    bridged.connect("to-far", far, "eth0")
    for where, device in ((bridged, "to-far"), (far, "eth0")):
        where.stop_offloads(device)
    bridged.enslave("to-far", "bridge")
    point(bridged, bob.mac, "to-far")
    run(far, ("ip", "link", "set", "eth0", "address", bob.mac)).must()
    far.add_address("eth0", IPv4Interface(f"{bob.ip(4)}/10"))
    far.add_address("eth0", IPv6Interface(f"{bob.ip(6)}/48"))
    try:
        for version in (4, 6):
            before = counts(ann, bob)
            with Ear(bridged, "to-far") as ear:
                assert streamed(ann.namespace, far, (bob.ip(version), 5000)) == PAYLOAD
                assert_runs_arrive(ann.namespace, far, (bob.ip(version), 5000))
            assert_few_frames(before, counts(ann, bob), len(PAYLOAD))
            assert_true(ear, TCP, len(PAYLOAD) // 1500)
            assert_true(ear, UDP, RUNS * PIECES)
            assert streamed(far, ann.namespace, (ann.ip(version), 5000)) == PAYLOAD
        assert far.checksum_errors() == 0
    finally:
        bridged.remove_device("to-far")
        far.destroy()
