"""It is one Ethernet: what programs do on a LAN works across, and nobody speaks in another's name.

     ( internet )----[discovery]
   |          |          |         |
port-r.    carrier    full cone  firewall
   |          |          |         |
  kim        lea        max       nia            full mesh of four
"""

from __future__ import annotations

import socket
import subprocess
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest

from fabric.lab import Endpoint, Host, Lab, Nat, Overlay, mdns
from fabric.lab.overlay import connect, side_by_side
from fabric.lab.traffic import (
    ETHERTYPE_ALL,
    Transfer,
    frame,
    multicast_listener,
    multicast_sender,
    raw_socket,
    received,
    received_in_vlan,
    tagged_frame,
)
from fabric.lab.wiretap import Wiretap

BROADCAST = "ff:ff:ff:ff:ff:ff"
IP_HEADERS_BYTES = {4: 28, 6: 48}
VLAN = 42

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def mesh(lab: Lab, overlay: Overlay) -> dict[str, Endpoint]:
    kinds = {"kim": Nat.PORT_RESTRICTED, "lea": Nat.CARRIER, "max": Nat.FULL_CONE, "nia": Nat.FIREWALL}
    made = overlay.endpoints({name: lab.site(f"s-{name}", kind) for name, kind in kinds.items()})
    connect(*made.values(), timeout_s=30)
    return made


def device(endpoint: Endpoint) -> str:
    return str(endpoint.status()["endpoint"]["device"])


def mac(endpoint: Endpoint) -> str:
    return str(endpoint.status()["endpoint"]["mac"])


def mtu(endpoint: Endpoint) -> int:
    """As the kernel has it on the overlay device."""
    name = device(endpoint)
    return int(endpoint.host.run("ip", "-o", "link", "show", name).must().output.partition(" mtu ")[2].split()[0])


# -- addresses and reach ----------------------------------------------------------------------------------------


def test_each_of_four_reaches_each_other_over_ipv4_and_ipv6(mesh: dict[str, Endpoint]) -> None:
    ways = list(permutations(mesh.values(), 2))
    addresses = {name: (end.overlay_ip(), end.overlay_ip_6()) for name, end in mesh.items()}
    tries = [partial(one.reaches, address) for one, other in ways for address in addresses[other.name]]
    assert side_by_side(tries) == [True] * len(tries)


def test_mac_addresses_are_made_of_the_overlay_address(mesh: dict[str, Endpoint]) -> None:
    for endpoint in mesh.values():
        assert mac(endpoint) == "02:fa:" + socket.inet_aton(endpoint.overlay_ip()).hex(":")
        shown = endpoint.host.run("ip", "-o", "link", "show", device(endpoint)).must().output
        assert f"link/ether {mac(endpoint)}" in shown


def test_fabric_ping_tells_the_path_that_it_took(mesh: dict[str, Endpoint]) -> None:
    done = mesh["kim"].ping("lea", count=2)
    assert done.code == 0
    assert "direct-udp" in done.output


# -- size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_full_sized_packet_passes_unfragmented_inside_and_outside(mesh: dict[str, Endpoint], version: int) -> None:
    kim, lea = mesh["kim"], mesh["lea"]
    address = lea.overlay_ip() if version == 4 else lea.overlay_ip_6()
    room = mtu(kim) - IP_HEADERS_BYTES[version]
    before = fragments(kim)
    words = ("ping", "-n", "-M", "do", "-c", "3", "-i", "0.2", "-W", "2")
    assert kim.host.run(*words, "-s", str(room), address).code == 0
    assert kim.host.run(*words, "-s", str(room + 1), address).code != 0
    assert fragments(kim) == before


def test_a_packet_larger_than_the_device_is_fragmented_inside_and_arrives(mesh: dict[str, Endpoint]) -> None:
    assert mesh["kim"].reaches(mesh["lea"].overlay_ip(), size=8000)


def test_no_outer_packet_is_longer_than_the_underlay_carries(mesh: dict[str, Endpoint], lab: Lab) -> None:
    kim, lea = mesh["kim"], mesh["lea"]
    with Wiretap(lab, kim.host.site) as tap:
        assert kim.reaches(lea.overlay_ip(), size=mtu(kim) - IP_HEADERS_BYTES[4])
        assert Transfer(kim.host, lea.host, lea.overlay_ip(), 1_000_000, lab.directory).finish().intact
    longest = max(len(each.payload) for each in tap.datagrams()) + IP_HEADERS_BYTES[4]
    assert mtu(kim) < longest <= 1500


