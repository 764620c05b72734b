"""WebSockets to relays, over real TLS on the loopback."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from fabric.dataplane.contract import Drop
from fabric.errors import CertificateError
from fabric.shell import relay_link
from fabric.shell.proxy import DIRECT, Outlet, parse_proxy
from fabric.shell.relay_link import OUTBOX_BYTES, STALE_S, RelayLinks, Terms, _Bundled, _Outbox
from fabric.shell.tls import context_under
from fabric.wire.address import Address, Target, Transport
from fabric.wire.relay import Refresh, encode_relay_message, wrap_relayed
from fabric.wire.rendezvous import RelayPlace
from tests.shell.homestead import Homestead, found, service_context
from tests.shell.proxy_server import ConnectProxy, serve_proxy

Behave = Callable[[WebSocketConnection], Awaitable[None]]
RELAY = Address("192.0.2.10", 443, Transport.RELAY_TLS)
CHANNEL: Target = (RELAY.ip, RELAY.port, Transport.RELAY_TLS, 7)
ITSELF: Target = (RELAY.ip, RELAY.port, Transport.RELAY_TLS, 0)


class User:
    def __init__(self) -> None:
        self.ups: list[tuple[Address, bool]] = []
        self.came: list[tuple[bytes, Target]] = []
        self.rests = 0
        self._something = trio.Event()

    def handle_link(self, relay: Address, up: bool) -> None:
        self.ups.append((relay, up))
        self._notice()

    def deliver(self, batch: list[tuple[bytes, Target]]) -> None:
        self.came += batch
        self._notice()

    def jitter(self) -> float:
        self.rests += 1
        self._notice()
        return 0.5

    def _notice(self) -> None:
        self._something.set()
        self._something = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not holds():
                await self._something.wait()


async def reverse(socket: WebSocketConnection) -> None:
    """Sends each channel's datagrams back on it, in reverse, and the relay's own as they are."""
    while True:
        message = bytes(await socket.get_message())  # type: ignore[arg-type]
        await socket.send_message(message if message[0] == 0xF4 else message[:8] + message[:7:-1])


@asynccontextmanager
async def relay(context: ssl.SSLContext, behave: Behave) -> AsyncIterator[int]:
    async def handle(request: WebSocketRequest) -> None:
        assert request.path == "/v1/relay"
        socket = await request.accept()
        with suppress(ConnectionClosed):
            await behave(socket)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, context)
        yield server.port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(
    homestead: Homestead,
    port: int,
    outlet: Outlet = DIRECT,
    host: str = "127.0.0.1",
    check: Callable[[bytes, str], object] = lambda _certificate, _host: None,
) -> AsyncIterator[tuple[RelayLinks, User]]:
    user = User()
    terms = Terms(context_under(homestead.authority.root_der), check, user.jitter, outlet)
    links = RelayLinks(terms, user.handle_link, user.deliver)
    links.want(RelayPlace(host, 3478, port), RELAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.run)
        yield links, user
        nursery.cancel_scope.cancel()


@pytest.fixture
def homestead(tmp_path: Path) -> Homestead:
    return found(tmp_path)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_link, "RETRY_S", 0.01)


async def test_datagrams_are_wrapped_and_unwrapped_and_control_goes_as_it_is(homestead: Homestead) -> None:
    control = encode_relay_message(Refresh((7,)))
    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, reverse) as port, linked(homestead, port) as (links, user):
        assert not links.send(b"too early", CHANNEL)
        await user.until(lambda: user.ups == [(RELAY, True)])
        assert links.why(RELAY) == ""
        assert links.send(b"hello", CHANNEL)
        assert links.send(control, ITSELF)
        await user.until(lambda: len(user.came) == 2)
        assert user.came == [(b"olleh", CHANNEL), (control, ITSELF)]
        assert links.drops == Counter({Drop.NO_PATH: 1})


async def test_a_lost_link_is_opened_again(homestead: Homestead) -> None:
    async def behave(socket: WebSocketConnection) -> None:
        await socket.aclose()

    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, behave) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: len(user.ups) >= 4)
        assert user.ups[:4] == [(RELAY, True), (RELAY, False)] * 2
        assert "127.0.0.1" in links.why(RELAY) or user.ups[-1][1]


async def test_an_unwanted_link_is_closed_without_a_word(homestead: Homestead) -> None:
    closed = trio.Event()

    async def behave(socket: WebSocketConnection) -> None:
        try:
            await socket.get_message()
        finally:
            closed.set()

    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, behave) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: bool(user.ups))
        links.unwant(RELAY)
        assert not links.send(b"late", CHANNEL)
        with trio.fail_after(5):
            await closed.wait()
        assert user.ups == [(RELAY, True)]
        links.want(RelayPlace("127.0.0.1", 3478, port), RELAY)
        await user.until(lambda: len(user.ups) == 2)


async def test_a_relay_of_another_authority_is_never_spoken_to(homestead: Homestead, tmp_path: Path) -> None:
    context, _ = service_context(found(tmp_path), "127.0.0.1")
    async with relay(context, reverse) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: user.rests > 0)
        assert "certificate verify failed" in links.why(RELAY)
        assert not user.ups


async def test_a_revoked_relay_is_refused(homestead: Homestead) -> None:
    def check(_certificate: bytes, _host: str) -> None:
        raise CertificateError("it was revoked")

    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, reverse) as port, linked(homestead, port, check=check) as (links, user):
        await user.until(lambda: user.rests > 0)
        assert "revoked" in links.why(RELAY)
        assert not user.ups


@pytest.mark.parametrize("message", ["text", b"\xf3", b"\xf3\0\0\0\0\0\0\7", b"\xf1hello there, relay", b"\xff" * 50])
async def test_what_is_no_datagram_is_counted(homestead: Homestead, message: bytes | str) -> None:
    async def behave(socket: WebSocketConnection) -> None:
        await socket.send_message(message)
        await socket.send_message(wrap_relayed(7, b"after it"))
        await socket.get_message()

    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, behave) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: bool(user.came))
        assert user.came == [(b"after it", CHANNEL)]
        assert links.drops == Counter({Drop.MALFORMED: 1})


async def test_a_relay_that_reads_nothing_fills_no_memory_and_is_given_up(
    homestead: Homestead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_link, "STALL_S", 0.2)

    async def behave(socket: WebSocketConnection) -> None:
        await trio.sleep_forever()

    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, behave) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: user.ups == [(RELAY, True)])
        while len(user.ups) == 1:
            links.send(bytes(1400), CHANNEL)
            await trio.lowlevel.checkpoint()
        assert user.ups[1] == (RELAY, False)
        assert links.drops[Drop.BACKPRESSURE]


async def test_a_link_from_an_address_that_is_gone_is_opened_again_at_once(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, reverse) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: len(user.ups) == 1)
        links.handle_moved(["127.0.0.1"])
        await trio.testing.wait_all_tasks_blocked()
        assert len(user.ups) == 1
        links.handle_moved(["192.0.2.1"])
        await user.until(lambda: user.ups == [(RELAY, True), (RELAY, False), (RELAY, True)])


async def test_a_relay_is_reached_through_a_proxy_that_alone_knows_its_name(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "relay.invalid")
    async with relay(context, reverse) as port, serve_proxy(ConnectProxy({"relay.invalid": "127.0.0.1"})) as proxy:
        outlet = Outlet(parse_proxy(proxy.url))
        async with linked(homestead, port, outlet, "relay.invalid") as (links, user):
            await user.until(lambda: user.ups == [(RELAY, True)])
            links.send(b"hello", CHANNEL)
            await user.until(lambda: user.came == [(b"olleh", CHANNEL)])
            assert proxy.asked == [f"relay.invalid:{port}"]


async def test_stale_frames_are_dropped_and_control_is_not(autojump_clock: trio.testing.MockClock) -> None:
    drops: Counter[Drop] = Counter()
    outbox = _Outbox(drops)
    outbox.put(b"frame", is_frame=True)
    outbox.put(b"control", is_frame=False)
    await trio.sleep(2 * STALE_S)
    outbox.put(b"fresh", is_frame=True)
    assert await outbox.get_batch() == [b"control", b"fresh"]
    assert drops == Counter({Drop.BACKPRESSURE: 1})


async def test_the_outbox_is_bounded_in_bytes_and_the_oldest_gives_way() -> None:
    drops: Counter[Drop] = Counter()
    outbox = _Outbox(drops)
    count = OUTBOX_BYTES // 1000 + 10
    for number in range(count):
        outbox.put(number.to_bytes(4) + bytes(996), is_frame=True)
    assert drops[Drop.BACKPRESSURE] == count - OUTBOX_BYTES // 1000
    assert int.from_bytes((await outbox.get_batch())[0][:4]) == drops[Drop.BACKPRESSURE]


async def test_many_datagrams_keep_their_order(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, reverse) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: bool(user.ups))
        for number in range(100):
            links.send(number.to_bytes(2), CHANNEL)
        await user.until(lambda: len(user.came) == 100)
        assert [payload[::-1] for payload, _ in user.came] == [number.to_bytes(2) for number in range(100)]


async def test_a_relay_with_an_impossible_name_is_only_not_reached(homestead: Homestead) -> None:
    """The service names relays, and may name anything."""
    async with linked(homestead, 443, host="a..example") as (links, user):
        await user.until(lambda: user.rests > 1)
        assert "no name of a host" in links.why(RELAY)


async def test_pings_are_answered_while_a_batch_is_on_its_way() -> None:
    """The reader of a WebSocket answers by itself, whatever the writer is doing at that moment."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    bundled = _Bundled(ours)
    async with trio.open_nursery() as nursery:
        bundled.hold()
        for message in (b"one ", b"two "):
            await bundled.send_all(message)
        nursery.start_soon(bundled.release)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(bundled.send_all, b"pong")
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join([bytes(await theirs.receive_some(8)), bytes(await theirs.receive_some(8))]) == b"one two pong"


@pytest.mark.slow
async def test_a_relay_that_pings_without_pause_ends_no_link(homestead: Homestead) -> None:
    async def behave(socket: WebSocketConnection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping, socket)
            while True:
                await socket.get_message()

    async def ping(socket: WebSocketConnection) -> None:
        for number in range(40):
            await socket.ping(number.to_bytes(2))
        await socket.send_message(wrap_relayed(7, b"done"))

    context, _ = service_context(homestead, "127.0.0.1")
    async with relay(context, behave) as port, linked(homestead, port) as (links, user):
        await user.until(lambda: bool(user.ups))
        while not user.came:
            for _ in range(64):
                links.send(bytes(1400), CHANNEL)
            await trio.lowlevel.checkpoint()
        assert user.came == [(b"done", CHANNEL)]
        assert user.ups == [(RELAY, True)]
