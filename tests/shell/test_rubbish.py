"""What a relay or a service that has gone mad may answer, under a good certificate: nothing of it ends a daemon."""

from __future__ import annotations

import base64
import functools
import hashlib
import random
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from fabric.shell import relay_link
from fabric.shell.relay_link import RelayLinks, Terms
from fabric.shell.service_link import Patience, ServiceLink
from fabric.shell.tls import context_under
from fabric.wire.address import Address, Transport
from fabric.wire.rendezvous import RelayPlace, ToEndpoint
from tests.shell.homestead import Homestead, found, service_context

pytestmark = pytest.mark.slow

Answer = Callable[[bytes], bytes]
RELAY = Address("192.0.2.9", 443, Transport.RELAY_TLS)


def switched(request: bytes, more: bytes = b"") -> bytes:
    """A handshake as it should be (RFC 6455 section 4.2.2)."""
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", request)
    assert key is not None
    digest = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    return head + digest + b"\r\n" + more + b"\r\n"


def whatever(_request: bytes, answer: bytes) -> bytes:
    return answer


def behind_a_handshake(request: bytes, more: bytes) -> bytes:
    return switched(request) + more


def rubbish() -> list[Answer]:
    chance = random.Random(3)
    instead = [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 101 X\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: bad\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"HTTP/1.1 101 \xff\xff\r\n\r\n",
        *(chance.randbytes(200) + b"\r\n\r\n" for _ in range(10)),
    ]
    behind = [
        b"\x82\x85abcdabcde",
        b"\xff\xff" * 50,
        b"\x88\x01\x00",
        b"\x81\x02\xff\xfe",
        b"\x82\x7f" + b"\xff" * 8,
        b"\x80\x01a",
        *(chance.randbytes(chance.randrange(1, 300)) for _ in range(20)),
    ]
    wrong_head: Answer = functools.partial(switched, more=b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
    return [
        *(functools.partial(whatever, answer=answer) for answer in instead),
        *(functools.partial(behind_a_handshake, more=more) for more in behind),
        wrong_head,
    ]


class Mad:
    """Answers one connection after the other with the next piece of rubbish, and is gone; `done` behind the last."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._answers = rubbish()
        self.done = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                if not (part := await tls.receive_some()):
                    return
                request += part
            if not self._answers:
                self.done.set()
                return
            await tls.send_all(self._answers.pop(0)(request))
            with trio.move_on_after(0.02):
                while await tls.receive_some():
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(tls)


@asynccontextmanager
async def mad(homestead: Homestead) -> AsyncIterator[tuple[Mad, int]]:
    server = Mad(service_context(homestead, "127.0.0.1")[0])
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        yield server, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_relay_that_answers_rubbish_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_link, "RETRY_S", 0.001)
    monkeypatch.setattr(relay_link, "RETRY_LIMIT_S", 0.001)
    homestead = found(tmp_path)
    terms = Terms(context_under(homestead.authority.root_der), lambda _der, _host: None, lambda: 0.5)
    links = RelayLinks(terms, lambda _relay, _up: None, lambda _batch: None)
    async with mad(homestead) as (server, port), trio.open_nursery() as nursery:
        links.want(RelayPlace("127.0.0.1", 0, port), RELAY)
        nursery.start_soon(links.run)
        with trio.fail_after(30):
            await server.done.wait()
        nursery.cancel_scope.cancel()


class Nobody:
    def handle_connected(self, tls_certificate: bytes) -> None:
        pass

    def handle_message(self, message: ToEndpoint) -> None:
        pass

    def handle_lost(self) -> None:
        pass


async def test_a_service_that_answers_rubbish_is_tried_again_and_said(tmp_path: Path) -> None:
    homestead = found(tmp_path)
    async with mad(homestead) as (server, port), trio.open_nursery() as nursery:
        link = ServiceLink(
            [f"127.0.0.1:{port}"],
            context_under(homestead.authority.root_der),
            lambda _der, _host: None,
            Nobody(),
            Patience(0.001, 0.001, 5.0),
            lambda: 0.5,
        )
        nursery.start_soon(link.run)
        with trio.fail_after(30):
            await server.done.wait()
        assert link.why
        nursery.cancel_scope.cancel()
