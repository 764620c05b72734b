"""STUN over TCP (RFC 8489 section 6.2.2): from which address is a TCP connection of mine seen?

Clients keep the connection open and ask again, so that their mapping lives; one that is silent for a minute is closed.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from discovery.core.limits import OpenCount, SourceBuckets
from fabric.core.machine import Instant
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.stun import ServerPlace, answer_binding_5780, message_bytes

IDLE_S = 60.0
"""Between two whole requests; also for one to arrive, and for an answer to leave."""

PER_SOURCE = 64
OVERALL = 4096
"""Connections, 2 kB or so each: the endpoints behind one carrier's address, and a quarter of those of one service."""

_HEAD_BYTES = 4


class StunTcpServer:
    """Answers on the accepted connections of its listeners. `counters` counts which were ended, by reason."""

    def __init__(self, buckets: SourceBuckets, clock: Callable[[], Instant], idle_s: float = IDLE_S) -> None:
        self._buckets = buckets
        self._clock = clock
        self._idle_s = idle_s
        self._open = OpenCount(per_source=PER_SOURCE, overall=OVERALL)
        self.counters: Counter[str] = Counter()

    async def run(self, sockets: Sequence[socket.socket], alternates: Sequence[socket.socket] = ()) -> None:
        """Serves until cancelled. `alternates` listen on the other port, which answers tell of."""
        ports = [group[0].getsockname()[1] for group in (sockets, alternates) if group]
        others = dict(zip(ports, reversed(ports), strict=True)) if len(ports) == 2 else {}

        async def serve(stream: trio.SocketStream) -> None:
            await self._handle_untrusted(stream, others)

        listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(each)) for each in (*sockets, *alternates)]
        await trio.serve_listeners(serve, listeners)

    async def _handle_untrusted(self, stream: trio.SocketStream, others: dict[int, int]) -> None:
        async with stream:
            try:
                source, own = _peer_of(stream.socket.getpeername()), _peer_of(stream.socket.getsockname())
            except OSError:
                return
            if not self._open.enter(source.ip):
                self.counters["connection_limit"] += 1
                return
            try:
                place = ServerPlace(own, other_port=others.get(own.port, 0), is_stream=True)
                await self._answer_all(stream, source, place)
            except DecodeError:
                self.counters["no_request"] += 1
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.counters["broken"] += 1
            finally:
                self._open.leave(source.ip)

    async def _answer_all(self, stream: trio.SocketStream, source: Address, place: ServerPlace) -> None:
        unread = b""
        while True:
            with trio.move_on_after(self._idle_s) as idle:
                while (message := _whole_message(unread)) is None:
                    received = await stream.receive_some(1024)
                    if not received:
                        return
                    unread += received
                unread = unread[len(message) :]
                if not self._buckets.take(source.ip, self._clock()):
                    self.counters["limited"] += 1
                    return
                answer = answer_binding_5780(message, source, place)
                if answer is None:
                    raise DecodeError("no Binding request")
                await stream.send_all(answer.payload)
            if idle.cancelled_caught:
                self.counters["idle"] += 1
                return


def _whole_message(unread: bytes) -> bytes | None:
    """Returns the first message, None where more of it is to come. Raises `DecodeError` where none ever will."""
    if len(unread) < _HEAD_BYTES:
        return None
    length = message_bytes(unread[:_HEAD_BYTES])
    return unread[:length] if len(unread) >= length else None


def _peer_of(name: tuple[str, int]) -> Address:
    return Address(name[0].partition("%")[0], name[1])
