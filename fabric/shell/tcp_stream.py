"""TCP sockets that all share one local port: listener, connections from it, and simultaneous opens (RFC 9293 3.5)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from fabric.wire.address import Address

BACKLOG = 64
NOTSENT_BYTES = 64 << 10
"""Unsent bytes in the kernel, beyond which a socket is not writable: what waits there can't be dropped any more."""

SEGMENT_BYTES = 1280 - 60
"""What fits every IPv6 path behind both headers: a network that drops longer packets and says nothing would let a
connection stand and carry nothing. Told to the other end as well (RFC 9293 section 3.7.1)."""

USER_TIMEOUT_MS = 10_000
"""Unacknowledged for so long, a connection is dead: core has moved on before."""

# linux/tcp.h, asm-generic/ioctls.h (TIOCOUTQ)
_TCP_USER_TIMEOUT = 18
_TCP_NOTSENT_LOWAT = 25
_SIOCOUTQ = 0x5411

_RESET_AT_CLOSE = struct.pack("@ii", 1, 0)


class OpeningError(Exception):
    """A connection was not opened: `why` in words.

    `is_final` where trying again can't help; `took_time` where all the patience there was went into it.
    """

    def __init__(self, why: str, *, is_final: bool = False, took_time: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.is_final = is_final
        self.took_time = took_time


def open_listeners(port: int) -> list[socket.socket]:
    """Returns one for each family that the host has. Raises `OSError` where another program has the port."""
    listeners: list[socket.socket] = []
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                listener = _bound(family, port)
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue
                raise
            listeners.append(listener)
            listener.listen(BACKLOG)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def open_stream(port: int, to: Address, patience_s: float) -> socket.socket:
    """Returns a connection from the local `port`, whoever of the two began it. Raises `OpeningError`."""
    try:
        stream = _bound(socket.AF_INET6 if to.is_ipv6 else socket.AF_INET, port)
    except OSError as error:
        raise OpeningError(_words(error), is_final=True) from None
    try:
        with _explained():
            await _connect(stream, to, patience_s)
            prepare_stream(stream)
    except BaseException:
        close_at_once(stream)
        raise
    return stream


def prepare_stream(stream: socket.socket) -> None:
    """For datagrams: nothing waits for more, little waits at all, and a dead connection ends."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_BYTES)
    stream.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


def close_at_once(stream: socket.socket) -> None:
    """By a reset: one that ends politely would keep this pair of ports from use for a minute (TIME-WAIT)."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    stream.close()


def unacknowledged_bytes(stream: socket.socket) -> int:
    """Returns how much of what was written the other end has not confirmed yet."""
    return int(struct.unpack("@i", fcntl.ioctl(stream, _SIOCOUTQ, bytes(4)))[0])


def _bound(family: socket.AddressFamily, port: int) -> socket.socket:
    stream = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            stream.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        stream.bind(("", port))
    except BaseException:
        stream.close()
        raise
    return stream


async def _connect(stream: socket.socket, to: Address, patience_s: float) -> None:
    code = stream.connect_ex((to.ip, to.port))
    if code == errno.EINPROGRESS:
        with trio.move_on_after(patience_s) as patience:
            await trio.lowlevel.wait_writable(stream)
        if patience.cancelled_caught:
            raise OpeningError("no answer", took_time=True)
        code = stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    if stream.getsockname()[:2] == stream.getpeername()[:2]:  # a SYN that met itself
        raise OpeningError("that is this very socket", is_final=True)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        is_final = error.errno in (errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EAFNOSUPPORT)
        raise OpeningError(_words(error), is_final=is_final) from None


def _words(error: OSError) -> str:
    return "refused" if error.errno == errno.ECONNREFUSED else (error.strerror or str(error)).lower()
