"""What stands around an endpoint for the doctor's tests: servers on the loopback, and a NAT of a few lines."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import trio

from fabric.wire.address import Address
from fabric.wire.stun import answer_binding

Answer = Callable[[bytes, Address], bytes | None]


@asynccontextmanager
async def udp_server(answer: Answer) -> AsyncIterator[Address]:
    """Answers datagrams on the loopback; yields where."""
    async with trio.open_nursery() as nursery:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            await udp.bind(("127.0.0.1", 0))

            async def serve() -> None:
                while True:
                    payload, source = await udp.recvfrom(2048)
                    if (said := answer(payload, Address(*source))) is not None:
                        await udp.sendto(said, source)

            nursery.start_soon(serve)
            yield Address(*udp.getsockname())
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def stun_behind_nat(*, hairpin: bool) -> AsyncIterator[Address]:
    """A STUN server as hosts behind one NAT see it: each is told a port of its own, on 127.0.0.2.

    With `hairpin`, what arrives there is passed in, from the outside port of whoever sent it.
    """
    async with trio.open_nursery() as nursery:
        outside: dict[Address, trio.socket.SocketType] = {}

        async def forward(udp: trio.socket.SocketType, inside: Address) -> None:
            while True:
                payload, source = await udp.recvfrom(2048)
                if hairpin and (sender := outside.get(Address(*source))) is not None:
                    await sender.sendto(payload, (inside.ip, inside.port))

        def map_out(source: Address) -> Address:
            if source not in outside:
                udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                udp.bind(("127.0.0.2", 0))
                outside[source] = trio.socket.from_stdlib_socket(udp)
                nursery.start_soon(forward, outside[source], source)
            return Address(*outside[source].getsockname())

        async with udp_server(lambda payload, source: answer_binding(payload, map_out(source))) as server:
            yield server
        nursery.cancel_scope.cancel()
    for udp in outside.values():
        udp.close()


@asynccontextmanager
async def tls_server(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Takes TCP connections on the loopback, and shakes hands where there is a context; yields the port."""

    async def serve(stream: trio.SocketStream) -> None:
        if context is None:
            await stream.receive_some()
            return
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError):
            await tls.do_handshake()
            await tls.receive_some()
        await trio.aclose_forcefully(tls)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def http_proxy(leads_to: int | None) -> AsyncIterator[int]:
    """A proxy whose every tunnel ends at the port `leads_to` of the loopback, or that refuses them; yields its port."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += bytes(await stream.receive_some())
            if leads_to is None:
                await stream.send_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                return
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            async with await trio.open_tcp_stream("127.0.0.1", leads_to) as host, trio.open_nursery() as nursery:
                nursery.start_soon(_carry, stream, host)
                nursery.start_soon(_carry, host, stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _carry(source: trio.SocketStream, to: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await to.send_all(data)
        await to.send_eof()


def closed_port() -> int:
    """Returns a port of the loopback where nobody listens."""
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return int(tcp.getsockname()[1])
