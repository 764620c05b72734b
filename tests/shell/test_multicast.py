"""Beacons over the loopback: what is handed on and what is dropped. What needs links of its own is in namespaces."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_interface

import pytest
import trio

from fabric.shell.links import UnderlayLink
from fabric.shell.multicast import BATCH, MAX_LINKS, Multicast
from fabric.wire.beacon import GROUP_4, GROUP_6, HOP_LIMIT, PORT
from fabric.wire.datagram import MAX_GATED_BYTES

LOOPBACK = UnderlayLink(1, "lo", True, (ip_interface("127.0.0.1/8"),))
BEACON = b"\xf2\0\0\0" + b"\x22" * 40
_ports = itertools.count(29_001)


@dataclass
class Place:
    heard: list[tuple[bytes, tuple[str, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = next(_ports)
        self.multicast = Multicast(self.heard.extend, self.port)
        self.multicast.update([LOOPBACK])
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.bind(("", 0))

    def send(self, payload: bytes) -> None:
        """From a socket that the one under test doesn't know as its own."""
        member = socket.inet_aton("127.0.0.1")
        self.sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
        self.sender.sendto(payload, (GROUP_4, self.port))

    @property
    def source(self) -> tuple[str, int]:
        return "127.0.0.1", self.sender.getsockname()[1]

    async def until(self, count: int) -> None:
        with trio.fail_after(10):
            while len(self.heard) < count:  # noqa: ASYNC110  the callback is plain
                await trio.sleep(0.01)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.sender.close()
    made.multicast.close()


async def test_a_beacon_is_handed_on_with_its_source(place: Place, nursery: trio.Nursery) -> None:
    nursery.start_soon(place.multicast.run)
    place.send(BEACON)
    await place.until(1)
    assert place.heard == [(BEACON, place.source)]


async def test_what_is_no_gated_datagram_is_dropped_and_counted(place: Place, nursery: trio.Nursery) -> None:
    nursery.start_soon(place.multicast.run)
    strange = (b"", b"\0\1\0\0", b"\xf1" * 60, b"\xf3" + BEACON, BEACON.ljust(MAX_GATED_BYTES + 1, b"x"))
    for payload in strange:
        place.send(payload)
    place.send(BEACON)
    await place.until(1)
    assert place.heard == [(BEACON, place.source)]
    assert place.multicast.dropped == len(strange)


async def test_own_beacons_are_not_heard(place: Place, nursery: trio.Nursery) -> None:
    nursery.start_soon(place.multicast.run)
    place.multicast.send(place.sender, None, BEACON)
    assert place.multicast.sent == 1
    with trio.fail_after(10):
        while not place.multicast.dropped:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert place.heard == []


async def test_a_flood_is_looked_at_in_small_helpings(
    place: Place, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    for number in range(3 * BATCH):
        place.send(BEACON + bytes((number,)))
    batches: list[int] = []
    place.multicast._on_datagrams = lambda batch: batches.append(len(batch))
    begun = trio.current_time()
    with trio.move_on_after(1.0):
        await place.multicast.run()
    assert batches == [BATCH] * 3
    assert trio.current_time() - begun == pytest.approx(1.0)


async def test_two_daemons_of_one_host_hear_the_same_beacon(place: Place, nursery: trio.Nursery) -> None:
    heard: list[tuple[bytes, tuple[str, int]]] = []
    other = Multicast(heard.extend, place.port)
    other.update([LOOPBACK])
    nursery.start_soon(place.multicast.run)
    nursery.start_soon(other.run)
    place.send(BEACON)
    await place.until(1)
    with trio.fail_after(10):
        while not heard:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert heard == place.heard


def test_links_without_multicast_and_links_beyond_measure_are_left_out(place: Place) -> None:
    silent = UnderlayLink(1, "wg0", False, LOOPBACK.addresses)
    place.multicast.update([silent])
    place.multicast.send(place.sender, None, BEACON)
    assert place.multicast.sent == 0
    many = [UnderlayLink(1000 + number, f"veth{number}", True, LOOPBACK.addresses) for number in range(2 * MAX_LINKS)]
    place.multicast.update([LOOPBACK, *many])
    assert len(place.multicast._links) == MAX_LINKS


def test_a_link_that_has_gone_fails_nobody(place: Place) -> None:
    place.multicast.update([UnderlayLink(4_000_000, "gone0", True, LOOPBACK.addresses), LOOPBACK])
    place.multicast.send(place.sender, None, BEACON)
    assert place.multicast.sent == 1


def test_the_groups_stay_on_the_link() -> None:
    group_6 = socket.inet_pton(socket.AF_INET6, GROUP_6)
    assert GROUP_4.startswith("239.255.")
    assert group_6[:2] == b"\xff\x12"
    assert group_6[12] & 0x80
    assert HOP_LIMIT == 1
    assert PORT < 32_768
