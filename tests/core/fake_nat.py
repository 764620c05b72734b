"""A NAT and a STUN server of RFC 5780, pure, and what drives `Reflexive` between them under virtual time.

sockets 0, 1, 2 of 192.168.1.2 ---- FakeNat 203.0.113.9 ---- (delay, loss) ---- server 198.51.100.1[, .2] :3478 :3479
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from fabric.core.machine import NEVER, drain
from fabric.core.reflexive import Reflexive
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.nat import Filtering, Mapping
from fabric.wire.stun import ServerPlace, answer_binding_5780

INSIDE_IP = "192.168.1.2"
OUTSIDE_IP = "203.0.113.9"
FIRST_PORT = 20_000
SERVER_IPS = ("198.51.100.1", "198.51.100.2")
SERVER_PORTS = (3478, 3479)
SERVER = Address(SERVER_IPS[0], 3478)
DELAY_S = 0.02


@dataclass
class FakeNat:
    """`stride` None draws ports at random, 0 keeps the inside port. `foreign` mappings of others come before each."""

    mapping: Mapping
    filtering: Filtering
    stride: int | None = 0
    foreign: Callable[[], int] = lambda: 0
    lifetime_s: float = 120.0
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    next_port: int = FIRST_PORT
    by_key: dict[object, tuple[int, int]] = field(default_factory=dict)
    used: dict[int, float] = field(default_factory=dict)
    reached: dict[tuple[int, object], float] = field(default_factory=dict)

    def outward(self, socket: int, to: Address, now: float) -> Address:
        """Returns the outside address of what socket `socket` sends."""
        if self.mapping is Mapping.NONE:
            port = 41_000 + socket
        else:
            key = (socket, self._part(self.mapping, to))
            port = self.by_key.get(key, (0, 0))[0]
            if not port or now - self.used[port] > self.lifetime_s:
                port = self._new_port(socket)
                self.by_key[key] = (port, socket)
        self.used[port] = now
        self.reached[port, self._part(self.filtering, to)] = now
        return Address(INSIDE_IP if self.mapping is Mapping.NONE else OUTSIDE_IP, port)

    def inward(self, source: Address, port: int, now: float) -> int | None:
        """Returns the socket that gets it, None where nobody does."""
        if now - self.used.get(port, -1e9) > self.lifetime_s:
            return None
        if self.filtering is not Filtering.ENDPOINT_INDEPENDENT:
            reached = self.reached.get((port, self._part(self.filtering, source)))
            if reached is None or now - reached > self.lifetime_s:
                return None
        if self.mapping is Mapping.NONE:
            return port - 41_000
        return next((socket for known, socket in self.by_key.values() if known == port), None)

    def _new_port(self, socket: int) -> int:
        if self.stride is None:
            return self.chance.randint(1024, 65_535)
        if self.stride == 0:
            return (
                41_000 + socket if self.mapping is Mapping.ENDPOINT_INDEPENDENT else self.chance.randint(1024, 65_535)
            )
        self.next_port += self.stride * (1 + self.foreign())
        return self.next_port

    @staticmethod
    def _part(kind: Mapping | Filtering, to: Address) -> object:
        match kind.name:
            case "ADDRESS_DEPENDENT":
                return to.ip
            case "ADDRESS_AND_PORT_DEPENDENT":
                return (to.ip, to.port)
        return None


@dataclass
class Bench:
    """`reflexive` behind `nat`, against one server with one or two IPs. `loss` is the share lost, each way."""

    nat: FakeNat
    ips: tuple[str, ...] = SERVER_IPS
    loss: float = 0.0
    interval_s: float = 20.0
    is_up: bool = True
    knows_5780: bool = True
    seed: int = 1
    now: float = 0.0
    sent: int = 0
    sent_bytes: int = 0
    refused: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.reflexive = Reflexive(random.Random(self.seed + 1).randbytes, self.interval_s)
        self.reflexive.handle_hosts((INSIDE_IP,))
        self._way: list[tuple[float, int, Address, bytes]] = []
        self._count = itertools.count()

    def start(self, *servers: Address) -> Bench:
        self.reflexive.handle_servers(servers or (SERVER,), self.now)
        return self

    def run(self, until: float) -> Bench:
        """Lets time pass until `until`."""
        idle_calls = 0
        while True:
            self._settle()
            timeout = self.reflexive.next_timeout()
            ahead = [at for at in (timeout, self._way[0][0] if self._way else None) if at is not None]
            if not ahead or min(ahead) > until:
                break
            self.now = max(self.now, min(ahead))
            if self._way and self._way[0][0] <= self.now:
                _, _, source, payload = heapq.heappop(self._way)
                self.hear(source, payload)
            self.changes += self.reflexive.handle_timeout(self.now)
            idle_calls = idle_calls + 1 if (self.reflexive.next_timeout() or NEVER) <= self.now else 0
            assert idle_calls < 5, "it asks to be called, and does nothing"
        self.now = until
        return self

    def settle(self, within: float = 15.0) -> float:
        """Runs until the look is over; returns how long that took."""
        began = self.now
        while not self.reflexive.is_settled or self.now == began:
            assert self.now - began < within, "it does not settle"
            self.run(self.now + 0.01)
        return self.now - began

    def hear(self, source: Address, payload: bytes) -> None:
        try:
            self.changes += self.reflexive.handle_datagram_untrusted(source, payload, self.now)
        except DecodeError:
            self.refused += 1

    def _settle(self) -> None:
        for transmit in drain(self.reflexive.poll_transmit):
            self.sent += 1
            self.sent_bytes += len(transmit.payload) + 28
            self._cross(transmit.to, transmit.payload)

    def _cross(self, to: Address, payload: bytes) -> None:
        outside = self.nat.outward(to.via, to, self.now)
        if not self.is_up or self._is_lost() or to.ip not in self.ips or to.port not in SERVER_PORTS:
            return
        place = ServerPlace(Address(to.ip, to.port))
        if self.knows_5780:
            other_ip = next((ip for ip in self.ips if ip != to.ip), "")
            place = ServerPlace(place.asked, other_ip, sum(SERVER_PORTS) - to.port)
        answer = answer_binding_5780(payload, outside, place)
        assert answer is not None
        assert answer.to.ip == outside.ip
        socket = self.nat.inward(answer.origin, answer.to.port, self.now)
        if socket is not None and not self._is_lost():
            source = Address(answer.origin.ip, answer.origin.port, via=socket)
            heapq.heappush(self._way, (self.now + DELAY_S, next(self._count), source, answer.payload))

    def _is_lost(self) -> bool:
        return self.chance.random() < self.loss