def fragments(endpoint: Endpoint) -> int:
    """How many fragments this host's own IPv4 has made so far."""
    lines = endpoint.host.namespace.inside(lambda: Path("/proc/thread-self/net/snmp").read_text()).splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(dict(zip(names, values, strict=True))["FragCreates"])


def test_the_overlay_device_leaves_ipv6_room_to_work(mesh: dict[str, Endpoint]) -> None:
    assert all(mtu(endpoint) >= 1280 for endpoint in mesh.values())


# -- a file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_file_arrives_intact_over_tcp(mesh: dict[str, Endpoint], lab: Lab, version: int) -> None:
    sender, receiver = mesh["kim"], mesh["lea"]
    address = receiver.overlay_ip() if version == 4 else receiver.overlay_ip_6()
    assert Transfer(sender.host, receiver.host, address, 20_000_000, lab.directory).finish().intact


def test_files_in_all_directions_at_once_arrive_intact(mesh: dict[str, Endpoint], lab: Lab) -> None:
    running = [
        Transfer(one.host, other.host, other.overlay_ip(), 3_000_000, lab.directory)
        for one, other in permutations(mesh.values(), 2)
    ]
    assert all(transfer.finish(90).intact for transfer in running)


def test_a_file_survives_a_lossy_internet(mesh: dict[str, Endpoint], lab: Lab) -> None:
    lab.lose(10)
    try:
        sent = Transfer(mesh["kim"].host, mesh["lea"].host, mesh["lea"].overlay_ip(), 3_000_000, lab.directory)
        assert sent.finish().intact
    finally:
        lab.lose(0)


# -- one to all -------------------------------------------------------------------------------------------------


def on_overlay(endpoint: Endpoint) -> tuple[Host, str]:
    return endpoint.host, endpoint.overlay_ip()


def test_multicast_dns_finds_a_neighbour(mesh: dict[str, Endpoint]) -> None:
    name = "lea.local"
    listeners = {each: multicast_listener(*on_overlay(end), mdns.GROUP, mdns.PORT) for each, end in mesh.items()}
    asker, answerer = multicast_sender(*on_overlay(mesh["kim"])), multicast_sender(*on_overlay(mesh["lea"]))
    try:
        asker.sendto(mdns.query(name), (mdns.GROUP, mdns.PORT))
        for each in ("lea", "max", "nia"):
            assert received(listeners[each], mdns.query(name)), f"{each} did not hear the question"
        answerer.sendto(mdns.answer(name, mesh["lea"].overlay_ip()), (mdns.GROUP, mdns.PORT))
        assert received(listeners["kim"], mdns.answer(name, mesh["lea"].overlay_ip()))
    finally:
        for opened in (*listeners.values(), asker, answerer):
            opened.close()


def test_a_broadcast_reaches_everybody(mesh: dict[str, Endpoint]) -> None:
    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", 4242))
        return made

    others = [mesh[name].host.namespace.inside(listen) for name in ("lea", "max", "nia")]
    shown = mesh["kim"].host.run("ip", "-4", "-o", "addr", "show", device(mesh["kim"])).must().output
    to = shown.partition(" brd ")[2].split()[0] if " brd " in shown else "255.255.255.255"
    with multicast_sender(*on_overlay(mesh["kim"])) as sender:
        sender.sendto(b"hello, all", (to, 4242))
    try:
        assert all(received(each, b"hello, all") for each in others)
    finally:
        for each in others:
            each.close()


def test_all_nodes_multicast_of_ipv6_is_answered_by_the_neighbours(mesh: dict[str, Endpoint]) -> None:
    """Link-local IPv6 works as on a cable, if the device has such an address."""
    kim = mesh["kim"]
    target = f"ff02::1%{device(kim)}"
    printed = kim.host.run("ping", "-6", "-n", "-c", "2", "-i", "0.5", "-W", "2", target).output
    answered = {line.split()[3].rstrip(":") for line in printed.splitlines() if "bytes from" in line}
    assert len(answered) >= 4, printed


