"""A host that runs the product's relay: over UDP, and over a WebSocket in TLS, on the simulated internet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from discovery.core.relay import Relay
from fabric.core.machine import drain
from fabric.wire.address import Address, Transport
from fabric.wire.rendezvous import RelayPlace
from tests.sim.link import UPLINK, Quality, Socket
from tests.sim.network import WEB_PORT, Network
from tests.sim.schedule import Appointment, Schedule
from tests.sim.tcp import Connection

RELAY_PORT = 3478

GREETING = b"\x16"
GREETINGS = 2
"""TLS 1.3 and the WebSocket upgrade cost a round trip each behind that of TCP: told apart from data by their length."""


class RelayHost:
    """`make` begins a relay without memory, as after a restart; `relay` is None while it is down."""

    def __init__(
        self, network: Network, schedule: Schedule, ip: str, make: Callable[[], Relay], line: Quality = UPLINK
    ) -> None:
        self.ip = ip
        self.host = network.make_host(f"relay-{ip}")
        self.host.join(network.internet, f"{ip}/16", line)
        self.relay: Relay | None = None
        self._make = make
        self._schedule = schedule
        self._connections: dict[int, Connection] = {}
        self._accepted = 0
        self._wake: Appointment | None = None
        self.start()

    @property
    def place(self) -> RelayPlace:
        return RelayPlace(self.ip, RELAY_PORT, WEB_PORT)

    def start(self) -> None:
        if self.relay is None:
            self.relay = self._make()
            self.host.bind(RELAY_PORT, self._receive)
            self.host.tcp.listen(WEB_PORT, self._accept)

    def kill(self) -> None:
        """All that was bound is forgotten."""
        self.relay = None
        self.host.close(RELAY_PORT)
        self.host.tcp.close_all()
        self._connections.clear()

    def emit(self, to: Address, payload: bytes) -> None:
        if to.transport is Transport.RELAY_UDP:
            self.host.send(RELAY_PORT, (to.ip, to.port), payload)
        elif to.via in self._connections:
            self._connections[to.via].send(payload)

    def _receive(self, source: Socket, payload: bytes) -> None:
        self._take(Address(*source, Transport.RELAY_UDP), payload)

    def _accept(self, connection: Connection) -> None:
        self._accepted += 1
        number = self._accepted
        self._connections[number] = connection
        connection.message = partial(self._hear, number)
        connection.lost = partial(self._lose, number)

    def _hear(self, number: int, payload: bytes) -> None:
        connection = self._connections[number]
        if payload == GREETING:
            connection.send(GREETING)
        else:
            self._take(Address(*connection.remote, Transport.RELAY_TLS, number), payload)

    def _lose(self, number: int, _why: str) -> None:
        connection = self._connections.pop(number, None)
        if connection is not None and self.relay is not None:
            self.relay.handle_lost(Address(*connection.remote, Transport.RELAY_TLS, number))
            self._settle(self.relay)

    def _take(self, source: Address, payload: bytes) -> None:
        if self.relay is not None:
            self.relay.handle_datagram(source, payload, self._schedule.now)
            self._settle(self.relay)

    def _settle(self, relay: Relay) -> None:
        for transmit in drain(relay.poll_transmit):
            self.emit(transmit.to, transmit.payload)
        due = relay.next_timeout()
        if self._wake is None and due is not None:
            self._wake = self._schedule.at(due, self._handle_wake)

    def _handle_wake(self) -> None:
        self._wake = None
        if self.relay is not None:
            self.relay.handle_timeout(self._schedule.now)
            self._settle(self.relay)
