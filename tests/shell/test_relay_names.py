"""Names of relays to addresses, with a resolver of the test's own."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from fabric.core.relays import ResolvedRelay
from fabric.shell.relay_names import REFRESH_S, RETRY_S, RelayNames
from fabric.wire.rendezvous import RelayPlace

EAST, WEST = RelayPlace("east.example", 3478, 443), RelayPlace("west.example", 3478, 443)
LITERAL = RelayPlace("2001:db8::1", 3478, 443)
Answer = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]


class Resolver(trio.abc.HostnameResolver):
    def __init__(self) -> None:
        self.known: dict[str, tuple[str, ...]] = {}
        self.slow: set[str] = set()
        self.asked = 0

    async def getaddrinfo(  # type: ignore[override]
        self, host: bytes, port: object, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Answer]:
        name = host.decode()
        self.asked += 1
        if name in self.slow:
            await trio.sleep_forever()
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        kind = socket.SOCK_DGRAM
        return [(socket.AF_INET, kind, 0, "", (ip, 0)) for ip in self.known[name]]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
def resolver() -> Resolver:
    return Resolver()


@asynccontextmanager
async def looking(resolver: Resolver) -> AsyncIterator[tuple[RelayNames, list[ResolvedRelay]]]:
    trio.socket.set_custom_hostname_resolver(resolver)
    told: list[ResolvedRelay] = []
    names = RelayNames(told.extend)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(names.run)
        yield names, told
        nursery.cancel_scope.cancel()


async def test_each_relay_is_told_as_soon_as_it_is_known(
    resolver: Resolver, autojump_clock: trio.testing.MockClock
) -> None:
    resolver.known = {"east.example": ("192.0.2.1", "192.0.2.2", "192.0.2.1")}
    resolver.slow = {"west.example"}
    async with looking(resolver) as (names, told):
        names.replace((WEST, EAST, LITERAL))
        await trio.sleep(1)
        assert set(told) == {
            ResolvedRelay(EAST, ("192.0.2.1", "192.0.2.2")),
            ResolvedRelay(LITERAL, ("2001:db8::1",)),
        }


async def test_a_name_that_does_not_resolve_is_told_as_that_and_tried_again(
    resolver: Resolver, autojump_clock: trio.testing.MockClock
) -> None:
    async with looking(resolver) as (names, told):
        names.replace((EAST,))
        await trio.sleep(1)
        assert told == [ResolvedRelay(EAST, ())]
        resolver.known = {"east.example": ("192.0.2.1",)}
        await trio.sleep(RETRY_S)
        assert told[-1] == ResolvedRelay(EAST, ("192.0.2.1",))


async def test_a_name_that_no_longer_resolves_keeps_what_it_meant(
    resolver: Resolver, autojump_clock: trio.testing.MockClock
) -> None:
    resolver.known = {"east.example": ("192.0.2.1",)}
    async with looking(resolver) as (names, told):
        names.replace((EAST,))
        await trio.sleep(1)
        resolver.known = {}
        names.look_again()
        await trio.sleep(1)
        assert told == 2 * [ResolvedRelay(EAST, ("192.0.2.1",))]


async def test_what_resolved_is_asked_again_only_after_an_hour(
    resolver: Resolver, autojump_clock: trio.testing.MockClock
) -> None:
    resolver.known = {"east.example": ("192.0.2.1",)}
    async with looking(resolver) as (names, _):
        names.replace((EAST,))
        await trio.sleep(REFRESH_S - 1)
        assert resolver.asked == 1
        await trio.sleep(2)
        assert resolver.asked == 2


async def test_a_slow_name_does_not_keep_new_places_waiting(
    resolver: Resolver, autojump_clock: trio.testing.MockClock
) -> None:
    resolver.known = {"east.example": ("192.0.2.1",)}
    resolver.slow = {"west.example"}
    async with looking(resolver) as (names, told):
        names.replace((WEST,))
        await trio.sleep(1)
        names.replace((WEST, EAST))
        await trio.sleep(1)
        assert told == [ResolvedRelay(EAST, ("192.0.2.1",))]