# -- any frame --------------------------------------------------------------------------------------------------


def test_an_ethertype_that_no_kernel_knows_passes(mesh: dict[str, Endpoint]) -> None:
    kim, lea = mesh["kim"], mesh["lea"]
    with raw_socket(kim.host, device(kim)) as sender, raw_socket(lea.host, device(lea)) as listener:
        sender.send(frame(mac(lea), mac(kim), b"a frame of no known kind"))
        assert received(listener, b"a frame of no known kind")


def test_a_frame_to_everybody_of_no_known_kind_reaches_everybody(mesh: dict[str, Endpoint]) -> None:
    kim, others = mesh["kim"], [mesh[name] for name in ("lea", "max", "nia")]
    listeners = [raw_socket(each.host, device(each)) for each in others]
    with raw_socket(kim.host, device(kim)) as sender:
        sender.send(frame(BROADCAST, mac(kim), b"to whom it may concern"))
    try:
        assert all(received(each, b"to whom it may concern") for each in listeners)
    finally:
        for each in listeners:
            each.close()


def test_a_tagged_frame_arrives_with_its_tag(mesh: dict[str, Endpoint]) -> None:
    kim, lea = mesh["kim"], mesh["lea"]
    with raw_socket(kim.host, device(kim)) as sender, raw_socket(lea.host, device(lea), ETHERTYPE_ALL) as listener:
        sender.send(tagged_frame(mac(lea), mac(kim), VLAN, b"in vlan 42"))
        assert received_in_vlan(listener, b"in vlan 42") == VLAN


def test_a_frame_in_anothers_name_is_dropped_and_counted(mesh: dict[str, Endpoint]) -> None:
    kim, lea, nia = mesh["kim"], mesh["lea"], mesh["nia"]
    before = guarded(lea, "kim")
    with raw_socket(kim.host, device(kim)) as sender, raw_socket(lea.host, device(lea)) as listener:
        sender.send(frame(mac(lea), mac(nia), b"I am nia, believe me"))
        sender.send(frame(mac(lea), "02:00:00:00:00:01", b"I am nobody"))
        assert not received(listener, b"I am n", within_s=0.7)
    assert guarded(lea, "kim") + guarded(kim, "lea") > before


def guarded(endpoint: Endpoint, peer: str) -> int:
    """How many frames of a peer the source guard has dropped."""
    view = endpoint.peer(peer)
    assert view is not None
    return int(view["drops"].get("source_guard", 0))


def test_an_address_that_is_not_ones_own_gets_no_answer(mesh: dict[str, Endpoint]) -> None:
    """kim takes nia's overlay address; lea's answers still go to nia alone."""
    kim, lea, nia = mesh["kim"], mesh["lea"], mesh["nia"]
    add = ("ip", "addr", "add", f"{nia.overlay_ip()}/32", "dev", device(kim))
    kim.host.run(*add).must()
    try:
        done = kim.host.run("ping", "-n", "-c", "2", "-W", "1", "-I", nia.overlay_ip(), lea.overlay_ip())
        assert done.code != 0
        assert nia.reaches(lea.overlay_ip())
    finally:
        kim.host.run("ip", "addr", "del", f"{nia.overlay_ip()}/32", "dev", device(kim)).must()


def test_two_daemons_with_their_own_state_run_on_one_host(
    lab: Lab, overlay: Overlay, mesh: dict[str, Endpoint]
) -> None:
    second = Endpoint(lab, mesh["nia"].host, "nia-two")
    second.append_configuration('device = "fabric1"')
    second.enrol(overlay.discovery.create_key())
    second.start()
    connect(second, mesh["kim"])
    assert second.reaches(mesh["kim"].overlay_ip())
    assert second.stop() == 0


def test_closing_takes_the_device_away(lab: Lab, overlay: Overlay) -> None:
    olga = overlay.endpoint("olga", lab.site("s-olga", Nat.PUBLIC))
    name = device(olga)
    assert olga.stop() == 0
    shown = subprocess.run(
        ["ip", "-n", olga.host.namespace.name, "link", "show", name], capture_output=True, text=True, check=False
    )
    assert shown.returncode != 0
