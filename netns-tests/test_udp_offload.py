"""Runs of datagrams over a real cable: what it is too narrow for, and what its card leaves to the kernel.

[left] left0 ---- veth, MTU 1400 ---- right0 [right]
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface

import pytest
import trio

from fabric.dataplane.contract import Drop
from fabric.lab import Lab
from fabric.shell.udp import UdpSockets, open_udp_sockets
from fabric.wire.address import Target

MTU = 1400
IPV4_HEADERS_BYTES, IPV6_HEADERS_BYTES = 28, 48
LEFT, RIGHT = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")
ROOM = {RIGHT[0]: MTU - IPV4_HEADERS_BYTES, RIGHT[1]: MTU - IPV6_HEADERS_BYTES}
COUNT = 100


class Cable:
    """Sockets at either end. With `is_plain` no card computes checksums or cuts a run: the kernel has to."""

    def __init__(self, lab: Lab, *, is_plain: bool) -> None:
        left, right = lab.namespace("left"), lab.namespace("right")
        left.connect("left0", right, "right0", MTU)
        for namespace, device, (ipv4, ipv6) in ((left, "left0", LEFT), (right, "right0", RIGHT)):
            namespace.add_address(device, IPv4Interface(f"{ipv4}/24"))
            namespace.add_address(device, IPv6Interface(f"{ipv6}/64"))
            if is_plain:
                namespace.stop_offloads(device)
        self.left: UdpSockets = left.inside(open_udp_sockets)
        self.right: UdpSockets = right.inside(open_udp_sockets)

    def close(self) -> None:
        self.left.close()
        self.right.close()


@pytest.fixture(params=[False, True], ids=["veth", "plain"])
def cable(request: pytest.FixtureRequest) -> Iterator[Cable]:
    with Lab() as lab:
        made = Cable(lab, is_plain=request.param)
        yield made
        made.close()


async def received(udp: UdpSockets, ip: str, count: int) -> list[tuple[bytes, Target]]:
    by = udp.ipv6 if ":" in ip else udp.ipv4
    assert by is not None
    arrived: list[tuple[bytes, Target]] = []
    with trio.fail_after(10):
        while len(arrived) < count:
            await trio.lowlevel.wait_readable(by)
            arrived += udp.receive_batch(by)
    return arrived


@pytest.mark.parametrize("ip", RIGHT)
async def test_runs_of_the_longest_datagrams_cross_both_ways_as_they_were_sent(cable: Cable, ip: str) -> None:
    payloads = [bytes((number,)) * ROOM[ip] for number in range(COUNT)] + [b"short"]
    assert cable.left.send_batch([(payload, (ip, cable.right.port)) for payload in payloads]) == COUNT + 1
    arrived = await received(cable.right, ip, COUNT + 1)
    assert [payload for payload, _ in arrived] == payloads
    assert cable.right.send_batch(arrived) == COUNT + 1
    back = await received(cable.left, ip, COUNT + 1)
    assert back == [(payload, (ip, cable.right.port)) for payload in payloads]
    assert not cable.left.drops
    assert not cable.right.drops


@pytest.mark.parametrize("ip", RIGHT)
async def test_a_run_too_long_for_the_device_teaches_its_length_and_runs_go_on(cable: Cable, ip: str) -> None:
    segments, to = cable.left.segments, (ip, cable.right.port)
    too_long = [bytes(ROOM[ip] + 1)] * COUNT + [b"fits"]
    assert cable.left.send_batch([(payload, to) for payload in too_long]) == COUNT + 1
    assert cable.left.drops == {Drop.OVERSIZE: COUNT}
    assert cable.left.take_too_long() == [(to, ROOM[ip] + 1)]
    assert [payload for payload, _ in await received(cable.right, ip, 1)] == [b"fits"]
    assert cable.left.segments == segments
    assert cable.left.send_batch([(bytes(ROOM[ip]), to)] * COUNT) == COUNT
    assert len(await received(cable.right, ip, COUNT)) == COUNT
    assert cable.left.drops == {Drop.OVERSIZE: COUNT}
