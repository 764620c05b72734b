"""The own address as TCP servers see it: STUN (RFC 8489) over connections from the port that peers are to connect to.

each server:  connect --> ask --answer--> ask again every ASK_INTERVAL_S, which keeps the NAT's mapping
                 ^  no answer, or the connection ended: what it said no longer holds
                 +---- RETRY_S, twice as long each time, RETRY_LIMIT_S at most
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

import trio

from fabric.errors import DecodeError
from fabric.shell.tcp_stream import OpeningError, close_at_once, open_stream
from fabric.wire.address import Address, Transport
from fabric.wire.stun import TRANSACTION_ID_BYTES, binding_request, decode_binding_success, message_bytes

ASK_INTERVAL_S = 20.0
ANSWER_S = 5.0
OPENING_S = 3.0
"""Room for one more SYN, a second after the first."""

RETRY_S = 5.0
RETRY_LIMIT_S = 60.0
_HEAD_BYTES = 4


class TcpReflexive:
    """`handle` is given all that holds now, in the order of the servers, whenever that changes."""

    def __init__(self, port: int, handle: Callable[[Sequence[Address]], None]) -> None:
        self._port = port
        self._handle = handle
        self._found: dict[Address, Address] = {}
        self._told: list[Address] = []

    async def run(self, servers: Sequence[Address]) -> None:
        """Asks `servers` until cancelled. What was found before no longer holds, for no connection has kept it."""
        self._found = {}
        self._tell(())
        async with trio.open_nursery() as nursery:
            for server in dict.fromkeys(servers):
                nursery.start_soon(self._keep, server, tuple(servers))

    async def _keep(self, server: Address, order: Sequence[Address]) -> None:
        retry_s = RETRY_S
        while True:
            try:
                stream = await open_stream(self._port, server, OPENING_S)
            except OpeningError:
                stream = None
            if stream is not None:
                try:
                    retry_s = await self._ask(stream, server, order, retry_s)
                finally:
                    close_at_once(stream)
                self._note(server, None, order)
            await trio.sleep(retry_s)
            retry_s = min(2 * retry_s, RETRY_LIMIT_S)

    async def _ask(self, stream: socket.socket, server: Address, order: Sequence[Address], retry_s: float) -> float:
        """Asks until there is no answer. Returns how long to wait then: not so long where there was one before."""
        while True:
            try:
                with trio.fail_after(ANSWER_S):
                    seen = await _ask_once(stream)
            except (OSError, DecodeError, trio.TooSlowError):
                return retry_s
            retry_s = RETRY_S
            self._note(server, seen, order)
            with trio.move_on_after(ASK_INTERVAL_S):
                await trio.lowlevel.wait_readable(stream)  # nothing is due: it has ended, or talks out of turn
                return retry_s

    def _note(self, server: Address, seen: Address | None, order: Sequence[Address]) -> None:
        if seen is None:
            self._found.pop(server, None)
        else:
            self._found[server] = seen
        self._tell(order)

    def _tell(self, order: Sequence[Address]) -> None:
        found = list(dict.fromkeys(self._found[each] for each in order if each in self._found))
        if found != self._told:
            self._told = found
            self._handle(found)


async def _ask_once(stream: socket.socket) -> Address:
    """Raises `OSError`, and `DecodeError` for anything but an answer to what was asked."""
    transaction_id = os.urandom(TRANSACTION_ID_BYTES)
    stream.sendall(binding_request(transaction_id))
    head = await _receive(stream, _HEAD_BYTES)
    answer = decode_binding_success(head + await _receive(stream, message_bytes(head) - _HEAD_BYTES))
    if answer.transaction_id != transaction_id:
        raise DecodeError("an answer to something else")
    return Address(answer.address.ip, answer.address.port, Transport.TCP)


async def _receive(stream: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        await trio.lowlevel.wait_readable(stream)
        part = stream.recv(count - len(received))
        if not part:
            raise ConnectionResetError
        received += part
    return received
