"""Where servers see the own TCP port: connections from it that are kept open and asked again, as the shell does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from fabric.core.machine import Draw
from fabric.errors import DecodeError
from fabric.wire.address import Address, Transport
from fabric.wire.stun import TRANSACTION_ID_BYTES, binding_request, decode_binding_success
from tests.sim.link import Socket
from tests.sim.network import Host
from tests.sim.schedule import Schedule
from tests.sim.tcp import Connection, State

ASK_INTERVAL_S = 20.0
ANSWER_S = 5.0
OPENING_S = 3.0
RETRY_S = 5.0
RETRY_LIMIT_S = 60.0


class TcpReflexive:
    """`tell` is given all that holds now, in the order of the servers, whenever that changes."""

    def __init__(
        self, host: Host, port: int, schedule: Schedule, draw: Draw, tell: Callable[[tuple[Address, ...]], None]
    ) -> None:
        self._host = host
        self._port = port
        self._schedule = schedule
        self._draw = draw
        self._tell_all = tell
        self._servers: tuple[Socket, ...] = ()
        self._found: dict[Socket, Address] = {}
        self._told: tuple[Address, ...] = ()
        self._connections: dict[Socket, Connection] = {}
        self._asked: dict[Socket, bytes] = {}
        self._run = 0

    def start(self, servers: Sequence[Socket]) -> None:
        """Asks from now on; what was found before no longer holds."""
        self.stop()
        self._servers = tuple(dict.fromkeys(servers))
        self._tell()
        for server in self._servers:
            self._open(server, RETRY_S, self._run)

    def stop(self) -> None:
        self._run += 1
        self._found.clear()
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _open(self, server: Socket, retry_s: float, run: int) -> None:
        if run != self._run:
            return
        connection = self._host.tcp.connect(self._port, server, OPENING_S)
        if connection is None:
            self._end(server, retry_s, run, "no way there")
            return
        self._connections[server] = connection
        connection.opened = partial(self._ask, server, connection, run)
        connection.message = partial(self._hear, server, connection, run)
        connection.lost = partial(self._end, server, retry_s, run)

    def _ask(self, server: Socket, connection: Connection, run: int) -> None:
        if run != self._run or connection.state is not State.ESTABLISHED:
            return
        self._asked[server] = self._draw(TRANSACTION_ID_BYTES)
        connection.send(binding_request(self._asked[server]))
        connection.waits_for_answer = True
        self._schedule.after(ANSWER_S, partial(self._check, server, connection, run))

    def _hear(self, server: Socket, connection: Connection, run: int, payload: bytes) -> None:
        if run != self._run:
            return
        connection.waits_for_answer = False
        connection.lost = partial(self._end, server, RETRY_S, run)
        try:
            answer = decode_binding_success(payload)
        except DecodeError:
            answer = None
        if answer is None or answer.transaction_id != self._asked.get(server):
            connection.close()
            self._end(server, RETRY_S, run, "no answer to what was asked")
            return
        seen = answer.address
        self._found[server] = Address(seen.ip, seen.port, Transport.TCP)
        self._tell()
        self._schedule.after(ASK_INTERVAL_S, partial(self._ask, server, connection, run))

    def _check(self, server: Socket, connection: Connection, run: int) -> None:
        if run == self._run and connection.waits_for_answer and connection.state is State.ESTABLISHED:
            connection.close()
            self._end(server, RETRY_S, run, "no answer")

    def _end(self, server: Socket, retry_s: float, run: int, _why: str) -> None:
        if run != self._run:
            return
        self._connections.pop(server, None)
        if self._found.pop(server, None) is not None:
            self._tell()
        again = partial(self._open, server, min(2 * retry_s, RETRY_LIMIT_S), run)
        self._schedule.after(retry_s, again)

    def _tell(self) -> None:
        found = tuple(dict.fromkeys(self._found[server] for server in self._servers if server in self._found))
        if found != self._told:
            self._told = found
            self._tell_all(found)
