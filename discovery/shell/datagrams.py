"""The UDP sockets of the service, read in batches: each datagram goes to the relay or to STUN by its first byte.

    recvmsg (a run of datagrams, where the kernel has joined them) -> forward -> by receiver -> sendmsg (a run)

A host with several addresses must answer from the one that was asked, or the answer is nobody's: so each pair of
socket and own address that was asked is a *place*, and what goes to an endpoint leaves from the place it is bound at.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import trio

from discovery.core.binding import Source
from discovery.shell.relay import MAX_PLACES, RelayDriver
from discovery.shell.stun import Ancillary, ask_for_destination, from_where_it_came
from fabric.core.machine import Instant
from fabric.wire.address import Address, Transport
from fabric.wire.relay import RELAY_CONTROL_TYPE, RELAYED_TYPE

OnOther = Callable[[socket.socket, bytes, Ancillary, tuple[str, int]], None]
"""Acts on what is not the relay's: socket, payload, ancillary data, and the source as `recvmsg` tells it."""

BATCH = 64
MAX_TAKEN = 1024
"""Reads, and datagrams that came by them, before other tasks get their turn: milliseconds, and twenty of them where all
are a stranger's questions. The kernel can join 64 datagrams for one read, and a batch of those would take a tenth of
a second."""

BUFFER_BYTES = 8 << 20
"""Holds what arrives at 1 Gbit/s while the process doesn't run for 60 ms."""

MAX_RUN = 64
MAX_RUN_BYTES = 65_000
"""Datagrams of one send: what every kernel with UDP_SEGMENT takes (linux/udp.h, UDP_MAX_SEGMENTS of 4.18)."""

_READ_BYTES = 65_536
_ANCILLARY_BYTES = 128
# asm-generic/socket.h: beyond net.core.?mem_max, with CAP_NET_ADMIN
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
# linux/in.h
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0
# linux/udp.h
_UDP_SEGMENT = 103
_UDP_GRO = 104


