"""Before both sides want it there is nothing to see: no answer on the port, no hint at the service.

( internet )----[discovery]
  |        |         |
dark    wisher    stranger           all public, so that no router keeps anything away
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fabric.lab import Endpoint, Host, Lab, Nat, Overlay
from fabric.lab.overlay import connect
from fabric.lab.traffic import Pings
from fabric.lab.wiretap import Wiretap

QUIET_S = 1.0
LISTENING, UNCONNECTED = "0A", "07"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> dict[str, Endpoint]:
    return overlay.endpoints({name: lab.site(name, Nat.PUBLIC) for name in ("dark", "friend", "wisher")})


@pytest.fixture(scope="module")
def stranger(lab: Lab) -> Host:
    return lab.site("far", Nat.PUBLIC).host("stranger")


def udp_ports(host: Host) -> list[int]:
    """The ports on which something on this host receives UDP from anybody.

    To all that a stranger can send, the ports of others look like closed ones: those of a socket that is connected
    to somebody (the router, for port mapping) and of one that is bound to a multicast address.
    """
    rows = socket_rows(host, "udp", UNCONNECTED)
    group_only = {port for address, port in rows if is_multicast(address)}
    return sorted({port for _, port in rows + socket_rows(host, "udp6", UNCONNECTED)} - group_only)


def socket_rows(host: Host, table: str, state: str) -> list[tuple[str, int]]:
    """Address in the kernel's hexadecimal and port of the sockets that /proc/net has in a table (proc(5))."""

    def act() -> list[tuple[str, int]]:
        rows = [row.split() for row in Path("/proc/thread-self/net", table).read_text().splitlines()[1:]]
        local = [row[1].partition(":") for row in rows if row[3] == state]
        return [(address, int(port, 16)) for address, _, port in local]

    return host.namespace.inside(act)


def is_multicast(address: str) -> bool:
    """Whether an IPv4 address in the kernel's hexadecimal, of this machine's byte order, is one of a group."""
    return IPv4Address(int(address, 16).to_bytes(4, sys.byteorder)).is_multicast


def noise() -> list[bytes]:
    """What scanners, other protocols and mischief send."""
    stun = struct.pack("!HHI", 1, 0, 0x2112A442) + os.urandom(12)
    classic_stun = struct.pack("!HH", 1, 0) + os.urandom(16)
    dns = os.urandom(2) + b"\x01\x00\x00\x01\0\0\0\0\0\0\x07version\x04bind\0\0\x10\0\x03"
    ntp = b"\x1b" + bytes(47)
    wireguard = b"\x01\0\0\0" + os.urandom(144)
    quic = b"\xc0\x00\x00\x00\x01\x08" + os.urandom(8) + b"\0" + os.urandom(1185)
    each_type = [bytes([kind]) + bytes(3) + os.urandom(28) for kind in range(256)]
    each_size = [os.urandom(size) for size in (0, 1, 3, 4, 15, 16, 31, 32, 64, 500, 1200, 1472)]
    return [stun, classic_stun, dns, ntp, wireguard, quic, *each_type, *each_size]


