"""The laboratory's own weather is what was asked for, and no worse: without the product.

    [inside]----[router]====(sky: the forwarder)====( internet )----[router]----[outside]

Numbered datagrams go from one end to the other; their receiver says what became of them. Also the two things that
routers do to packets which do not fit a line, and the ways in which mappings move.
"""

from __future__ import annotations

import random
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabric.lab import CALM, Host, Lab, LabError, Nat, Site, Weather
from fabric.lab.traffic import Transfer
from fabric.lab.weather import ETHERNET_BYTES, Way, corrupt, has_weather

COUNT = 2000
NUMBER = struct.Struct("!Id")
SO_RCVBUFFORCE = 33
CARRIED_MBIT_S = 100
"""The least that a forwarder has to carry to be of use."""


@dataclass
class Place:
    lab: Lab
    site: Site
    inside: Host
    outside: Host


@pytest.fixture(scope="module")
def place(lab: Lab) -> Place:
    site = lab.site("stormy", Nat.FIREWALL, weather=True, ipv6=True)
    far = lab.site("far", Nat.PUBLIC, ipv6=True)
    return Place(lab, site, site.host("inside"), far.host("outside"))


@pytest.fixture(autouse=True)
def calm(place: Place) -> Iterator[None]:
    yield
    place.site.weather.clear()


@dataclass
class Arrived:
    """What came, in the order in which it came: numbers, and how long each took."""

    numbers: list[int]
    took_s: list[float]
    damaged: int

    @property
    def share(self) -> float:
        return len(set(self.numbers)) / COUNT

    @property
    def overtaken(self) -> int:
        return sum(later < earlier for earlier, later in zip(self.numbers, self.numbers[1:], strict=False))


FILLING = bytes(range(100))


def send_numbered(sender: Host, receiver: Host, *, pace_s: float = 0.0005, filling: bytes = FILLING) -> Arrived:
    """Sends `COUNT` numbered datagrams at that pace, and returns what arrived within half a second of the last."""
    with udp(receiver) as listening, udp(sender) as sending:
        target = listening.getsockname()
        arrived = Arrived([], [], 0)
        listening.setblocking(False)
        due = time.monotonic()
        for number in range(COUNT):
            sending.sendto(NUMBER.pack(number, time.monotonic()) + filling, target)
            due += pace_s
            while time.monotonic() < due:
                take(listening, arrived, filling)
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            take(listening, arrived, filling)
    return arrived


def udp(host: Host) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((host.ip, 0))
        return made

    return host.namespace.inside(make)


def take(listening: socket.socket, arrived: Arrived, filling: bytes) -> None:
    try:
        payload = listening.recv(2000)
    except BlockingIOError:
        return
    number, sent = NUMBER.unpack_from(payload)
    if payload[NUMBER.size :] != filling or not 0 <= number < COUNT:
        arrived.damaged += 1
        return
    arrived.numbers.append(number)
    arrived.took_s.append(time.monotonic() - sent)


def test_calm_weather_changes_nothing(place: Place) -> None:
    arrived = send_numbered(place.inside, place.outside)
    assert arrived.numbers == list(range(COUNT))
    assert statistics.median(arrived.took_s) < 0.005


@pytest.mark.parametrize("share", [0.01, 0.05, 0.30])
def test_about_so_many_are_lost(place: Place, share: float) -> None:
    place.site.weather.make(Weather(loss=share))
    arrived = send_numbered(place.inside, place.outside)
    spread = 4 * (share * (1 - share) / COUNT) ** 0.5  # four standard deviations of a fair coin
    assert abs(1 - arrived.share - share) < spread


def test_each_direction_has_weather_of_its_own(place: Place) -> None:
    before = place.site.weather.tallies()
    place.site.weather.make(Weather(loss=1.0), inward=CALM)
    assert send_numbered(place.inside, place.outside).numbers == []
    place.site.weather.make(CALM, inward=Weather(loss=1.0))
    assert len(send_numbered(place.inside, place.outside).numbers) == COUNT
    out, inward = place.site.weather.tallies()
    assert out.lost - before[0].lost == COUNT
    assert inward.lost == before[1].lost


