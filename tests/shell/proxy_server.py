"""A small HTTP proxy that knows CONNECT, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import h11
import trio


@dataclass
class ConnectProxy:
    """`names` are hosts that only the proxy can resolve; `answer` is what it says instead of opening a tunnel."""

    names: dict[str, str] = field(default_factory=dict)
    authorization: str | None = None
    answer: bytes | None = None
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        while (event := http.next_event()) is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some()))
        assert isinstance(event, h11.Request)
        target = event.target.decode()
        self.asked.append(target)
        headers = {name: value.decode() for name, value in event.headers}
        assert (event.method, headers[b"host"]) == (b"CONNECT", target)
        if self.answer is not None:
            await stream.send_all(self.answer)
        elif self.authorization is not None and headers.get(b"proxy-authorization") != self.authorization:
            await stream.send_all(b"HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic\r\nContent-Length: 4\r\n\r\nWho?")
        else:
            await self._tunnel(stream, target)

    async def _tunnel(self, stream: trio.SocketStream, target: str) -> None:
        host, _, port = target.rpartition(":")
        host = host.strip("[]")
        inner = await trio.open_tcp_stream(self.names.get(host, host), int(port))
        await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with inner, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, stream, inner)
            await _copy(inner, stream)
            nursery.cancel_scope.cancel()


async def _copy(source: trio.SocketStream, to: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await to.send_all(data)
        await to.send_eof()


@asynccontextmanager
async def serve_proxy(proxy: ConnectProxy) -> AsyncIterator[ConnectProxy]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, proxy.serve, 0, host="127.0.0.1"))
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel()
