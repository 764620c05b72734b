"""The two UDP sockets of an endpoint, IPv4 and IPv6 on one port, read and written in batches.

Nothing that the network does may end a socket: errors that ICMP or a full queue leave behind are counted.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Sequence

import trio

from fabric.dataplane.contract import Drop
from fabric.errors import ConfigurationError

Target = tuple[str, int]

BATCH = 64
BUFFER_BYTES = 8 << 20
"""Holds what arrives at 1 Gbit/s while the process doesn't run for 60 ms."""

_PORT_TRIES = 64
_READ_BYTES = 16_384
"""Longer datagrams than any path carries unfragmented are nobody's; cut, they fail to open."""

# asm-generic/socket.h: beyond net.core.?mem_max, with CAP_NET_ADMIN
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
# linux/in.h
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0


class UdpSockets:
    """`ipv6` is None on a host without IPv6. `drops` counts what was not sent, until the caller takes it."""

    def __init__(self, ipv4: socket.socket | None, ipv6: socket.socket | None) -> None:
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.sockets = tuple(s for s in (ipv4, ipv6) if s is not None)
        self.port: int = self.sockets[0].getsockname()[1]
        self.drops: Counter[Drop] = Counter()

    def receive_batch(self, udp: socket.socket) -> list[tuple[bytes, Target]]:
        """Returns the datagrams that wait on one of the sockets, at most `BATCH`, with their sources."""
        batch: list[tuple[bytes, Target]] = []
        receive = udp.recvfrom
        is_ipv6 = udp is self.ipv6
        for _ in range(BATCH):
            try:
                datagram, source = receive(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                _raise_if_closed(error)  # else it belongs to an earlier send; the next read goes on
                continue
            batch.append((datagram, source[:2] if is_ipv6 else source))
        return batch

    def send_batch(self, batch: Sequence[tuple[bytes, Target]], start: int = 0) -> int:
        """Sends from `start` on; returns how far it came: less than `len(batch)` where a socket's queue is full."""
        ipv4, ipv6 = self.ipv4, self.ipv6
        for at in range(start, len(batch)):
            datagram, target = batch[at]
            udp = ipv6 if ":" in target[0] else ipv4
            if udp is None:
                self.drops[Drop.NO_PATH] += 1
                continue
            try:
                udp.sendto(datagram, target)
            except BlockingIOError:
                return at
            except OSError as error:
                self._handle_send_error(error, udp, datagram, target)
        return len(batch)

    async def wait_writable(self, target: Target) -> None:
        """Returns once the queue of the socket that serves `target` has room."""
        udp = self.ipv6 if ":" in target[0] else self.ipv4
        if udp is not None:
            await trio.lowlevel.wait_writable(udp)

    def close(self) -> None:
        for udp in self.sockets:
            udp.close()

    def _handle_send_error(self, error: OSError, udp: socket.socket, datagram: bytes, target: Target) -> None:
        """An ICMP error is told at the next send, which then has to be done again; all else is this datagram's end."""
        _raise_if_closed(error)
        if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EPROTO):
            try:
                udp.sendto(datagram, target)
            except OSError as second:
                self.drops[_reason(second)] += 1
        else:
            self.drops[_reason(error)] += 1


def open_udp_sockets(port: int = 0) -> UdpSockets:
    """Returns sockets on `port`, or on one free for both families where it is 0. Raises `ConfigurationError`."""
    for _ in range(_PORT_TRIES):
        ipv6 = _bind(socket.AF_INET6, port) if socket.has_ipv6 else None
        chosen = ipv6.getsockname()[1] if ipv6 is not None else port
        try:
            ipv4 = _bind(socket.AF_INET, chosen)
        except ConfigurationError:
            if ipv6 is not None:
                ipv6.close()
            if port:
                raise
            continue
        if ipv4 is not None or ipv6 is not None:
            return UdpSockets(ipv4, ipv6)
        break
    raise ConfigurationError("no UDP port is free for both IPv4 and IPv6")


def _bind(family: socket.AddressFamily, port: int) -> socket.socket | None:
    """Returns None where the host lacks the family; raises `ConfigurationError` where the port is taken."""
    try:
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        else:
            # Data fits a path of 1500 bytes. On a shorter one a fragment arrives, where DF would lose it without a
            # word: ICMP is often filtered. IPv6 keeps the kernel's discovery, which cuts at the sender.
            udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        _widen(udp, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
        _widen(udp, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
        udp.bind(("", port))
    except OSError as error:
        udp.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise ConfigurationError(f"UDP port {port} can't be had: {error.strerror}") from error
    return udp


def _widen(udp: socket.socket, forced: int, ordinary: int) -> None:
    try:
        udp.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
    except OSError:
        udp.setsockopt(socket.SOL_SOCKET, ordinary, BUFFER_BYTES)


def _reason(error: OSError) -> Drop:
    match error.errno:
        case errno.EAGAIN | errno.ENOBUFS | errno.ENOMEM:
            return Drop.BACKPRESSURE
        case errno.EMSGSIZE:
            return Drop.OVERSIZE
        case _:
            return Drop.NO_PATH


def _raise_if_closed(error: OSError) -> None:
    if error.errno in (errno.EBADF, errno.ENOTSOCK):
        raise error
