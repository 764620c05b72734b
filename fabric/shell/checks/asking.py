"""Asking one question over UDP, from a socket of the doctor's own, until somebody answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.stun import TRANSACTION_ID_BYTES, binding_request, decode_binding_success

PAUSES_S = (0.25, 0.5, 1.0, 1.0)
"""Retransmissions as RFC 8489 section 6.2.1 has them, cut to what a person waits for."""
MAX_SERVERS = 8
_READ_BYTES = 2048

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """`server` saw the socket at `address`."""

    server: Address
    address: Address
    rtt_s: float


@contextmanager
def udp_socket(family: int) -> Iterator[trio.socket.SocketType]:
    """Yields a socket on a port of the kernel's choice. Raises `OSError` where the host lacks the family."""
    with trio.socket.socket(family, socket.SOCK_DGRAM) as udp:
        yield udp


def of_family(servers: Iterable[Address], family: int) -> list[Address]:
    return [server for server in servers if server.is_ipv6 == (family == socket.AF_INET6)]


async def ask_stun(udp: trio.socket.SocketType, servers: Sequence[Address]) -> Seen | None:
    """Returns what the first server to answer has seen, None where none did."""
    transaction = os.urandom(TRANSACTION_ID_BYTES)

    def read(payload: bytes, _server: Address) -> Address | None:
        success = decode_binding_success(payload)
        return success.address if success.transaction_id == transaction else None

    answered = await ask(udp, servers, binding_request(transaction), read)
    if answered is None:
        return None
    server, address, rtt_s = answered
    return Seen(server, address, rtt_s)


async def ask(
    udp: trio.socket.SocketType,
    servers: Sequence[Address],
    question: bytes,
    read: Callable[[bytes, Address], T | None],
) -> tuple[Address, T, float] | None:
    """Returns who answered first, what `read` made of it, and the seconds since the first question.

    `read` returns None or raises `DecodeError` for what is no answer. Retransmissions make the time too long rather
    than too short.
    """
    asked = servers[:MAX_SERVERS]
    started = trio.current_time()
    for pause_s in PAUSES_S:
        for server in asked:
            await send(udp, question, server)
        with trio.move_on_after(pause_s):
            while True:
                payload, source = await _receive(udp)
                if source not in asked:
                    continue
                try:
                    answer = read(payload, source)
                except DecodeError:
                    continue
                if answer is not None:
                    return source, answer, trio.current_time() - started
    return None


async def send(udp: trio.socket.SocketType, payload: bytes, to: Address) -> None:
    """What can't be sent is lost, as any datagram may be."""
    try:
        await udp.sendto(payload, (to.ip, to.port))
    except OSError:
        return


async def _receive(udp: trio.socket.SocketType) -> tuple[bytes, Address]:
    while True:
        try:
            payload, source = await udp.recvfrom(_READ_BYTES)
        except OSError:  # what ICMP said of an earlier send
            continue
        return payload, Address(str(source[0]).partition("%")[0], int(source[1]))
