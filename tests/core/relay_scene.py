"""A scene for an endpoint's side of relays: the relay's own machine, behind a network that can be cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from discovery.core.relay import Relay, RelaySettings
from fabric.core.machine import Calendar, drain
from fabric.core.relays import RelayEvent, Relays, ResolvedRelay
from fabric.errors import DecodeError
from fabric.identity.grant import Grant, sign_grant
from fabric.wire.address import Address, Transport
from fabric.wire.relay import RelayMessage, decode_relay_message
from fabric.wire.rendezvous import RelayPlace
from tests.core.town import DAY_S, UNIX, Town

IPV4, IPV6 = "203.0.113.10", "2001:db8::10"
PLACE = RelayPlace("relay.example", 3478, 443)
UDP = Address(IPV4, 3478, Transport.RELAY_UDP)
UDP6 = Address(IPV6, 3478, Transport.RELAY_UDP)
TLS = Address(IPV4, 443, Transport.RELAY_TLS)
HALF_TRIP_S = 0.02


@dataclass(order=True)
class Flight:
    at: float
    count: int
    source: Address
    to: Address
    payload: bytes = field(compare=False)


class Scene:
    """Endpoint `a.home` behind a network, and relays that are really there. `carries` says what gets through."""

    def __init__(self) -> None:
        self.town = Town()
        self.identity = self.town.identity("a.home")
        self.random = random.Random(7)
        self.now = 0.0
        self.relays = Relays(self.identity, self.random.randbytes, 0.0)
        self.machines: dict[str, Relay] = {}
        self.settings = RelaySettings()
        self.carries: Callable[[Address], bool] = lambda relay: True
        self.outside = "198.51.100.1"
        self.link = 0
        self.flights: list[Flight] = []
        self.count = 0
        self.sent: list[tuple[float, Address, RelayMessage]] = []
        self.events: list[RelayEvent] = []
        self.faults = 0
        self.start(IPV4, IPV6)

    def start(self, *ips: str) -> Relay:
        """A relay process, which knows nothing yet."""
        relay = Relay(self.identity.trust, "home", self.random.randbytes, Calendar(UNIX), self.settings, self.now)
        self.machines.update(dict.fromkeys(ips, relay))
        return relay

    def grant(self, peer: str, serial: int = 0) -> bytes:
        pair = peer.encode().ljust(16, b"-")[:16]
        key = self.identity.signer.public_key
        grant = Grant("home", pair, 0, key, UNIX + self.now + serial, UNIX + DAY_S, 12_500_000, 1 << 36)
        return sign_grant(self.town.service_signer, self.town.tls_certificate, grant)

    def granted(self, *peers: str, places: tuple[RelayPlace, ...] = (PLACE,)) -> None:
        for peer in peers:
            self.relays.handle_granted(peer, self.grant(peer), places, self.now)
        self.settle()

    def resolve(self, *ips: str, place: RelayPlace = PLACE) -> None:
        self.relays.handle_relays([ResolvedRelay(place, ips or (IPV4,))], self.now)
        self.settle()

    def connect(self, relay: Address = TLS) -> None:
        """The shell's TLS connection stands."""
        self.link += 1
        self.relays.handle_relay_link(relay, True, self.now)
        self.settle()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.next_due()) <= end:
            self.now = max(self.now, due)
            self.step()
        self.now = end

    def until(self, holds: Callable[[], bool], within_s: float) -> float:
        """Returns how long it took."""
        began = self.now
        while not holds():
            self.now = max(self.now, self.next_due())
            assert self.now <= began + within_s, "it took too long"
            self.step()
        return self.now - began

    def next_due(self) -> float:
        timeout = self.relays.next_timeout()
        return min([flight.at for flight in self.flights] + ([] if timeout is None else [timeout]), default=1e9)

    def step(self) -> None:
        landed = sorted(flight for flight in self.flights if flight.at <= self.now)
        self.flights = [flight for flight in self.flights if flight.at > self.now]
        for flight in landed:
            self.land(flight)
        self.relays.handle_timeout(self.now)
        self.settle()

    def settle(self) -> None:
        self.events += drain(self.relays.poll_event)
        for transmit in drain(self.relays.poll_transmit):
            self.sent.append((self.now, transmit.to, decode_relay_message(transmit.payload)))
            self.fly(self.source(transmit.to), transmit.to, transmit.payload)

    def source(self, to: Address) -> Address:
        is_tls = to.transport is Transport.RELAY_TLS
        ip = self.outside if ":" not in to.ip else f"2001:db8:1::{self.outside.rpartition('.')[2]}"
        return Address(ip, 50_000 + self.link if is_tls else 41_641, to.transport, self.link if is_tls else 0)

    def fly(self, source: Address, to: Address, payload: bytes) -> None:
        self.count += 1
        self.flights.append(Flight(self.now + HALF_TRIP_S, self.count, source, to, payload))

    def land(self, flight: Flight) -> None:
        relay = self.machines.get(flight.to.ip)
        if relay is not None:
            if self.carries(flight.to):
                relay.handle_datagram(flight.source, flight.payload, self.now)
                for answer in drain(relay.poll_transmit):
                    self.fly(flight.to, answer.to, answer.payload)
        elif flight.to == self.source(flight.source) and self.carries(flight.source):
            self.hand(flight.source, flight.payload)

    def hand(self, source: Address, payload: bytes) -> None:
        try:
            self.relays.handle_datagram_untrusted(source, payload, self.now)
        except DecodeError:
            self.faults += 1

    def channel(self, peer: str = "b.home") -> Address | None:
        return next(iter(self.relays.channels(peer)), None)

    def way(self, peer: str = "b.home") -> Address | None:
        channel = self.channel(peer)
        return None if channel is None else replace(channel, via=0)

    def ways(self, peer: str = "b.home") -> list[Address]:
        return [replace(channel, via=0) for channel in self.relays.channels(peer)]

    def asked(self, kind: type[RelayMessage], since: float = 0.0) -> list[float]:
        return [at for at, _, message in self.sent if isinstance(message, kind) and at >= since]


def settled(*peers: str) -> Scene:
    scene = Scene()
    scene.granted(*(peers or ("b.home",)))
    scene.resolve()
    scene.run(5.0)
    assert scene.channel((peers or ("b.home",))[0])
    return scene


def over_tls() -> Scene:
    """UDP is blocked, and the TLS connection stands since now."""
    scene = Scene()
    scene.carries = no_udp
    scene.granted("b.home")
    scene.resolve()
    scene.run(2.0)
    scene.connect()
    return scene


def no_udp(relay: Address) -> bool:
    return relay.transport is not Transport.RELAY_UDP
