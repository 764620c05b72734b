"""The UDP sockets beside the main ones: two spare ones, always there, and extra ones that come and go.

A socket of its own is a mapping of its own in a NAT: spare ones find out what the NAT does, extra ones, up to
hundreds for some seconds, guess their way through it. On a few of those a path stays, and then they have to be as good
as the main one. IPv4 only: IPv6 has no NAT to guess at.

All are watched by one epoll of their own, which is itself waited for: a task each would cost fifteen times as much to
start and to end (8 + 9 ms for 256 against 0.5 + 0.3 ms, measured), and those milliseconds would be everybody's.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fabric.core.events import FIRST_EXTRA_SOCKET
from fabric.dataplane.contract import Drop
from fabric.errors import ConfigurationError
from fabric.shell.files import is_of_reserve
from fabric.shell.offload import read_runs
from fabric.wire.address import Target, Transport
from fabric.wire.datagram import DATA_TYPE
from fabric.wire.relay import RELAYED_TYPE

SPARE_SOCKETS = (1, 2)
MAX_EXTRA_SOCKETS = 512
"""Two peers guessed at once, and half of what a process may have open by default (RLIMIT_NOFILE 1024)."""

BATCH = 64
_READY = 16
_DATA = bytes((DATA_TYPE,))
_FOR_RELAYS = bytes((RELAYED_TYPE,))
"""What begins with it or above is said to a relay's client, which is on the main socket."""


@dataclass(slots=True)
class _Side:
    udp: socket.socket
    via: int
    is_wide: bool = False


class SideSockets:
    """`make` returns a socket on a port of the kernel's choice; else None, or it raises `ConfigurationError`.

    `widen` makes a socket as fit for frames as a main one.
    """

    def __init__(
        self, make: Callable[[], socket.socket | None], widen: Callable[[socket.socket], None], drops: Counter[Drop]
    ) -> None:
        self._make = make
        self._widen = widen
        self._drops = drops
        self._epoll = select.epoll()
        self._by_via: dict[int, _Side] = {}
        self._by_fd: dict[int, _Side] = {}
        self._next_via = FIRST_EXTRA_SOCKET
        for via in SPARE_SOCKETS:
            self._add(via)

    def fileno(self) -> int:
        """Readable while any of them is."""
        return self._epoll.fileno()

    def open(self, count: int) -> tuple[int, ...]:
        """Returns the numbers of new sockets: fewer than `count` where there are too many, or the host has no more."""
        vias = []
        for _ in range(min(count, MAX_EXTRA_SOCKETS + len(SPARE_SOCKETS) - len(self._by_via))):
            if not self._add(self._next_via):
                break
            vias.append(self._next_via)
            self._next_via += 1
        return tuple(vias)

    def close(self, vias: Iterable[int]) -> None:
        """Closes extra sockets. Their numbers are never used again; the spare ones stay."""
        for via in vias:
            if via >= FIRST_EXTRA_SOCKET:
                self._remove(via)

    def close_all(self) -> None:
        for via in list(self._by_via):
            self._remove(via)
        self._epoll.close()

    def socket_of(self, via: int) -> socket.socket | None:
        side = self._by_via.get(via)
        return side.udp if side is not None else None

    def socket_for(self, datagram: bytes, via: int) -> socket.socket | None:
        """Returns the socket to send this by. The first DATA says that a path lives there."""
        side = self._by_via.get(via)
        if side is None:
            return None
        if not side.is_wide and datagram[:1] == _DATA:
            side.is_wide = True
            self._widen(side.udp)
        return side.udp

    def receive_batch(self) -> list[tuple[bytes, Target]]:
        """Returns the datagrams that wait, about `BATCH` of them, each with the number of its socket in its source."""
        batch: list[tuple[bytes, Target]] = []
        for fd, _ in self._epoll.poll(0, _READY):
            self._receive(self._by_fd[fd], batch)
            if len(batch) >= BATCH:
                break
        return batch

    def _receive(self, side: _Side, batch: list[tuple[bytes, Target]]) -> None:
        for datagrams, (ip, port) in read_runs(side.udp, BATCH - len(batch)):
            source = (ip, port, Transport.UDP, side.via)
            for datagram in datagrams:
                if datagram < _FOR_RELAYS:
                    batch.append((datagram, source))
                else:
                    self._drops[Drop.MALFORMED] += 1

    def _add(self, via: int) -> bool:
        try:
            udp = self._make()
        except ConfigurationError:
            return False
        if udp is None:
            return False
        if is_of_reserve(udp.fileno()) and via not in SPARE_SOCKETS:
            udp.close()
            return False
        side = _Side(udp, via)
        self._by_via[via] = self._by_fd[udp.fileno()] = side
        self._epoll.register(udp, select.EPOLLIN)
        return True

    def _remove(self, via: int) -> None:
        side = self._by_via.pop(via, None)
        if side is not None:
            del self._by_fd[side.udp.fileno()]
            self._epoll.unregister(side.udp)
            side.udp.close()
