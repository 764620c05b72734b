"""TCP connections to peers, all from one port, which is also listened on: the number of the UDP sockets' port.

    listen    connections come in, and the own address as TCP servers see it is found out
    connect   SYN after SYN for CONNECT_S, while the peer does the same: whichever gets through both NATs first

One port for all is what opens NATs: the mapping that a STUN server saw is the one that the peer's SYN comes in by, and
two SYNs that cross make one connection. So a peer that is being connected to may turn up at the listener instead; to
core that is the same connection.
"""

from __future__ import annotations

import ipaddress
import itertools
import random
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from fabric.core.machine import Instant
from fabric.dataplane.contract import Drop
from fabric.shell import clock
from fabric.shell.files import EXHAUSTED, is_of_reserve
from fabric.shell.framing import MAX_FRAMED_BYTES
from fabric.shell.log import Log
from fabric.shell.tcp_link import Receive, TcpLink
from fabric.shell.tcp_reflexive import TcpReflexive
from fabric.shell.tcp_stream import OpeningError, close_at_once, open_listeners, open_stream, prepare_stream
from fabric.wire.address import Address, Target, Transport

CONNECT_S = 8.0
ATTEMPTS_S = (0.25, 0.45, 0.95)
"""The kernel would send the next SYN after 1 s, the one after after 3 s. The first dies at the other end's filter often
enough, so it is tried anew sooner, though not before the answer of a distant peer; then the kernel's pace is kept."""

PAUSE_S = (0.15, 0.25)
"""After a refusal: the peer's NAT, or the peer, was not ready. Drawn, so that two ends don't stay out of step."""

MAX_UNVOUCHED = 64
MAX_UNVOUCHED_PER_SOURCE = 8
"""A source is an IPv4 address or an IPv6 /64, what one customer has."""

MAX_LINKS = 256
"""With the extra UDP sockets below what a process may have open; no host keeps so many peers by TCP."""

LISTEN_AGAIN_S = 5.0
"""Where another program has the port."""

_READ_BYTES = 256 << 10
_ACCEPTED_AT_ONCE = 16
_RECOVERY_S = 1.0

_log = Log("fabric.tcp")
_uniform = random.SystemRandom().uniform


class LinkUser(Protocol):
    """Who hears of connections. A link's address has its number in `via`; no number is ever used again."""

    def handle_link(self, link: Address, asked: Address | None) -> None:
        """It stands; `asked` is what `connect` was called with, None for one that was accepted."""

    def handle_link_lost(self, link: Address, why: str) -> None: ...

    def handle_connect_failed(self, to: Address, why: str) -> None: ...

    def handle_listening(self, *, up: bool) -> None:
        """Whether connections are taken, after `listen`: False as well where another program has the port."""

    def handle_tcp_reflexive(self, addresses: Sequence[Address]) -> None: ...