def test_a_delay_is_kept_to_the_millisecond(place: Place, figure: Callable[[str], None]) -> None:
    place.site.weather.make(Weather(delay_s=0.1))
    arrived = send_numbered(place.inside, place.outside)
    error_s = [took - 0.1 for took in arrived.took_s]
    figure(
        f"weather: delay 100 ms: error p50 {statistics.median(error_s) * 1e3:.2f} ms, worst {max(error_s) * 1e3:.1f}"
    )
    assert arrived.numbers == list(range(COUNT))
    assert min(error_s) > -0.0005
    assert statistics.median(error_s) < 0.005


def test_jitter_keeps_the_order_unless_reordering_is_asked_for(place: Place) -> None:
    place.site.weather.make(Weather(delay_s=0.05, jitter_s=0.02))
    arrived = send_numbered(place.inside, place.outside)
    assert arrived.numbers == list(range(COUNT))
    place.site.weather.make(Weather(delay_s=0.05, jitter_s=0.02, reorders=True))
    arrived = send_numbered(place.inside, place.outside)
    assert sorted(arrived.numbers) == list(range(COUNT))
    assert arrived.overtaken > COUNT / 10
    assert 0.04 < statistics.mean(arrived.took_s) < 0.06
    assert statistics.pstdev(arrived.took_s) == pytest.approx(0.04 / 12**0.5, rel=0.3)


def test_doubled_packets_come_twice(place: Place) -> None:
    place.site.weather.make(Weather(duplication=0.2))
    arrived = send_numbered(place.inside, place.outside)
    assert arrived.share == 1
    assert COUNT * 1.15 < len(arrived.numbers) < COUNT * 1.25


def test_damage_is_found_by_the_checksum_unless_it_is_repaired(place: Place) -> None:
    place.site.weather.make(Weather(corruption=0.2))
    arrived = send_numbered(place.inside, place.outside)
    assert arrived.damaged == 0
    assert 0.75 < arrived.share < 0.85
    place.site.weather.make(Weather(corruption=0.2, repairs_checksum=True))
    arrived = send_numbered(place.inside, place.outside)
    assert COUNT * 0.13 < arrived.damaged < COUNT * 0.25  # a damaged time stamp looks like a good datagram


def test_a_slow_line_is_as_slow_as_it_was_told_to_be(place: Place) -> None:
    place.site.weather.make(Weather(rate_mbit_s=10))
    sent = Transfer(place.inside, place.outside, place.outside.ip, 3_000_000, place.lab.directory).finish()
    assert sent.intact
    assert 7 < sent.mbit_per_s < 10


def test_a_packet_too_long_for_the_line_vanishes(place: Place) -> None:
    place.site.weather.make(Weather(mtu=1280))
    words = ("ping", "-n", "-c1", "-W1", "-M", "do", place.outside.ip, "-s")
    assert place.inside.run(*words, str(1280 - 28)).code == 0
    assert place.inside.run(*words, str(1281 - 28)).code != 0


def test_ipv6_has_weather_and_still_finds_its_neighbours(place: Place) -> None:
    assert place.outside.address_6 is not None
    words = ("ping", "-6", "-n", "-c1", "-W1", str(place.outside.address_6.ip))
    assert place.inside.run(*words).code == 0
    place.site.weather.make(Weather(loss=1.0))
    assert place.inside.run(*words).code != 0
    place.site.weather.clear()
    assert place.inside.run(*words).code == 0


