"""The mapper's sockets, against a gateway on an address of the loopback; real gateways are in the namespace tests."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio

from fabric.core.mapping import Outcome, UpnpMapped, UpnpWanted
from fabric.shell import port_mapping as module
from fabric.shell.gateway import Gateway
from fabric.shell.port_mapping import CLOSE_S, PortMapper
from fabric.wire.address import Address, Transport
from fabric.wire.pcp import GATEWAY_PORT, NEWS_PORT, Protocol

DOOR, OUTSIDE, PORT = "127.53.51.1", "203.0.113.7", 4000
HERE = Gateway(DOOR, "127.0.0.1", 1, "lo")
BOTH = (Address(OUTSIDE, PORT), Address(OUTSIDE, PORT, Transport.TCP))


@dataclass
class World:
    """A gateway that grants PCP, and the tellings of a mapper."""

    told: list[tuple[Address, ...]] = field(default_factory=list)
    table: set[int] = field(default_factory=set)
    is_deaf: bool = False
    show: Callable[[Gateway | None], None] = lambda _: None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
            await door.bind((DOOR, GATEWAY_PORT))
            task_status.started()
            while True:
                payload, source = await door.recvfrom(2000)
                if not self.is_deaf:
                    await door.sendto(self._granted(payload), source)

    def _granted(self, payload: bytes) -> bytes:
        protocol = payload[36]
        if payload[4:8] == bytes(4):
            self.table.discard(protocol)
        else:
            self.table.add(protocol)
        outside = bytes(10) + b"\xff\xff" + socket.inet_aton(OUTSIDE)
        header = bytes([2, 0x81, 0, 0]) + payload[4:8] + struct.pack("!I12x", 9)
        return header + payload[24:42] + payload[40:42] + outside

    async def watch(self, device: str, handle: Callable[[Gateway | None], None]) -> None:
        """In the place of `watch_gateway`."""
        self.show = handle
        handle(HERE)
        await trio.sleep_forever()

    async def until(self, addresses: tuple[Address, ...]) -> None:
        with trio.fail_after(10):
            while not self.told or self.told[-1] != addresses:  # noqa: ASYNC110  the callback is plain
                await trio.sleep(0.01)

    def mapper(self) -> PortMapper:
        return PortMapper(PORT, lambda addresses: self.told.append(tuple(addresses)), nonce=b"n" * 12)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(module, "watch_gateway", made.watch)
    return made


async def test_what_the_gateway_grants_is_told_and_given_back_when_cancelled(world: World) -> None:
    mapper = world.mapper()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.serve)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(mapper.run)
                await world.until(BOTH)
                assert world.table == {6, 17}
                assert mapper.report.outcome is Outcome.MAPPED
                scope.cancel()
        assert world.table == set()
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_gateway_that_no_longer_answers_holds_nobody_up_for_long(world: World) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(world.serve)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(world.mapper().run)
                await world.until(BOTH)
                world.is_deaf = True
                begun = trio.current_time()
                scope.cancel()
        assert trio.current_time() - begun < CLOSE_S + 1.0
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_lost_gateway_takes_the_addresses_with_it(world: World) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(world.serve)
        nursery.start_soon(world.mapper().run)
        await world.until(BOTH)
        world.show(None)
        await world.until(())
        world.show(HERE)
        await world.until(BOTH)
        nursery.cancel_scope.cancel()


class FakeUpnp:
    """What `Upnp` does, without a gateway."""

    def __init__(self) -> None:
        self.removed = 0

    async def map(self, wanted: UpnpWanted) -> UpnpMapped:
        return UpnpMapped((Address(OUTSIDE, wanted.port),), 7200)

    async def remove(self) -> None:
        self.removed += 1


async def test_where_nobody_is_on_the_port_upnp_is_tried_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeUpnp()
    monkeypatch.setattr(module, "Upnp", lambda: fake)
    mapper = world.mapper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        await world.until((BOTH[0],))
        assert mapper.report.protocol is Protocol.UPNP
        nursery.cancel_scope.cancel()
    assert fake.removed == 1


@pytest.mark.slow
async def test_what_others_send_as_news_is_counted_and_nothing_else(world: World) -> None:
    mapper = world.mapper()
    async with trio.open_nursery() as nursery:
        await nursery.start(world.serve)
        nursery.start_soon(mapper.run)
        await world.until(BOTH)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(bytes([2, 0x80]) + bytes(22), ("127.0.0.1", NEWS_PORT))
        with trio.fail_after(10):
            while not mapper.malformed:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert world.told == [(BOTH[0],), BOTH] or world.told == [BOTH]
        nursery.cancel_scope.cancel()
