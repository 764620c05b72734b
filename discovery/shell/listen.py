"""Sockets to serve on: one a listening address, all on the same port."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress

from fabric.errors import ConfigurationError

BACKLOG = 1024
DEAD_PEER_MS = 30_000
"""What was sent and not acknowledged for this long ends a TCP connection: a vanished peer holds nothing longer."""

SEGMENT_BYTES = 1280 - 60
"""What fits every IPv6 path behind both headers. It binds the clients as well (RFC 9293 section 3.7.1), so that a
network which drops longer packets in silence does not keep them out."""

MAX_UNSENT_BYTES = 128 * 1024
"""What the kernel takes of one TCP connection beyond what is on its way; more waits where the oldest can be dropped."""

KEEPALIVE_S = 20
_TCP_USER_TIMEOUT = 18
_TCP_NOTSENT_LOWAT = 25
_MISSING = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
DRAWS = 16
"""Of a port that is to be free at several places at once, before the host is called full."""


def open_listeners(addresses: Sequence[str], port: int, kind: socket.SocketKind) -> list[socket.socket]:
    """Returns bound, non-blocking sockets; of the wildcard addresses, those that this host has a family for.

    With port 0, all get one that is drawn, and free at each. Raises `ConfigurationError`.
    """
    for _ in range(0 if port else DRAWS - 1):
        with suppress(ConfigurationError):
            return _open_all(addresses, 0, kind)
    return _open_all(addresses, port, kind)


def _open_all(addresses: Sequence[str], port: int, kind: socket.SocketKind) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            opened = _open(address, port, kind)
            if opened is not None:
                sockets.append(opened)
                port = opened.getsockname()[1]
    except OSError as error:
        close_all(sockets)
        transport = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        raise ConfigurationError(f"can't listen on {address} {transport} port {port}: {error.strerror}") from None
    except BaseException:
        close_all(sockets)
        raise
    if not sockets:
        raise ConfigurationError("there is no address to listen on")
    return sockets


def _open(address: str, port: int, kind: socket.SocketKind) -> socket.socket | None:
    is_wildcard = ipaddress.ip_address(address).is_unspecified
    try:
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    except OSError as error:
        if is_wildcard and error.errno in _MISSING:
            return None
        raise
    try:
        _prepare(opened, kind)
        opened.bind((address, port))
        if kind == socket.SOCK_STREAM:
            opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        if is_wildcard and error.errno in _MISSING:
            return None
        raise
    return opened


def _prepare(opened: socket.socket, kind: socket.SocketKind) -> None:
    opened.setblocking(False)
    if opened.family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_STREAM:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # accepted sockets inherit these
        opened.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, DEAD_PEER_MS)
        opened.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)


def close_all(sockets: Sequence[socket.socket]) -> None:
    for opened in sockets:
        opened.close()