def replies(stranger: Host, to: tuple[str, int], datagrams: list[bytes]) -> list[bytes]:
    """What comes back, port-unreachable errors included, when a stranger sends all of these."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect(to)
        return made

    got: list[bytes] = []
    with stranger.namespace.inside(make) as scanner:
        for datagram in datagrams:
            scanner.send(datagram)
        scanner.settimeout(QUIET_S)
        try:
            while True:
                got.append(scanner.recv(2048))
        except TimeoutError:
            return got


def assert_silent(stranger: Host, end: Endpoint, port: int, datagrams: list[bytes]) -> None:
    """Nothing comes back; but a socket that asked the router something may be gone meanwhile, and its port closed."""
    try:
        assert replies(stranger, (end.host.ip, port), datagrams) == []
    except ConnectionRefusedError:
        assert port not in udp_ports(end.host), "an open port says that it is none"


def test_the_port_answers_no_noise_and_no_known_protocol(people: dict[str, Endpoint], stranger: Host) -> None:
    dark = people["dark"]
    ports = udp_ports(dark.host)
    assert ports, "fabricd has no UDP port"
    for port in ports:
        assert_silent(stranger, dark, port, noise())


def test_no_tcp_port_listens_before_anybody_is_wanted(people: dict[str, Endpoint]) -> None:
    """A TCP port that listens answers every scan: there is none until there is somebody to answer to."""
    for table in ("tcp", "tcp6"):
        assert socket_rows(people["dark"].host, table, LISTENING) == []


def test_the_service_has_a_stun_server_that_does_answer(overlay: Overlay, stranger: Host) -> None:
    """Guards the test above: the scanner can hear a reply where there is one."""
    request = struct.pack("!HHI", 1, 0, 0x2112A442) + os.urandom(12)
    (answer,) = replies(stranger, (overlay.discovery.host.ip, 3478), [request])
    assert answer[8:20] == request[8:20]


def test_a_wish_that_is_not_returned_stays_pending_and_opens_nothing(people: dict[str, Endpoint]) -> None:
    wisher, dark = people["wisher"], people["dark"]
    wisher.add("dark")
    assert wisher.wait("dark", path="any", timeout_s=4).code == 1
    peer = wisher.peer("dark")
    assert peer is not None
    assert peer["state"] == "pending"
    assert peer["path"] is None
    assert dark.peer("wisher") is None
    assert not wisher.reaches(dark.overlay_ip(), within_s=1)


def test_nobody_learns_whether_an_endpoint_of_that_name_exists(people: dict[str, Endpoint]) -> None:
    wisher = people["wisher"]
    wisher.add("dark")
    wisher.add("nobody")
    wisher.wait("nobody", path="any", timeout_s=3)
    views = [wisher.peer(name) for name in ("dark", "nobody")]
    for view in views:
        assert view is not None
        view["name"] = view["why"] = view["trust"]["name"] = ""
    assert views[0] == views[1]


def test_a_pending_wish_turns_into_a_connection_when_the_other_side_wants_it_too(
    people: dict[str, Endpoint],
) -> None:
    wisher, friend = people["wisher"], people["friend"]
    wisher.add("friend")
    assert wisher.wait("friend", timeout_s=2).code == 1
    friend.add("wisher")
    assert wisher.wait("friend", timeout_s=20).code == 0
    assert friend.wait("wisher", timeout_s=20).code == 0
    assert wisher.reaches(friend.overlay_ip(), count=2)


def test_real_datagrams_replayed_by_a_stranger_get_no_answer_and_harm_nothing(
    people: dict[str, Endpoint], stranger: Host, lab: Lab
) -> None:
    """Everything two peers said while they met and talked, taken off the wire and sent again from elsewhere."""
    dark, friend = people["dark"], people["friend"]
    with Wiretap(lab, dark.host.site) as tap:
        connect(dark, friend)
        assert dark.reaches(friend.overlay_ip(), count=3)
    ports = udp_ports(dark.host)
    towards = [each.payload for each in tap.datagrams() if each.target == dark.host.ip and each.target_port in ports]
    assert len(towards) > 5
    pings = Pings(dark.host, friend.overlay_ip())
    for port in ports:
        assert_silent(stranger, dark, port, towards)
    assert pings.finish().lost == 0
    peer = dark.peer("friend")
    assert peer is not None
    assert peer["path"]["remote"].startswith(friend.host.ip + ":")


def test_a_stranger_learns_nothing_from_a_port_that_serves_others(people: dict[str, Endpoint], stranger: Host) -> None:
    dark, friend = people["dark"], people["friend"]
    connect(dark, friend)
    for port in udp_ports(dark.host):
        assert_silent(stranger, dark, port, noise())
    assert dark.reaches(friend.overlay_ip())


def test_a_connected_peer_does_not_forward_one_neighbour_to_another(people: dict[str, Endpoint]) -> None:
    """friend knows wisher and dark; they don't know each other, and reach each other through nobody."""
    wisher, friend, dark = people["wisher"], people["friend"], people["dark"]
    connect(wisher, friend)
    connect(dark, friend)
    assert wisher.reaches(friend.overlay_ip())
    assert not wisher.reaches(dark.overlay_ip(), within_s=1)
