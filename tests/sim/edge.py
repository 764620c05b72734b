"""The sockets of one endpoint, as its shell holds them: what an `Address` means on the way out, and on the way in.

UDP         via 0 the main socket, 1 and 2 the spare ones, from 16 up those that were opened for guessing
TCP         via n connection number n; records go as messages
RELAY_UDP   by the main socket to the relay; via 0 as it is, else wrapped for that channel
RELAY_TLS   by the WebSocket to the relay, the same
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Protocol

from fabric.core.events import FIRST_EXTRA_SOCKET
from fabric.core.machine import Draw
from fabric.errors import DecodeError
from fabric.wire.address import Address, Transport
from fabric.wire.datagram import DatagramKind, classify
from fabric.wire.relay import unwrap_relayed, wrap_relayed
from tests.sim.link import Socket
from tests.sim.network import Host
from tests.sim.relay_host import GREETING, GREETINGS
from tests.sim.schedule import Schedule
from tests.sim.tcp import Connection, State
from tests.sim.tcp_reflexive import TcpReflexive

SPARE_SOCKETS = (1, 2)
CONNECT_S = 8.0
ATTEMPT_S = 0.95
PAUSE_S = 0.2
"""As the shell paces its attempts at a peer: a refusal may come of a NAT that was not ready."""

RELAY_CONNECT_S = 5.0
RELAY_RETRY_S = (1.0, 2.0, 5.0, 10.0)


class Inside(Protocol):
    """What becomes of what comes in."""

    def take_payload(self, source: Address, payload: bytes) -> None: ...

    def take_link(self, link: Address, asked: Address | None) -> None: ...

    def take_link_lost(self, link: Address) -> None: ...

    def take_connect_failed(self, to: Address, why: str) -> None: ...

    def take_listening(self, *, up: bool) -> None: ...

    def take_tcp_reflexive(self, addresses: tuple[Address, ...]) -> None: ...

    def take_relay_link(self, relay: Address, *, up: bool) -> None: ...


class Edge:
    """Nothing is open before `open`, and everything is closed by `close`, as a kernel does it for a dead process."""

    def __init__(self, host: Host, inside: Inside, schedule: Schedule, draw: Draw) -> None:
        self.port = _port(draw)
        self.is_listening = False
        self._reflexive = TcpReflexive(host, self.port, schedule, draw, inside.take_tcp_reflexive)
        self._host = host
        self._inside = inside
        self._schedule = schedule
        self._draw = draw
        self._ports: dict[int, int] = {}
        self._next_via = FIRST_EXTRA_SOCKET
        self._links: dict[int, Connection] = {}
        self._next_link = 1
        self._relays: dict[Address, Connection | None] = {}
        self._failures = 0
        self._life = 0

    @property
    def extra_sockets(self) -> int:
        return len(self._ports) - 1 - len(SPARE_SOCKETS)

    def open(self) -> None:
        self._bind(0, self.port)
        for via in SPARE_SOCKETS:
            self._bind(via, _port(self._draw))

    def close(self) -> None:
        self._life += 1
        self.close_sockets(list(self._ports))
        self._reflexive.stop()
        self._host.tcp.close_all()
        self._links.clear()
        self._relays.clear()
        self.is_listening = False
        self._next_via = FIRST_EXTRA_SOCKET

    # datagrams

    def send(self, to: Address, payload: bytes) -> None:
        match to.transport:
            case Transport.UDP:
                port = self._ports.get(to.via)
                if port is not None:
                    self._host.send(port, (to.ip, to.port), payload)
            case Transport.TCP:
                link = self._links.get(to.via)
                if link is not None:
                    link.send(payload)
            case Transport.RELAY_UDP:
                self._host.send(self.port, (to.ip, to.port), _wrapped(to.via, payload))
            case Transport.RELAY_TLS:
                socket = self._relays.get(Address(to.ip, to.port, Transport.RELAY_TLS))
                if socket is not None:
                    socket.send(_wrapped(to.via, payload))

    def open_sockets(self, count: int) -> tuple[int, ...]:
        vias = tuple(range(self._next_via, self._next_via + count))
        self._next_via += count
        for via in vias:
            self._bind(via, self._free_port())
        return vias

    def close_sockets(self, vias: Iterable[int]) -> None:
        for via in vias:
            port = self._ports.pop(via, None)
            if port is not None:
                self._host.close(port)

    # TCP

    def listen(self, *, wanted: bool, servers: Sequence[Socket]) -> None:
        """Opens the door, and asks `servers` where they see it."""
        self.is_listening = wanted
        if wanted:
            self._host.tcp.listen(self.port, lambda connection: self._keep(connection, None))
            self._reflexive.start(servers)
        else:
            self._host.tcp.stop_listening(self.port)
            self._reflexive.stop()
        self._schedule.after(0.0, partial(self._tell_listening, wanted, self._life))

    def ask_servers(self, servers: Sequence[Socket]) -> None:
        """The own network is another."""
        if self.is_listening:
            self._reflexive.start(servers)

    def connect(self, to: Address) -> None:
        """Tries again and again for some seconds, also where it is refused."""
        self._attempt(to, self._schedule.now + CONNECT_S, self._life, "no way there")

    def close_link(self, link: Address) -> None:
        connection = self._links.pop(link.via, None)
        if connection is not None:
            connection.close()

    # relays over TLS

    def open_relay(self, relay: Address) -> None:
        """Keeps a WebSocket to it open until `close_relay`."""
        if relay not in self._relays:
            self._relays[relay] = None
            self._dial(relay, self._life)

    def close_relay(self, relay: Address) -> None:
        connection = self._relays.pop(relay, None)
        if connection is not None:
            connection.close()

    def lose_connections(self) -> None:
        """The own address is gone: a shell that watches its addresses doesn't wait for TCP to find out."""
        for number, connection in list(self._links.items()):
            connection.close()
            self._lose_link(number, "own address gone")
        for relay, socket in list(self._relays.items()):
            if socket is not None:
                socket.close()
                self._lose_relay(relay, self._life, "own address gone")

    # inside

    def _bind(self, via: int, port: int) -> None:
        self._ports[via] = port
        self._host.bind(port, partial(self._receive, via))

    def _free_port(self) -> int:
        while (port := _port(self._draw)) in self._ports.values():
            pass
        return port

    def _receive(self, via: int, source: Socket, payload: bytes) -> None:
        if via or not self._receive_relayed(Transport.RELAY_UDP, source, payload):
            self._inside.take_payload(Address(*source, Transport.UDP, via), payload)

    def _receive_relayed(self, transport: Transport, relay: Socket, payload: bytes) -> bool:
        """Returns whether this was something of a relay's."""
        match classify(payload):
            case DatagramKind.RELAYED:
                try:
                    channel, inner = unwrap_relayed(payload)
                except DecodeError:
                    return True
                self._inside.take_payload(Address(*relay, transport, channel), inner)
            case DatagramKind.RELAY_CONTROL:
                self._inside.take_payload(Address(*relay, transport), payload)
            case _:
                return False
        return True

    def _keep(self, connection: Connection, asked: Address | None) -> None:
        number = self._next_link
        self._next_link += 1
        self._links[number] = connection
        link = Address(*connection.remote, Transport.TCP, number)
        connection.message = partial(self._inside.take_payload, link)
        connection.lost = partial(self._lose_link, number)
        self._inside.take_link(link, asked)

    def _lose_link(self, number: int, _why: str) -> None:
        connection = self._links.pop(number, None)
        if connection is not None:
            self._inside.take_link_lost(Address(*connection.remote, Transport.TCP, number))

    def _tell_listening(self, wanted: bool, life: int) -> None:
        if life == self._life:
            self._inside.take_listening(up=wanted)

    def _attempt(self, to: Address, ends: float, life: int, why: str) -> None:
        if life != self._life:
            return
        left_s = ends - self._schedule.now
        if left_s <= 0.0:
            self._inside.take_connect_failed(to, why)
            return
        connection = self._host.tcp.connect(self.port, (to.ip, to.port), left_s)
        if connection is None:
            self._schedule.after(min(ATTEMPT_S, left_s), partial(self._attempt, to, ends, life, why))
            return
        connection.pace_s = ATTEMPT_S
        connection.opened = lambda: self._keep(connection, to)
        connection.lost = lambda why: self._retry(to, ends, life, why)

    def _retry(self, to: Address, ends: float, life: int, why: str) -> None:
        self._schedule.after(PAUSE_S, partial(self._attempt, to, ends, life, why))

    def _dial(self, relay: Address, life: int) -> None:
        if life != self._life or relay not in self._relays:
            return
        connection = self._host.tcp.connect(_port(self._draw), (relay.ip, relay.port), RELAY_CONNECT_S)
        if connection is None:
            self._schedule.after(RELAY_RETRY_S[0], partial(self._dial, relay, life))
            return
        greetings = 0

        def greet() -> None:
            connection.send(GREETING)

        def hear(payload: bytes) -> None:
            nonlocal greetings
            greetings += 1
            if greetings < GREETINGS:
                greet()
            else:
                self._stand(relay, connection)

        connection.opened, connection.message = greet, hear
        connection.lost = partial(self._lose_relay, relay, life)

    def _stand(self, relay: Address, connection: Connection) -> None:
        if connection.state is not State.ESTABLISHED or relay not in self._relays:
            connection.close()
            return
        self._failures = 0
        self._relays[relay] = connection
        source = (relay.ip, relay.port)
        connection.message = lambda payload: _drop(self._receive_relayed(Transport.RELAY_TLS, source, payload))
        self._inside.take_relay_link(relay, up=True)

    def _lose_relay(self, relay: Address, life: int, _why: str) -> None:
        if life != self._life or relay not in self._relays:
            return
        if self._relays[relay] is not None:
            self._relays[relay] = None
            self._inside.take_relay_link(relay, up=False)
        pause = RELAY_RETRY_S[min(self._failures, len(RELAY_RETRY_S) - 1)]
        self._failures += 1
        self._schedule.after(pause, partial(self._dial, relay, life))


def _wrapped(channel: int, payload: bytes) -> bytes:
    return wrap_relayed(channel, payload) if channel else payload


def _port(draw: Draw) -> int:
    """One of those that Linux gives out by itself."""
    return 32_768 + int.from_bytes(draw(2)) % 28_232


def _drop(_: object) -> None:
    pass
