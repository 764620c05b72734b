"""HTTPS by Hypercorn's trio worker, behind our own door: TLS 1.3 under the newest certificate, and limits per source.

    accept -> limits -> TLS -> Hypercorn (HTTP/1.1, WebSocket) -> Starlette

Hypercorn's own `serve` can neither count connections per source nor change its certificate while it runs, so its
connection handler is given streams that were accepted here.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import cast

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.applications import Starlette

from discovery.core.limits import OpenCount, SourceBuckets
from discovery.shell.caller import Caller
from discovery.shell.state import Serving
from fabric.core.machine import Instant
from fabric.shell.log import Log
from fabric.wire.rendezvous import MAX_MESSAGE_BYTES

TLS_S = 10.0
IDLE_S = 10.0
"""A connection without a request, and the time for a request's head."""

PING_S = 25.0
QUEUED_MESSAGES = 2
"""Received and not yet taken by the application; beyond, the connection is not read."""

MAX_UNREAD_BYTES = 4 * MAX_MESSAGE_BYTES
"""Received without one whole message for the application: it is being fed what will never be one."""

_TlsStream = trio.SSLStream[trio.SocketStream]

_log = Log("discovery.server")


class Server:
    """`serving` returns the certificate that new connections are to be opened under."""

    def __init__(
        self,
        application: Starlette,
        serving: Callable[[], Serving],
        open_count: OpenCount,
        buckets: SourceBuckets,
        clock: Callable[[], Instant],
    ) -> None:
        self._application = wrap_app(application, 0, "asgi")  # type: ignore[arg-type]
        self._serving = serving
        self._open = open_count
        self._buckets = buckets
        self._clock = clock
        self._config = _hypercorn_config()
        self._context = WorkerContext(None)
        self._streams: set[trio.SocketStream] = set()
        self.counters: Counter[str] = Counter()

    async def run(self, sockets: list[socket.socket]) -> None:
        """Serves until cancelled; then every connection is closed."""
        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(opened)) for opened in sockets]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._close_when_cancelled)
            await trio.serve_listeners(self._handle_untrusted, listeners)

    async def _close_when_cancelled(self) -> None:
        """Hypercorn shields what it sends: to a peer that doesn't read, it would do so after the end."""
        try:
            await trio.sleep_forever()
        finally:
            for stream in self._streams:
                stream.socket.close()

    async def _handle_untrusted(self, stream: trio.SocketStream) -> None:
        try:
            source, port = stream.socket.getpeername()[:2]
            asked = stream.socket.getsockname()[0]
        except OSError:
            await trio.aclose_forcefully(stream)
            return
        if not self._buckets.take(source, self._clock()) or not self._open.enter(source):
            self.counters["connection_limit"] += 1
            await trio.aclose_forcefully(stream)
            return
        self._streams.add(stream)
        try:
            await self._serve(stream, source, port, asked)
        finally:
            self._open.leave(source)
            self._streams.discard(stream)
            stream.socket.close()

    async def _serve(self, stream: trio.SocketStream, source: str, port: int, asked: str) -> None:
        serving = self._serving()

        async def send(data: bytes) -> None:
            """Beside Hypercorn, which writes under the same lock, and shields it as here: half a record is no TLS."""
            async with server.send_lock:
                with trio.CancelScope(shield=True):
                    await tls.send_all(data)

        caller = Caller(source, port, asked, serving.identity, send)
        tls = trio.SSLStream(_Metered(stream, caller), serving.context, server_side=True, https_compatible=True)
        state = ConnectionState({"caller": caller})
        server = TCPServer(self._application, self._config, self._context, state, cast("_TlsStream", tls))
        try:
            await server
        except Exception as error:  # one connection's fault, ours or theirs, is not the others'
            self.counters["connection_failed"] += 1
            _log.debug("connection failed", source=source, why=repr(error))


class _Metered(trio.abc.HalfCloseableStream):
    """The TCP stream below TLS, ended where it brings bytes without end and never a message."""

    def __init__(self, stream: trio.SocketStream, caller: Caller) -> None:
        self._stream = stream
        self._caller = caller
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._caller.unread += len(data)
        if self._caller.unread > MAX_UNREAD_BYTES:
            raise trio.BrokenResourceError("too much without a message")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _hypercorn_config() -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = logging.getLogger("discovery.http")
    config.include_server_header = False
    config.ssl_handshake_timeout = TLS_S
    config.keep_alive_timeout = IDLE_S
    config.h11_max_incomplete_size = 16 * 1024
    config.h2_max_concurrent_streams = 1  # never offered by ALPN
    config.max_app_queue_size = QUEUED_MESSAGES
    config.websocket_max_message_size = MAX_MESSAGE_BYTES
    config.websocket_ping_interval = PING_S
    return config
