"""Two pumps over the loopback, with socket pairs in place of TAP devices: an Ethernet of two hosts."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest
import trio
import trio.testing

from fabric.dataplane.contract import Control, Drop, Traffic
from fabric.dataplane.native import NativeLane
from fabric.dataplane.reference import ReferenceLane
from fabric.errors import ConfigurationError
from fabric.shell.carriers import Carriers
from fabric.shell.flood_guard import FloodGuard
from fabric.shell.lane_threads import LaneThreads
from fabric.shell.pump import Pump
from fabric.shell.tap import Tap
from fabric.shell.tcp import TcpLinks
from fabric.shell.udp import TooLong, UdpSockets, open_udp_sockets
from fabric.wire.address import Address, Target, Transport
from fabric.wire.relay import wrap_relayed
from fabric.wire.vnet import GSO_TCPV4, NO_VNET, VNET_BYTES, decode_vnet
from tests.dataplane.pair import End, LaneMaker, ipv4, meet, native_lane
from tests.dataplane.superframes import NETWORK, Stream


class Machine:
    """An endpoint with a real pump; `host` is the far side of its TAP, where its kernel would be."""

    def __init__(self, end: End, udp: UdpSockets | None = None) -> None:
        self.end = end
        self.host, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host.setblocking(False)
        near.setblocking(False)
        self.tap = Tap(near.detach(), "pair")
        self.udp = udp or open_udp_sockets()
        self.tcp = TcpLinks(self.udp.port, self.udp.drops)
        end.underlay = Address("127.0.0.1", self.udp.port)
        self.leftovers: list[tuple[bytes, Target]] = []
        self.told: list[Traffic | Control] = []
        self.too_long: list[TooLong] = []
        ways = Carriers(self.udp, self.tcp)
        threads = LaneThreads(end.lane, self.tap, self.udp) if isinstance(end.lane, NativeLane) else None
        handlers = (self.leftovers.extend, self.handle_reports, self.too_long.extend)
        guard = FloodGuard(end.lane, self.udp, frozenset)
        self.pump = Pump(end.lane, self.tap, ways, *handlers, threads=threads, guard=guard)
        self.links: list[Address] = []
        self.tcp.attach(self, self.pump.receive)

    def handle_reports(self, traffic: Sequence[Traffic], controls: Sequence[Control]) -> None:
        self.told += [*traffic, *controls]

    def handle_link(self, link: Address, asked: Address | None) -> None:
        self.links.append(link)

    def handle_link_lost(self, link: Address, why: str) -> None:
        self.links.remove(link)

    def handle_connect_failed(self, to: Address, why: str) -> None:
        raise AssertionError(why)

    def handle_listening(self, *, up: bool) -> None:
        pass

    def handle_tcp_reflexive(self, addresses: Sequence[Address]) -> None:
        raise AssertionError(addresses)

    @property
    def udp_target(self) -> Target:
        return ("127.0.0.1", self.udp.port)

    def say(self, frame: bytes) -> None:
        """Its kernel sends a frame, and has nothing left to do for it."""
        self.host.send(NO_VNET + frame)

    async def take(self, count: int) -> list[bytes]:
        frames: list[bytes] = []
        with trio.fail_after(10):
            while len(frames) < count:
                await trio.lowlevel.wait_readable(self.host)
                item = self.host.recv(65_567)
                assert item[:VNET_BYTES] == NO_VNET
                frames.append(item[VNET_BYTES:])
        return frames

    def reported(self, what: str) -> int:
        return sum(getattr(report, what) for report in self.told if isinstance(report, Traffic))

    def close(self) -> None:
        self.tap.close()
        self.udp.close()
        self.host.close()


@pytest.fixture(params=["reference", "native"])
def machines(request: pytest.FixtureRequest) -> Iterator[tuple[Machine, Machine]]:
    make_lane: LaneMaker = native_lane if request.param == "native" else ReferenceLane
    try:
        both = Machine(End(1, make_lane=make_lane)), Machine(End(2, make_lane=make_lane))
    except ConfigurationError as error:
        pytest.skip(str(error))
    meet(both[0].end, both[1].end)
    yield both
    for each in both:
        each.close()


async def test_frames_cross_in_both_directions(machines: tuple[Machine, Machine], nursery: trio.Nursery) -> None:
    ann, bob = machines
    for each in machines:
        await nursery.start(each.pump.run)
    there = [ipv4(ann.end, bob.end, 200 + n) for n in range(150)]
    back = [ipv4(bob.end, ann.end, 200 + n) for n in range(150)]
    for one, other in zip(there, back, strict=True):
        ann.say(one)
        bob.say(other)
        await trio.lowlevel.checkpoint()
    assert await bob.take(150) == there
    assert await ann.take(150) == back
    nursery.cancel_scope.cancel()


async def test_what_is_not_data_goes_to_core_and_controls_come_after_traffic(
    machines: tuple[Machine, Machine], nursery: trio.Nursery
) -> None:
    ann, bob = machines
    await nursery.start(bob.pump.run)
    index = next(iter(ann.end.lane.indices))
    ann.end.lane.send_control(index, b"hello", bob.end.underlay)
    ann.pump.flush()
    ann.udp.send_batch([(b"\xf2 gated", ("127.0.0.1", bob.udp.port))])
    with trio.fail_after(10):
        while not bob.leftovers or not bob.told:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert bob.leftovers == [(b"\xf2 gated", ("127.0.0.1", ann.udp.port))]
    traffic, control = bob.told
    assert isinstance(traffic, Traffic)
    assert isinstance(control, Control)
    assert (control.payload, control.source.port) == (b"hello", ann.udp.port)
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("machines", ["reference"], indirect=True)
async def test_the_loss_of_the_device_ends_the_pump(machines: tuple[Machine, Machine]) -> None:
    ann, _ = machines
    ann.tap.close()
    with pytest.raises(ExceptionGroup):
        await ann.pump.run()


async def test_traffic_is_told_at_once_after_a_pause_then_at_intervals_and_never_lost(
    machines: tuple[Machine, Machine], nursery: trio.Nursery
) -> None:
    ann, bob = machines
    for each in machines:
        await nursery.start(each.pump.run)
    for number in range(60):
        ann.say(ipv4(ann.end, bob.end, 1300 + number))
        if number % 20 == 0:
            await trio.lowlevel.checkpoint()
    await bob.take(60)
    with trio.fail_after(10):
        while bob.reported("opened") < 60 or ann.reported("sealed") < 60:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert (bob.reported("opened"), ann.reported("sealed")) == (60, 60)
    assert len(ann.told) < 60
    nursery.cancel_scope.cancel()


async def test_in_a_flood_strangers_are_dropped_unread_and_frames_cross(
    machines: tuple[Machine, Machine], nursery: trio.Nursery
) -> None:
    ann, bob = machines
    for each in machines:
        await nursery.start(each.pump.run)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger, trio.fail_after(30):

        async def flood() -> None:
            for _ in range(100):
                stranger.sendto(b"\xf1\0\0\0nobody's", ("127.0.0.1", bob.udp.port))
            await trio.sleep(0.001)  # a flood has a rate

        while not bob.end.lane.drops().get(Drop.UNREAD):
            await flood()
        frames = [ipv4(ann.end, bob.end, 200 + n) for n in range(100)]
        for frame in frames:
            ann.say(frame)
            await flood()
        assert await bob.take(100) == frames
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("machines", ["native"], indirect=True)
@pytest.mark.parametrize("datagram", [b"", bytes(65_507)])
async def test_what_is_no_datagram_of_ours_is_counted(
    machines: tuple[Machine, Machine], nursery: trio.Nursery, datagram: bytes
) -> None:
    _, bob = machines
    await nursery.start(bob.pump.run)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger, trio.fail_after(10):
        stranger.sendto(datagram, ("127.0.0.1", bob.udp.port))
        while not sum(bob.end.lane.drops().values()) and not bob.leftovers:
            await trio.testing.wait_all_tasks_blocked(0.001)
    nursery.cancel_scope.cancel()


async def test_frames_cross_by_a_socket_beside_the_main_one(
    machines: tuple[Machine, Machine], nursery: trio.Nursery
) -> None:
    ann, bob = machines
    (via,) = ann.udp.side.open(1)
    side = ann.udp.side.socket_of(via)
    assert side is not None
    ann.end.lane.steer(bob.end.name, Address("127.0.0.1", bob.udp.port, via=via), 1472)
    bob.end.lane.steer(ann.end.name, Address("127.0.0.1", side.getsockname()[1]), 1472)
    small = side.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    for each in machines:
        await nursery.start(each.pump.run)
    there, back = ipv4(ann.end, bob.end), ipv4(bob.end, ann.end)
    ann.say(there)
    bob.say(back)
    assert (await bob.take(1), await ann.take(1)) == ([there], [back])
    with trio.fail_after(10):
        while len(ann.told) + len(bob.told) < 2:
            await trio.testing.wait_all_tasks_blocked(0.001)
    told = [report for report in [*ann.told, *bob.told] if isinstance(report, Traffic)]
    assert {report.source for report in told} == {None}
    assert side.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > small
    nursery.cancel_scope.cancel()


async def test_frames_cross_by_a_relay_that_wraps_them_anew(
    machines: tuple[Machine, Machine], nursery: trio.Nursery
) -> None:
    ann, bob = machines
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as relay:
        relay.bind(("127.0.0.1", 0))
        at = Address("127.0.0.1", relay.getsockname()[1], Transport.RELAY_UDP, 7)
        ann.end.lane.steer(bob.end.name, at, 1472)
        for each in machines:
            await nursery.start(each.pump.run)
        sent = ipv4(ann.end, bob.end)
        ann.say(sent)
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(relay)
        wrapped = relay.recv(2000)
        assert wrapped[:8] == wrap_relayed(7, b"")
        relay.sendto(wrap_relayed(9, wrapped[8:]), ("127.0.0.1", bob.udp.port))
        assert await bob.take(1) == [sent]
        with trio.fail_after(10):
            while not bob.told:
                await trio.testing.wait_all_tasks_blocked(0.001)
        (report,) = bob.told
        assert isinstance(report, Traffic)
        assert report.source == Address(at.ip, at.port, Transport.RELAY_UDP, 9)
    nursery.cancel_scope.cancel()


async def test_frames_cross_by_a_tcp_connection_once_the_accepting_end_knows_who_speaks(
    machines: tuple[Machine, Machine], nursery: trio.Nursery
) -> None:
    ann, bob = machines
    for each in machines:
        await nursery.start(each.tcp.run)
        await nursery.start(each.pump.run)
    bob.tcp.listen(wanted=True)
    await trio.testing.wait_all_tasks_blocked()
    ann.tcp.connect(Address("127.0.0.1", bob.udp.port, Transport.TCP))
    with trio.fail_after(10):
        while not (ann.links and bob.links):
            await trio.testing.wait_all_tasks_blocked(0.001)
    ann.end.lane.steer(bob.end.name, ann.links[0], 16_384)
    bob.end.lane.steer(ann.end.name, bob.links[0], 1472)
    back = [ipv4(bob.end, ann.end, 300 + n) for n in range(50)]
    bob.say(back[0])
    with trio.fail_after(10):
        while not bob.udp.drops and not bob.end.lane.drops():
            await trio.testing.wait_all_tasks_blocked(0.001)
    there = [ipv4(ann.end, bob.end, 300 + n) for n in range(50)]
    for frame in there:
        ann.say(frame)
        await trio.lowlevel.checkpoint()
    assert await bob.take(50) == there
    index = next(iter(ann.end.lane.indices))
    ann.end.lane.send_control(index, b"hello", ann.links[0])
    ann.pump.flush()
    with trio.fail_after(10):
        while not any(isinstance(report, Control) for report in bob.told):
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert bob.end.lane.drops() == {Drop.NO_PATH: 1}
    for frame in back:
        bob.say(frame)
        await trio.lowlevel.checkpoint()
    assert await ann.take(50) == back
    nursery.cancel_scope.cancel()


async def test_core_hears_later_what_the_own_device_could_not_carry(
    machines: tuple[Machine, Machine], nursery: trio.Nursery
) -> None:
    ann, bob = machines
    await nursery.start(ann.pump.run)
    index = next(iter(ann.end.lane.indices))
    ann.end.lane.send_control(index, bytes(8000), bob.end.underlay, whole=True)
    ann.pump.flush()
    assert ann.too_long == []
    loopback_carries = 65_536 - 28
    assert ann.udp.send_batch([(bytes(loopback_carries + 1), ("127.0.0.1", bob.udp.port))]) == 1
    ann.pump.flush()
    assert ann.too_long == []
    with trio.fail_after(10):
        while not ann.too_long:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert ann.too_long == [(("127.0.0.1", bob.udp.port), loopback_carries + 1)]
    assert ann.end.lane.drops() == {Drop.OVERSIZE: 1}
    nursery.cancel_scope.cancel()


async def test_what_a_super_frame_brought_is_delivered_when_the_rest_of_it_stays_away(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabric.shell.pump.AGE_INTERVAL_S", 3600.0)
    stream = Stream()
    ann, bob = Machine(End(1, NETWORK)), Machine(End(2, NETWORK))
    meet(ann.end, bob.end)
    await nursery.start(bob.pump.run)
    for _ in range(2):
        ann.end.lane.handle_frames([stream.vnet() + stream.whole()], 0.0)
        datagrams = [(payload, bob.udp_target) for payload, _ in ann.end.lane.take_datagrams()]
        ann.udp.send_batch(datagrams[:3] + datagrams[4:])
        with trio.fail_after(10):
            for _ in range(2):
                await trio.lowlevel.wait_readable(bob.host)
                assert decode_vnet(bob.host.recv(65_567)).gso_type == GSO_TCPV4
    nursery.cancel_scope.cancel()
    ann.close()
    bob.close()


class StuckSockets(UdpSockets):
    """A queue that is full for ever after `room` datagrams."""

    room = 3

    def send_batch(self, batch: Sequence[tuple[bytes, Target]], start: int = 0) -> int:
        sent = min(self.room, len(batch) - start)
        self.room -= sent
        return start + sent

    async def wait_writable(self, target: Target) -> None:
        await trio.sleep_forever()


async def test_a_queue_that_stays_full_costs_what_waits_for_it_and_no_more(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    real = open_udp_sockets()
    real.side.close_all()
    ann, bob = Machine(End(1), StuckSockets(real.ipv4, real.ipv6)), Machine(End(2))
    meet(ann.end, bob.end)
    for number in range(10):
        ann.say(ipv4(ann.end, bob.end, 1400 + number % 2))
    await nursery.start(ann.pump.run)
    await trio.sleep(5)
    assert ann.end.lane.drops() == {Drop.BACKPRESSURE: 7}
    nursery.cancel_scope.cancel()
    ann.close()
    bob.close()