class TcpLinks:
    """To be steered while it runs. `refused` counts connections of strangers for which there was no room."""

    def __init__(self, port: int, drops: Counter[Drop], now: Callable[[], Instant] = clock.now) -> None:
        self._port = port
        self._drops = drops
        self._now = now
        self._user: LinkUser | None = None
        self._receive: Receive = lambda _batch: None
        self._nursery: trio.Nursery | None = None
        self._links: dict[int, TcpLink] = {}
        self._next_via = 1
        self._attempts: dict[tuple[str, int], tuple[Address, trio.CancelScope]] = {}
        self._listening: trio.CancelScope | None = None
        self._servers: tuple[Address, ...] = ()
        self._servers_changed = trio.Event()
        self._buffer = bytearray(_READ_BYTES)
        self._unflushed: list[TcpLink] = []
        self.refused = 0

    def attach(self, user: LinkUser, receive: Receive) -> None:
        """`receive` is given the datagrams, in batches."""
        self._user = user
        self._receive = receive

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # what core wants

    def listen(self, *, wanted: bool) -> None:
        """Off, the port is closed; connections that stand stay."""
        if wanted == (self._listening is not None) or self._nursery is None:
            return
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
            return
        self._listening = trio.CancelScope()
        self._nursery.start_soon(self._listen, self._listening)

    def connect(self, to: Address) -> None:
        """Answered by `handle_link` or `handle_connect_failed`, not before this returns."""
        if self._nursery is None or (to.ip, to.port) in self._attempts:
            return
        link = self._link_to(to)
        if link is not None:  # the peer was faster
            link.vouch()
            self._nursery.start_soon(self._tell_later, link, to)
            return
        scope = trio.CancelScope()
        self._attempts[to.ip, to.port] = to, scope
        self._nursery.start_soon(self._open, to, scope)

    def vouch(self, link: Address) -> None:
        """Something authentic came by it: it stays, and may be written to."""
        known = self._links.get(link.via)
        if known is not None:
            known.vouch()

    def close(self, link: Address) -> None:
        """Ends it; nothing is told."""
        known = self._links.get(link.via)
        if known is not None:
            known.close()

    def handle_stun_servers(self, servers: Sequence[Address]) -> None:
        """The servers that are asked while it listens: the addresses of those for UDP."""
        wanted = tuple(Address(server.ip, server.port, Transport.TCP) for server in servers)
        if wanted != self._servers:
            self._servers = wanted
            self._servers_changed.set()

    # datagrams

    def send(self, datagram: bytes, target: Target) -> None:
        """Takes a datagram for the next `flush`. Never waits: what finds no room is counted."""
        link = self._links.get(target[3]) if len(target) == 4 else None
        if not 0 < len(datagram) <= MAX_FRAMED_BYTES:
            self._drops[Drop.OVERSIZE] += 1
        elif link is None or not link.put(datagram, self._now()):
            self._drops[Drop.NO_PATH] += 1
        elif link not in self._unflushed:
            self._unflushed.append(link)

    def flush(self) -> None:
        """Writes what was taken: one system call a link for a whole batch."""
        if self._unflushed:
            links, self._unflushed = self._unflushed, []
            instant = self._now()
            for link in links:
                link.flush(instant)

    # opening

    async def _open(self, to: Address, scope: trio.CancelScope) -> None:
        outcome: socket.socket | str = "no answer"
        with scope:
            outcome = await self._try(to)
        if self._attempts.get((to.ip, to.port), (to, None))[1] is not scope:  # it came in by the listener
            if not isinstance(outcome, str):
                close_at_once(outcome)
            return
        del self._attempts[to.ip, to.port]
        if isinstance(outcome, str):
            _log.debug("not connected", to=to, why=outcome)
            if self._user is not None:
                self._user.handle_connect_failed(to, outcome)
        else:
            self._begin(outcome, to, to)

    async def _try(self, to: Address) -> socket.socket | str:
        """Returns a connection, or why there is none."""
        why = "no answer"
        with trio.move_on_after(CONNECT_S):
            for patience_s in (*ATTEMPTS_S, *itertools.repeat(ATTEMPTS_S[-1], int(CONNECT_S / PAUSE_S[0]))):
                try:
                    return await open_stream(self._port, to, patience_s)
                except OpeningError as error:
                    why = error.why
                    if error.is_final:
                        break
                    if not error.took_time:
                        await trio.sleep(_uniform(*PAUSE_S))
        return why

    def _link_to(self, to: Address) -> TcpLink | None:
        where = (to.ip, to.port)
        return next((link for link in self._links.values() if (link.address.ip, link.address.port) == where), None)

    async def _tell_later(self, link: TcpLink, asked: Address) -> None:
        if self._user is not None and link.address.via in self._links:
            self._user.handle_link(link.address, asked)

    # listening

    async def _listen(self, scope: trio.CancelScope) -> None:
        with scope:
            listeners = await self._open_listeners()
            self._tell_listening(up=bool(listeners))
            try:
                async with trio.open_nursery() as nursery:
                    for listener in listeners:
                        nursery.start_soon(self._accept, listener)
                    nursery.start_soon(self._ask_servers)
            finally:
                for listener in listeners:
                    listener.close()
        if self._listening in (None, scope):
            self._tell_listening(up=False)

    async def _open_listeners(self) -> list[socket.socket]:
        """Waits for the port where another program has it: mostly that is a connection, and ends."""
        has_said = False
        while True:
            try:
                return open_listeners(self._port)
            except OSError as error:
                if not has_said:
                    _log.warning("no TCP connections are taken yet", port=self._port, why=error.strerror)
                    self._tell_listening(up=False)
                has_said = True
            await trio.sleep(LISTEN_AGAIN_S)

    def _tell_listening(self, *, up: bool) -> None:
        if self._user is not None:
            self._user.handle_listening(up=up)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            for _ in range(_ACCEPTED_AT_ONCE):
                try:
                    stream, source = listener.accept()
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno in EXHAUSTED:
                        await trio.sleep(_RECOVERY_S)
                    continue  # else the connection ended before it was taken
                stream.setblocking(False)
                self._admit(stream, Address(source[0], source[1], Transport.TCP))

    def _admit(self, stream: socket.socket, source: Address) -> None:
        attempt = self._attempts.pop((source.ip, source.port), None)
        if is_of_reserve(stream.fileno()) or (attempt is None and not self._has_room_for(source)):
            self.refused += 1
            close_at_once(stream)
            return
        try:
            prepare_stream(stream)
        except OSError:  # it has ended already; where it was asked for, the next attempt is not far
            close_at_once(stream)
            if attempt is not None:
                self._attempts[source.ip, source.port] = attempt
            return
        if attempt is not None:
            attempt[1].cancel()
        self._begin(stream, source, attempt[0] if attempt is not None else None)

    def _has_room_for(self, source: Address) -> bool:
        strangers = [_source(link.address) for link in self._links.values() if not link.is_vouched]
        has_room = len(strangers) < MAX_UNVOUCHED and len(self._links) < MAX_LINKS
        return has_room and strangers.count(_source(source)) < MAX_UNVOUCHED_PER_SOURCE

    async def _ask_servers(self) -> None:
        reflexive = TcpReflexive(self._port, self._tell_reflexive)
        while True:
            self._servers_changed = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reflexive.run, self._servers)
                await self._servers_changed.wait()
                nursery.cancel_scope.cancel()

    def _tell_reflexive(self, addresses: Sequence[Address]) -> None:
        if self._user is not None:
            self._user.handle_tcp_reflexive(addresses)

    # carrying

    def _begin(self, stream: socket.socket, to: Address, asked: Address | None) -> None:
        address = Address(to.ip, to.port, Transport.TCP, self._next_via)
        self._next_via += 1
        if self._nursery is None:
            close_at_once(stream)
            return
        link = self._links[address.via] = TcpLink(stream, address, asked, self._buffer, self._drops)
        self._nursery.start_soon(self._carry, link, asked)

    async def _carry(self, link: TcpLink, asked: Address | None) -> None:
        try:
            if self._user is not None:
                self._user.handle_link(link.address, asked)
            why = await link.run(self._receive, self._now)
        finally:
            del self._links[link.address.via]
        _log.debug("connection ended", to=link.address, why=why)
        if self._user is not None and not link.is_unwanted:
            self._user.handle_link_lost(link.address, why)


def _source(address: Address) -> bytes:
    packed = ipaddress.ip_address(address.ip).packed
    return packed if len(packed) == 4 else packed[:8]
