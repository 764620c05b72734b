"""Two channels at once, over real TLS and WebSockets on the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection

from fabric.shell.service_link import Patience, Rota
from fabric.shell.service_links import ServiceLinks
from fabric.shell.tls import context_under
from fabric.wire.rendezvous import IntentNoted, StateIntent, ToEndpoint, decode_to_service, encode_message
from tests.shell.homestead import Homestead, found, service_context
from tests.shell.test_service_link import service

DEAD = "127.0.0.1:9"
PATIENCE = Patience(retry_s=0.01, retry_limit_s=0.05, silence_s=5.0)


class Office:
    """A service that can be closed; it notes what it is told and says its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told: list[str] = []
        self.open = 0
        self._closing = trio.Event()

    async def behave(self, socket: WebSocketConnection) -> None:
        self.open += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, socket, nursery.cancel_scope)
                await socket.send_message(encode_message(IntentNoted(self.name)))
                await self._closing.wait()
                nursery.cancel_scope.cancel()
            await socket.aclose()
        finally:
            self.open -= 1

    async def _listen(self, socket: WebSocketConnection, ends: trio.CancelScope) -> None:
        with suppress(ConnectionClosed):
            while True:
                message = decode_to_service(bytes(await socket.get_message()))  # type: ignore[arg-type]
                assert isinstance(message, StateIntent)
                self.told.append(message.intent.decode())
        ends.cancel()

    def hang_up(self) -> None:
        self._closing.set()
        self._closing = trio.Event()


class User:
    """Notes which links stand, and accepts each at its first message."""

    def __init__(self) -> None:
        self.standing: dict[int, str] = {}
        self.numbers: list[int] = []
        self.losses: list[int] = []
        self.links: ServiceLinks | None = None
        self._something = trio.Event()

    def handle_connected(self, link: int, tls_certificate: bytes) -> None:
        assert tls_certificate
        self.numbers.append(link)
        self.standing[link] = ""

    def handle_message(self, link: int, message: ToEndpoint) -> None:
        assert isinstance(message, IntentNoted)
        self.standing[link] = message.peer
        assert self.links is not None
        self.links.handle_accepted(link)
        self._notice()

    def handle_lost(self, link: int) -> None:
        del self.standing[link]
        self.losses.append(link)
        self._notice()

    def jitter(self) -> float:
        self._notice()
        return 0.5

    @property
    def offices(self) -> list[str]:
        return sorted(self.standing.values())

    def _notice(self) -> None:
        self._something.set()
        self._something = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not holds():
                await self._something.wait()


@asynccontextmanager
async def linked(homestead: Homestead, *addresses: str) -> AsyncIterator[tuple[ServiceLinks, User]]:
    user = User()
    context = context_under(homestead.authority.root_der)
    links = ServiceLinks(addresses, context, lambda *_: None, user, PATIENCE, user.jitter)
    user.links = links
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.run)
        yield links, user
        nursery.cancel_scope.cancel()


@pytest.fixture
def homestead(tmp_path: Path) -> Homestead:
    return found(tmp_path)


async def test_two_services_are_used_at_once_and_each_link_is_its_own(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east, west = Office("east"), Office("west")
    async with (
        service(context, east.behave) as one,
        service(context, west.behave) as two,
        linked(homestead, one, two) as (links, user),
    ):
        await user.until(lambda: user.offices == ["east", "west"])
        assert links.why == ""
        for number, office in user.standing.items():
            links.send(number, StateIntent(office.encode()))
        links.send(99, StateIntent(b"nobody"))
        with trio.fail_after(5):
            while not (east.told and west.told):
                await trio.testing.wait_all_tasks_blocked()
        assert (east.told, west.told) == (["east"], ["west"])


async def test_the_loss_of_either_leaves_the_other_alone_and_is_made_good(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east, west = Office("east"), Office("west")
    async with (
        service(context, east.behave) as one,
        service(context, west.behave) as two,
        linked(homestead, one, two) as (links, user),
    ):
        await user.until(lambda: user.offices == ["east", "west"])
        (kept,) = (number for number, office in user.standing.items() if office == "west")
        east.hang_up()
        await user.until(lambda: len(user.losses) == 1)
        assert links.why == ""
        await user.until(lambda: user.offices == ["east", "west"])
        assert kept in user.standing
    assert len(set(user.numbers)) == len(user.numbers) == 3


async def test_one_address_makes_one_link(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east = Office("east")
    async with service(context, east.behave) as one, linked(homestead, one, one) as (_, user):
        await user.until(lambda: user.offices == ["east"])
        await trio.testing.wait_all_tasks_blocked()
        assert east.open == 1


async def test_a_link_that_fails_moves_on_to_an_address_that_the_other_does_not_use(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east, west = Office("east"), Office("west")
    async with (
        service(context, east.behave) as one,
        service(context, west.behave) as three,
        linked(homestead, one, DEAD, three) as (_, user),
    ):
        await user.until(lambda: user.offices == ["east", "west"])
        east.hang_up()
        await user.until(lambda: len(user.losses) == 1)
        await user.until(lambda: user.offices == ["east", "west"])
        assert (east.open, west.open) == (1, 1)


async def test_a_dead_second_address_is_not_told_while_the_first_stands(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east = Office("east")
    async with service(context, east.behave) as one, linked(homestead, one, DEAD) as (links, user):
        await user.until(lambda: user.offices == ["east"])
        assert links.why == ""
        east.hang_up()
        await user.until(lambda: not user.standing)
        assert "127.0.0.1" in links.why


async def test_why_there_is_no_channel_begins_with_what_the_service_refused(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east = Office("east")
    async with service(context, east.behave) as one, linked(homestead, one) as (links, user):
        await user.until(lambda: user.offices == ["east"])
        links.handle_refused("it was revoked")
        assert links.why == ""
        links.close(min(user.standing), "the service closed the channel")
        assert links.why == "it refused: it was revoked; the service closed the channel"
        await user.until(lambda: len(user.numbers) == 2 and user.offices == ["east"])
        links.close(max(user.standing), "again")
        assert links.why == "again"


async def test_a_link_is_closed_by_its_number(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east, west = Office("east"), Office("west")
    async with (
        service(context, east.behave) as one,
        service(context, west.behave) as two,
        linked(homestead, one, two) as (links, user),
    ):
        await user.until(lambda: len(user.standing) == 2 and "" not in user.offices)
        first = min(user.standing)
        links.close(first, "it broke the protocol")
        links.close(99, "nobody")
        await user.until(lambda: bool(user.losses))
        assert user.losses == [first]


async def test_a_move_opens_both_again(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    east, west = Office("east"), Office("west")
    async with (
        service(context, east.behave) as one,
        service(context, west.behave) as two,
        linked(homestead, one, two) as (links, user),
    ):
        await user.until(lambda: user.offices == ["east", "west"])
        links.handle_moved(["127.0.0.1"])
        await trio.testing.wait_all_tasks_blocked()
        assert not user.losses
        links.handle_moved(["192.0.2.1"])
        await user.until(lambda: len(user.losses) == 2 and user.offices == ["east", "west"])


def test_a_rota_gives_each_address_to_one_at_a_time() -> None:
    rota = Rota(["a:1", "b:1", "a:1"])
    assert len(rota) == 2
    assert rota.take(()) == "a:1"
    assert rota.take(()) == "b:1"
    assert rota.take(()) is None
    rota.give_back("a:1")
    assert rota.take({"a:1"}) is None
    assert rota.take(()) == "a:1"
