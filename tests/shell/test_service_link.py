"""The channel to the service, over real TLS and WebSockets on the loopback."""

from __future__ import annotations

import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from fabric.errors import CertificateError
from fabric.shell import service_link
from fabric.shell.service_link import Patience, ServiceLink
from fabric.shell.tls import context_under
from fabric.wire.rendezvous import IntentNoted, StateIntent, ToEndpoint, decode_to_service, encode_message
from tests.shell.homestead import Homestead, found, service_context

Behave = Callable[[WebSocketConnection], Awaitable[None]]
PATIENCE = Patience(retry_s=0.01, retry_limit_s=0.05, silence_s=0.2)


class User:
    """Notes what the link brings; accepts the service at its first message where told so."""

    def __init__(self) -> None:
        self.certificates: list[bytes] = []
        self.messages: list[ToEndpoint] = []
        self.losses = 0
        self.rests = 0
        self.link: ServiceLink | None = None
        self._something = trio.Event()

    def handle_connected(self, tls_certificate: bytes) -> None:
        self.certificates.append(tls_certificate)
        self._notice()

    def handle_message(self, message: ToEndpoint) -> None:
        self.messages.append(message)
        assert self.link is not None
        self.link.handle_accepted()
        self._notice()

    def handle_lost(self) -> None:
        self.losses += 1
        self._notice()

    def jitter(self) -> float:
        """Asked for before each pause."""
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


@asynccontextmanager
async def service(context: ssl.SSLContext, behave: Behave) -> AsyncIterator[str]:
    async def handle(request: WebSocketRequest) -> None:
        assert request.path == "/v1/channel"
        socket = await request.accept()
        with suppress(ConnectionClosed):
            await behave(socket)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, context)
        yield f"127.0.0.1:{server.port}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(
    addresses: list[str],
    homestead: Homestead,
    check: Callable[[bytes, str], object] | None = None,
    patience: Patience = PATIENCE,
) -> AsyncIterator[tuple[ServiceLink, User]]:
    user = User()
    link = ServiceLink(
        addresses,
        context_under(homestead.authority.root_der),
        check or (lambda certificate, host: None),
        user,
        patience,
        user.jitter,
    )
    user.link = link
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        yield link, user
        nursery.cancel_scope.cancel()


async def _greet_and_echo(socket: WebSocketConnection) -> None:
    await socket.send_message(encode_message(IntentNoted("hello.home")))
    while True:
        message = decode_to_service(bytes(await socket.get_message()))  # type: ignore[arg-type]
        assert isinstance(message, StateIntent)
        await socket.send_message(encode_message(IntentNoted(message.intent.decode())))


@pytest.fixture
def homestead(tmp_path: Path) -> Homestead:
    return found(tmp_path)


async def test_messages_cross_in_both_directions(homestead: Homestead) -> None:
    context, certificate = service_context(homestead, "127.0.0.1")
    async with service(context, _greet_and_echo) as address, linked([address], homestead) as (link, user):
        await user.until(lambda: bool(user.messages))
        link.send(StateIntent(b"bob.home"))
        await user.until(lambda: len(user.messages) == 2)
    assert user.messages == [IntentNoted("hello.home"), IntentNoted("bob.home")]
    assert user.certificates == [certificate]
    assert link.why == ""


async def test_a_service_of_another_authority_is_never_spoken_to(homestead: Homestead, tmp_path: Path) -> None:
    foreign = found(tmp_path)
    context, _ = service_context(foreign, "127.0.0.1")
    async with service(context, _greet_and_echo) as address, linked([address], homestead) as (link, user):
        await user.until(lambda: user.rests > 0)
        assert "certificate verify failed" in link.why
    assert not user.certificates


async def test_a_certificate_for_another_host_is_refused(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "192.0.2.9")
    async with service(context, _greet_and_echo) as address, linked([address], homestead) as (link, user):
        await user.until(lambda: user.rests > 0)
        assert "verify failed" in link.why
    assert not user.certificates


async def test_a_revoked_service_is_refused(homestead: Homestead) -> None:
    def check(_certificate: bytes, _host: str) -> None:
        raise CertificateError("it was revoked")

    context, _ = service_context(homestead, "127.0.0.1")
    async with service(context, _greet_and_echo) as address, linked([address], homestead, check) as (link, user):
        await user.until(lambda: user.rests > 0)
        assert "revoked" in link.why
    assert not user.certificates