def test_a_forwarder_carries_a_hundred_megabits(place: Place, figure: Callable[[str], None]) -> None:
    """Calm, and with every packet in the heap; TCP segments of full length, and small datagrams."""
    place.site.weather.make(Weather(delay_s=0.001))
    before = sum(tally.went for tally in place.site.weather.tallies())
    sent = Transfer(place.inside, place.outside, place.outside.ip, 60_000_000, place.lab.directory).finish()
    carried = sum(tally.went for tally in place.site.weather.tallies()) - before
    latest_s = max(tally.latest_s for tally in place.site.weather.tallies())
    figure(
        f"weather: {sent.mbit_per_s:.0f} Mbit/s, {carried / sent.seconds:.0f} packets/s, late {latest_s * 1e3:.1f} ms"
    )
    assert sent.intact
    assert sent.mbit_per_s > CARRIED_MBIT_S


def test_an_idle_forwarder_sleeps(place: Place) -> None:
    before = cpu_ticks(place.site.weather.pid)
    time.sleep(0.5)
    assert cpu_ticks(place.site.weather.pid) - before <= 1


def cpu_ticks(pid: int) -> int:
    """Clock ticks (10 ms) that a process has used: fields 14 and 15 of proc(5) stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


# -- the same seed makes the same weather -----------------------------------------------------------------------


def test_the_same_seed_makes_the_same_weather() -> None:
    frames = [ethernet(bytes([number] * 60)) for number in range(200)]
    first, second, other = Way("7"), Way("7"), Way("8")
    for way in (first, second, other):
        way.weather = Weather(loss=0.2, delay_s=0.1, jitter_s=0.05, reorders=True, duplication=0.1, corruption=0.1)
        for number, frame in enumerate(frames):
            way.put(frame, number * 0.001)
    came = [way.take_due(10.0) for way in (first, second, other)]
    assert came[0] == came[1]
    assert came[0] != came[2]


def ethernet(packet: bytes, ethertype: int = 0x0800) -> bytes:
    return bytes(12) + ethertype.to_bytes(2) + packet


@pytest.mark.parametrize("payload", [b"even", b"odd"])
def test_a_repaired_checksum_is_right(payload: bytes) -> None:
    for seed in range(50):
        datagram = udp_packet(payload)
        damaged = corrupt(ethernet(datagram), random.Random(seed), repair=True)[ETHERNET_BYTES:]
        assert damaged != datagram
        assert checksum_holds(damaged)
        assert not checksum_holds(corrupt(ethernet(datagram), random.Random(seed), repair=False)[ETHERNET_BYTES:])


def udp_packet(payload: bytes) -> bytes:
    """An IPv4 packet with a UDP datagram whose checksum is right."""
    length = 8 + len(payload)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, 17, 0, b"\5\0\0\1", b"\5\0\0\2")
    without = struct.pack("!4H", 1000, 2000, length, 0) + payload
    checksum = ~total(ip[12:20] + struct.pack("!BBH", 0, 17, length) + without) & 0xFFFF
    return ip + without[:6] + checksum.to_bytes(2) + payload


def checksum_holds(packet: bytes) -> bool:
    return total(packet[12:20] + struct.pack("!BBH", 0, 17, len(packet) - 20) + packet[20:]) == 0xFFFF


def total(octets: bytes) -> int:
    """The ones' complement sum (RFC 1071)."""
    octets += bytes(len(octets) % 2)
    found: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while found >> 16:
        found = (found & 0xFFFF) + (found >> 16)
    return found


def test_what_has_no_payload_is_not_damaged_and_what_is_not_ip_has_no_weather() -> None:
    chance = random.Random(1)
    assert corrupt(ethernet(udp_packet(b"")), chance, repair=True) == ethernet(udp_packet(b""))
    assert not has_weather(ethernet(bytes(28), 0x0806))
    solicitation = bytes(6) + b"\x3a" + bytes(33) + b"\x87"
    assert not has_weather(ethernet(solicitation, 0x86DD))
    assert has_weather(ethernet(bytes(6) + b"\x3a" + bytes(33) + b"\x80", 0x86DD))


# -- narrow lines -----------------------------------------------------------------------------------------------