class Datagrams:
    """`sockets` are bound and non-blocking. `counters` counts what was not sent."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        relay: RelayDriver | None,
        on_other: OnOther,
        clock: Callable[[], Instant],
    ) -> None:
        self._sockets = tuple(sockets)
        self._relay = relay
        self._on_other = on_other
        self._clock = clock
        self._places: dict[tuple[int, bytes], int] = {}
        self._ways: list[tuple[socket.socket, Ancillary]] = []
        self._joins = True
        self.counters: Counter[str] = Counter()
        for index, udp in enumerate(self._sockets):
            _prepare(udp)
            self._new_place(index, b"", [])
        if relay is not None:
            relay.send_udp = self.send

    async def run(self) -> None:
        """Serves for ever."""
        async with trio.open_nursery() as nursery:
            for index in range(len(self._sockets)):
                nursery.start_soon(self._serve, index)

    def send(self, to: Source, payload: bytes) -> None:
        self._send_run(to, [payload])

    async def _serve(self, index: int) -> None:
        udp = self._sockets[index]
        while True:
            await trio.lowlevel.wait_readable(udp)
            self._take_batch_untrusted(index, udp)

    def _take_batch_untrusted(self, index: int, udp: socket.socket) -> None:
        """Handles what waits, up to a budget."""
        now = self._clock()
        out: dict[Source, list[bytes]] = {}
        receive, places = udp.recvmsg, self._places
        reads = taken = 0
        while reads < BATCH and taken < MAX_TAKEN:
            reads += 1
            try:
                payload, ancillary, _, source = receive(_READ_BYTES, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                continue  # an ICMP error that an earlier send caused
            length, asked = _read_ancillary(ancillary)
            place = places.get((index, asked))
            if place is None:
                place = self._new_place(index, asked, ancillary)
            way = (source[0], source[1], Transport.RELAY_UDP, place)
            if not 0 < length < len(payload):
                taken += 1
                self._handle_untrusted(udp, payload, source, ancillary, way, now, out)
                continue
            taken += len(payload) // length
            for at in range(0, len(payload), length):
                self._handle_untrusted(udp, payload[at : at + length], source, ancillary, way, now, out)
        for to, payloads in out.items():
            self._send_all(to, payloads)

    def _handle_untrusted(
        self,
        udp: socket.socket,
        payload: bytes,
        source: tuple[str, int],
        ancillary: Ancillary,
        way: Source,
        now: Instant,
        out: dict[Source, list[bytes]],
    ) -> None:
        first = payload[0] if payload else 0
        relay = self._relay
        if relay is None or first not in (RELAYED_TYPE, RELAY_CONTROL_TYPE):
            self._on_other(udp, payload, ancillary, source)
        elif first == RELAYED_TYPE:
            for to, forwarded in relay.relay.forward(way, payload, now):
                out.setdefault(to, []).append(forwarded)
        elif way[1]:
            relay.handle_datagram_untrusted(Address(*way), payload)

    def _send_all(self, to: Source, payloads: list[bytes]) -> None:
        """In order; datagrams of one length that follow each other go as one, and the last of them may be shorter."""
        if to[2] is not Transport.RELAY_UDP:
            for payload in payloads:
                self._relay.post(to, payload)  # type: ignore[union-attr]
            return
        start, length, total = 0, len(payloads[0]), 0
        for at, payload in enumerate(payloads):
            size = len(payload)
            is_over = at > start and len(payloads[at - 1]) != length
            if is_over or size > length or at - start == MAX_RUN or total + size > MAX_RUN_BYTES:
                self._send_run(to, payloads[start:at])
                start, length, total = at, size, 0
            total += size
        self._send_run(to, payloads[start:])

    def _send_run(self, to: Source, run: list[bytes]) -> None:
        udp, ancillary = self._ways[to[3]]
        target = (to[0], to[1])
        if len(run) > 1 and self._joins:
            segment = (socket.IPPROTO_UDP, _UDP_SEGMENT, len(run[0]).to_bytes(2, sys.byteorder))
            try:
                udp.sendmsg((b"".join(run),), [*ancillary, segment], 0, target)
            except BlockingIOError:
                self.counters["unsent"] += len(run)
            except OSError as error:
                self._handle_join_error(error, to, run)
            return
        for payload in run:
            try:
                udp.sendmsg((payload,), ancillary, 0, target)
            except OSError:
                self.counters["unsent"] += 1

    def _handle_join_error(self, error: OSError, to: Source, run: list[bytes]) -> None:
        """A kernel without UDP_SEGMENT, a device that can't (EIO), a path that is too narrow for one: one by one."""
        if error.errno in (errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP):
            self._joins = False
        for payload in run:
            self._send_run(to, [payload])

    def _new_place(self, index: int, asked: bytes, ancillary: Ancillary) -> int:
        """Returns a number for this socket at this own address; beyond the bound, for the socket alone."""
        if len(self._ways) >= MAX_PLACES:
            return index
        self._ways.append((self._sockets[index], from_where_it_came(ancillary)))
        self._places[index, asked] = len(self._ways) - 1
        return len(self._ways) - 1


def _read_ancillary(ancillary: Ancillary) -> tuple[int, bytes]:
    """Returns the length of each of several datagrams that the kernel has joined (0: one), and the address asked."""
    length, asked = 0, b""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            length = int.from_bytes(value[:4], sys.byteorder)
        else:
            asked = value
    return length, asked


def _prepare(udp: socket.socket) -> None:
    ask_for_destination(udp)
    if udp.family == socket.AF_INET:
        # A datagram that fits one side's path may not fit the other's: a fragment arrives, where DF loses it unheard.
        udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    for forced, ordinary in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            udp.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
        except OSError:
            udp.setsockopt(socket.SOL_SOCKET, ordinary, BUFFER_BYTES)
    with suppress(OSError):  # Linux before 5.0
        udp.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