async def test_the_second_address_is_tried_when_the_first_is_dead(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    async with (
        service(context, _greet_and_echo) as address,
        linked(["127.0.0.1:9", address], homestead) as (_, user),
    ):
        await user.until(lambda: bool(user.messages))


async def test_a_lost_channel_is_opened_again(homestead: Homestead) -> None:
    async def behave(socket: WebSocketConnection) -> None:
        await socket.send_message(encode_message(IntentNoted("hello.home")))
        await socket.aclose()

    context, _ = service_context(homestead, "127.0.0.1")
    async with service(context, behave) as address, linked([address], homestead) as (_, user):
        await user.until(lambda: user.losses >= 3)
    assert len(user.certificates) >= 3


@pytest.mark.parametrize("message", [b"nonsense", "text", b"\x80" * 100])
async def test_what_is_no_message_closes_the_channel(homestead: Homestead, message: bytes | str) -> None:
    async def behave(socket: WebSocketConnection) -> None:
        await socket.send_message(message)
        await socket.get_message()

    context, _ = service_context(homestead, "127.0.0.1")
    async with service(context, behave) as address, linked([address], homestead) as (_, user):
        await user.until(lambda: user.losses >= 1)
    assert not user.messages


async def _open_and_never_answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """Opens the WebSocket by hand (RFC 6455 section 1.3), and then never answers a ping."""
    head = bytes(await stream.receive_some())
    key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    await stream.send_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


@asynccontextmanager
async def silent_service(context: ssl.SSLContext) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_ssl_over_tcp, _open_and_never_answer, 0, context, host="127.0.0.1")
        )
        yield f"127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_a_silent_service_is_given_up(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    async with silent_service(context) as address, linked([address], homestead) as (link, user):
        await user.until(lambda: user.losses >= 1)
        assert "no answer" in link.why


async def test_a_doubtful_service_is_given_up_sooner(homestead: Homestead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_link, "DOUBT_S", 0.01)
    context, _ = service_context(homestead, "127.0.0.1")
    patient = Patience(retry_s=0.01, retry_limit_s=0.05, silence_s=1000.0)
    async with silent_service(context) as address, linked([address], homestead, patience=patient) as (link, user):
        await user.until(lambda: bool(user.certificates))
        link.handle_doubt()
        await user.until(lambda: user.losses >= 1)


async def test_a_service_that_never_proves_itself_is_given_up(
    homestead: Homestead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_link, "PROOF_S", 0.1)

    async def behave(socket: WebSocketConnection) -> None:
        await socket.get_message()

    context, _ = service_context(homestead, "127.0.0.1")
    async with service(context, behave) as address, linked([address], homestead) as (_, user):
        await user.until(lambda: user.losses >= 1)


async def test_a_service_that_takes_nothing_does_not_fill_the_memory(homestead: Homestead) -> None:
    async def behave(socket: WebSocketConnection) -> None:
        await socket.send_message(encode_message(IntentNoted("hello.home")))
        await trio.sleep_forever()

    context, _ = service_context(homestead, "127.0.0.1")
    async with service(context, behave) as address, linked([address], homestead) as (link, user):
        await user.until(lambda: bool(user.messages))
        for _ in range(service_link.QUEUED_MESSAGES + 2):
            link.send(StateIntent(b"x" * 16_000))
        await user.until(lambda: user.losses >= 1)
        assert link.why == "the service takes no messages"


async def test_a_channel_from_an_address_that_is_gone_is_opened_again_at_once(homestead: Homestead) -> None:
    context, _ = service_context(homestead, "127.0.0.1")
    async with service(context, _greet_and_echo) as address, linked([address], homestead) as (link, user):
        await user.until(lambda: bool(user.messages))
        link.handle_moved(["127.0.0.1"])
        await trio.testing.wait_all_tasks_blocked()
        assert user.losses == 0
        link.handle_moved(["192.0.2.1"])
        await user.until(lambda: len(user.certificates) == 2)
    assert user.losses == 2


async def test_an_address_that_cannot_be_is_tried_in_vain_and_said(homestead: Homestead) -> None:
    """The service told it at enrolment; nothing here has proven it."""
    async with linked(["a..example:443"], homestead) as (link, user):
        await user.until(lambda: user.rests > 1)
        assert "no name of a host" in link.why