def test_a_narrow_line_tells_the_sender() -> None:
    with Lab("narrow") as lab:
        tunnel, far = lab.site("tunnel", Nat.FIREWALL), lab.site("far", Nat.PUBLIC)
        inside, outside = tunnel.host("inside"), far.host("outside")
        tunnel.narrow(1280)
        words = ("ping", "-n", "-c2", "-i0.2", "-W1", "-M", "do", outside.ip, "-s")
        assert inside.run(*words, str(1280 - 28)).code == 0
        refused = inside.run(*words, str(1281 - 28))
        assert refused.code != 0
        assert "mtu = 1280" in refused.output + refused.errors or "mtu=1280" in refused.output + refused.errors


def test_a_line_without_weather_says_so() -> None:
    with Lab("plain") as lab, pytest.raises(LabError, match="without weather"):
        lab.site("home", Nat.PUBLIC).weather.clear()


# -- what else happens to hosts and routers ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Nat.PORT_RESTRICTED, Nat.FULL_CONE, Nat.ADDRESS_RESTRICTED, Nat.CARRIER])
def test_a_moved_mapping_is_another_port_and_the_same_for_every_destination(kind: Nat) -> None:
    with Lab(f"moved{kind.name[:4].lower()}") as lab:
        home = lab.site("home", kind)
        host, servers = home.host("inside"), [lab.site(f"pub{n}", Nat.PUBLIC).host(f"server{n}") for n in (1, 2)]
        with udp(host) as inside, udp(servers[0]) as first, udp(servers[1]) as second:
            before = source_seen(inside, first)
            home.move_mappings()
            after = source_seen(inside, first)
            assert after != before
            assert after[0] == before[0]
            assert source_seen(inside, second) == after
            home.move_mappings()
            assert source_seen(inside, first) not in (before, after)


def source_seen(inside: socket.socket, server: socket.socket) -> tuple[str, int]:
    inside.sendto(b"?", server.getsockname())
    server.settimeout(1)
    _, source = server.recvfrom(10)
    return source[0], source[1]


def test_a_host_with_two_cables_prefers_the_first_and_lives_on_the_second() -> None:
    with Lab("cables") as lab:
        cable, radio = lab.site("cable", Nat.PORT_RESTRICTED), lab.site("radio", Nat.FULL_CONE)
        host, server = cable.host("inside"), lab.site("pub", Nat.PUBLIC).host("server")
        host.add_uplink(radio)
        for _ in range(2):
            with inside_socket(host) as inside, udp(server) as listening:
                assert source_seen(inside, listening)[0] == str(cable.wan.ip)
                host.unplug()
                assert source_seen(inside, listening)[0] == str(radio.wan.ip)
                host.plug_in()


def inside_socket(host: Host) -> socket.socket:
    return host.namespace.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def test_a_server_with_two_cables_answers_where_it_was_asked() -> None:
    with Lab("twoways") as lab:
        one, two = lab.site("one", Nat.PUBLIC), lab.site("two", Nat.PUBLIC)
        server, client = one.host("server"), lab.site("home", Nat.PORT_RESTRICTED).host("client")
        spare = server.add_uplink(two)
        for line, address in ((one, str(spare.address.ip)), (two, server.ip)):
            assert client.run("ping", "-n", "-c1", "-W1", address).code == 0
            line.unplug()
            assert client.run("ping", "-n", "-c1", "-W1", address).code == 0
            line.plug_in()


def test_a_site_with_ipv6_only_has_no_ipv4() -> None:
    with Lab("sixonly") as lab:
        host = lab.site("home", Nat.PORT_RESTRICTED, ipv4=False, ipv6=True).host("inside")
        server = lab.site("pub", Nat.PUBLIC, ipv6=True).host("server")
        assert server.address_6 is not None
        assert host.run("ping", "-6", "-n", "-c1", "-W1", str(server.address_6.ip)).code == 0
        assert host.run("ping", "-n", "-c1", "-W1", server.ip).code != 0
        assert "inet " not in host.run("ip", "addr", "show", "eth0").output
