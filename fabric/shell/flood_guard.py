"""Keeps strangers' floods out of the main sockets: the kernel drops them unread, for a fraction of what reading costs.

    lane: datagrams that open nothing --\\
    kernel: datagrams dropped unread ----> Pressure --share--> SO_ATTACH_FILTER on the main sockets
                                    addresses written to, indices of sessions and gates --^

In peace there is no filter, and nothing to keep up to date.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Protocol

from fabric.core.machine import Instant
from fabric.dataplane.contract import Drop
from fabric.dataplane.pressure import Pressure
from fabric.dataplane.socket_filter import INSTRUCTION, MAX_KEYS, Welcome, filter_program
from fabric.shell.log import Log
from fabric.wire.address import Target, Transport

FEW_KEYS = 400
"""What fits where the kernel gives a socket 20 KiB for such things (net.core.optmem_max before Linux 6.7)."""

SPAN_S = 90.0
"""Who was written to is known for as long at least, and for twice that at most: a NAT forgets sooner."""

MAX_ADDRESSED = 4096
REFRESH_S = 0.1

# asm-generic/socket.h
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_PROGRAM = struct.Struct("@HP")
"""linux/filter.h, struct sock_fprog: how many instructions, and where."""

_log = Log("fabric.flood")


class Addressed:
    """To whom the main sockets have written of late, in two generations."""

    def __init__(self) -> None:
        self.recent: set[tuple[str, int]] = set()
        """For looks from where every nanosecond counts: who is in it need not be noted again."""
        self.count = 0
        """How many have been noted so far: whether there is news."""
        self._older: set[tuple[str, int]] = set()
        self._relays: set[tuple[str, int]] = set()
        self._born: Instant = 0.0

    def note(self, ip: str, port: int, *, is_relay: bool = False) -> None:
        if len(self.recent) >= MAX_ADDRESSED:
            self._turn()
        self.recent.add((ip, port))
        self.count += 1
        if is_relay:
            self._relays.add((ip, port))

    def age(self, now: Instant) -> None:
        if now - self._born > SPAN_S:
            self._born = now
            self._turn()

    def all(self) -> list[tuple[str, int]]:
        """Those first that are written to again and again: guesses at a port are many, and each is made once."""
        steady = self._relays | (self.recent & self._older)
        return [*steady, *(self.recent - steady), *(self._older - self.recent - steady)]

    def _turn(self) -> None:
        self._relays &= self.recent | self._older
        self.recent, self._older = set(), self.recent


class WatchedLane(Protocol):
    """What a guard asks of a lane; `dataplane.reference` says what it is."""

    @property
    def unopened(self) -> int: ...

    @property
    def indices(self) -> Collection[int]: ...

    def destinations(self) -> Sequence[Target]: ...

    def count_drop(self, reason: Drop, count: int) -> None: ...


class WatchedSockets(Protocol):
    """What it asks of the UDP sockets; see `udp`. `sockets` are the main ones."""

    sockets: tuple[socket.socket, ...]
    addressed: Addressed
    unopened: int


class FloodGuard:
    """`gates` returns the indices of those that are open."""

    def __init__(self, lane: WatchedLane, udp: WatchedSockets, gates: Callable[[], Collection[int]]) -> None:
        self._lane = lane
        self._udp = udp
        self._addressed = udp.addressed
        self._gates = gates
        self._pressure = Pressure()
        self._mix = int.from_bytes(os.urandom(4)) | 1
        self._attached: Welcome | None = None
        self._attached_at: Instant = 0.0
        self._is_able = True
        self._heard_of: tuple[int, int, int] | None = None
        self._seen = dict.fromkeys(udp.sockets, 0)
        self._refused = 0
        self._refused_before = 0
        self._count_refused()

    @property
    def is_behind(self) -> bool:
        """Whether there is somebody new who would not be heard."""
        return self._attached is not None and self._heard_of != self._news()

    def look(self, now: Instant) -> None:
        """To be called whenever something was counted, while it `is_behind`, and once a second."""
        self._addressed.age(now)
        self._count_refused()
        was_open = not self._pressure.share
        self._pressure.handle_counts(self._lane.unopened + self._udp.unopened, self._refused, now)
        share = self._pressure.share
        if not share:
            self._detach()
        else:
            self._refresh(share, now)
        if was_open and share:
            self._refused_before = self._refused
            what = "dropped unread" if self._is_able else "read all the same: the kernel takes no filter"
            _log.warning(f"a flood: what strangers send is {what}", a_second=round(self._pressure.rate))
        elif share == 0 and not was_open:
            _log.info("the flood is over", dropped_unread=self._refused - self._refused_before)

    def _news(self) -> tuple[int, int, int]:
        return self._addressed.count, len(self._lane.indices), len(self._gates())

    def _count_refused(self) -> None:
        refused = 0
        for udp, seen in self._seen.items():
            dropped = _dropped(udp, seen)
            refused += (dropped - seen) % 2**32
            self._seen[udp] = dropped
        self._refused += refused
        if refused:
            self._lane.count_drop(Drop.UNREAD, refused)

    def _refresh(self, share: int, now: Instant) -> None:
        """A program is made anew ten times a second at most: it takes some milliseconds where there are many peers."""
        is_soon = now - self._attached_at < REFRESH_S
        if self._attached is not None and self._attached.share == share and is_soon:
            return
        for ip, port, *by in self._lane.destinations():
            is_relay = by[:1] == [Transport.RELAY_UDP]
            if (is_relay or not by) and (ip, port) not in self._addressed.recent:
                self._addressed.note(ip, port, is_relay=is_relay)
        self._heard_of = self._news()
        sources = tuple(self._addressed.all())
        wanted = Welcome(sources, frozenset(self._lane.indices), frozenset(self._gates()), share)
        if wanted != self._attached:
            self._attached, self._attached_at = wanted, now
            taken = [self._attach(udp, wanted) for udp in self._seen]
            self._is_able = all(taken)

    def _detach(self) -> None:
        if self._attached is not None:
            self._attached = None
            for udp in self._seen:
                _detach(udp)

    def _attach(self, udp: socket.socket, welcome: Welcome) -> bool:
        """Returns whether the kernel took it. Where there is no room for all, those who are written to all the time
        come first."""
        version = 6 if udp.family == socket.AF_INET6 else 4
        for most in (MAX_KEYS, FEW_KEYS):
            program = filter_program(welcome, version, self._mix, most)
            try:
                _attach(udp, program)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    break
                _detach(udp)  # there is room for one at a time, perhaps
            else:
                return True
        return False


def _attach(udp: socket.socket, program: bytes) -> None:
    """Raises `OSError`."""
    held = ctypes.create_string_buffer(program, len(program))
    count = len(program) // INSTRUCTION.size
    udp.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(count, ctypes.addressof(held)))


def _detach(udp: socket.socket) -> None:
    with suppress(OSError):  # ENOENT: there was none
        udp.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _dropped(udp: socket.socket, otherwise: int) -> int:
    """Returns how many datagrams a socket has dropped unread so far, by its filter or because there was no room: a u32
    that wraps. A run that was joined on its way in counts as one."""
    try:
        return int(_MEMINFO.unpack(udp.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[8])
    except OSError:  # closed, or before Linux 4.12
        return otherwise
