"""One simulated world: a network, a discovery service, endpoints, strangers, and a witness to all of it."""

from __future__ import annotations

import random
from collections.abc import Callable

from discovery.core.relay import Relay, RelaySettings
from discovery.core.settings import Settings as ServiceSettings
from discovery.core.store import Store
from fabric.core.machine import Calendar
from fabric.core.settings import Settings
from fabric.core.status import PathKind, PeerState
from fabric.identity.authority import ENDPOINT_LIFE_S
from fabric.identity.trust import Trust
from tests.sim.discovery import Discovery, HonestDiscovery, HostileDiscovery
from tests.sim.endpoint import EPOCH, Endpoint
from tests.sim.introducer import Introducer
from tests.sim.link import UPLINK, Packet
from tests.sim.network import Host, Network, Realm
from tests.sim.office import NETWORK, Office
from tests.sim.oracle import expected_kind
from tests.sim.place import Access, Atlas, Place
from tests.sim.relay_host import RelayHost
from tests.sim.schedule import Schedule
from tests.sim.seed import seeded_draw
from tests.sim.site import Site
from tests.sim.stun_server import StunServer
from tests.sim.witness import Witness

CONNECT_WITHIN_S = 10.0
"""On a clean network, from the second wish to frames; punching and handshake take about one second of it."""


class World:
    """Everything follows from `seed`. `relays` is how many there are, each on a host of its own; `store` is what an
    honest service keeps its things in, if not in memory."""

    def __init__(
        self,
        seed: int,
        *,
        certificate_life_s: float = ENDPOINT_LIFE_S,
        is_hostile: bool = False,
        relays: int = 0,
        store: Store | None = None,
        relay_kind: Callable[[Network, Schedule, str, Callable[[], Relay]], RelayHost] = RelayHost,
    ) -> None:
        self.chance = random.Random(seed)
        self.draw = seeded_draw(self.chance)
        self.schedule = Schedule()
        self.network = Network(self.schedule, self.chance)
        self.atlas = Atlas(self.network, self.schedule, self.chance)
        self.witness = Witness()
        self.calendar = Calendar(EPOCH)
        self.stun_servers = tuple(StunServer(self.network, self.atlas.public_ip()) for _ in range(2))
        self.office = Office(self.draw, self.unix, "discovery.example")
        self.office.life_s = certificate_life_s
        self.relays = tuple(
            relay_kind(self.network, self.schedule, self.atlas.public_ip(), self._make_relay) for _ in range(relays)
        )
        self.discovery = self._make_discovery(certificate_life_s, is_hostile, store)
        self.site = Site(self.discovery.desk, self.office.tls_certificate, self.schedule)
        self.endpoints: dict[str, Endpoint] = {}

    @property
    def introducer(self) -> Introducer:
        """The service of a hostile world."""
        assert isinstance(self.discovery.desk, Introducer)
        return self.discovery.desk

    @property
    def stun_names(self) -> tuple[str, ...]:
        return tuple(server.name for server in self.stun_servers)

    @property
    def now(self) -> float:
        return self.schedule.now

    @property
    def unix(self) -> float:
        return self.calendar.unix(self.schedule.now)

    def endpoint(
        self,
        name: str,
        place: Place | Access,
        *,
        settings: Settings | None = None,
        clock_error_s: float = 0.0,
        is_on: bool = True,
    ) -> Endpoint:
        """Enrols an endpoint, sits it down at a place and starts its daemon, unless it is to be off."""
        place = self.atlas.make(place) if isinstance(place, Access) else place
        full_name = f"{name}.{NETWORK}"
        disk = self.discovery.enrol(full_name, self.draw(32), self.atlas.public_ip(), self.now)
        endpoint = Endpoint(
            self.network.make_host(full_name),
            disk,
            self.site,
            self.witness,
            self.schedule,
            self.draw,
            settings=settings,
            clock_error_s=clock_error_s,
        )
        self.endpoints[full_name] = endpoint
        endpoint.sit(place)
        if is_on:
            endpoint.start()
        return endpoint

    def pair(self, one: Place | Access, other: Place | Access) -> tuple[Endpoint, Endpoint]:
        """Two endpoints that wish to meet; `alpha` is the client of the handshake."""
        alpha, beta = self.endpoint("alpha", one), self.endpoint("beta", other)
        alpha.add(beta.name)
        beta.add(alpha.name)
        return alpha, beta

    def revoke(self, endpoint: Endpoint) -> None:
        self.discovery.revoke(endpoint.name, self.now)
        self.site.settle()

    def go_dark(self) -> None:
        """The discovery service and its STUN servers are gone."""
        self.site.go_down()
        for server in self.stun_servers:
            server.up = False

    def come_back(self) -> None:
        self.site.come_back()
        for server in self.stun_servers:
            server.up = True

    def stranger(self, name: str = "stranger", ip: str | None = None) -> Host:
        """A host that belongs to nobody here: whatever it is sent on any port is a violation."""
        host = self.network.make_host(name)
        host.join(self.network.internet, f"{ip or self.atlas.public_ip()}/16", UPLINK)
        host.overhear = lambda source, payload: self.witness.see_datagram_to_stranger(name, source, payload)
        return host

    def record_traffic(self, into: list[Packet]) -> None:
        """Overhears the internet, as someone on the path does."""

        def overhear(realm: Realm, packet: Packet) -> None:
            if realm is self.network.internet:
                into.append(packet)

        self.network.listeners.append(overhear)

    # time

    def run_for(self, lifetime_s: float) -> None:
        self.schedule.run_for(lifetime_s)

    def until(self, condition: Callable[[], bool], within_s: float) -> float:
        """Runs until the condition holds; returns how long that took. Fails if it takes too long."""
        begun = self.now
        assert self.schedule.run_until_true(condition, within_s), f"not within {within_s} s; {self.describe()}"
        return self.now - begun

    def until_connected(self, *pairs: tuple[Endpoint, Endpoint], within_s: float = CONNECT_WITHIN_S) -> float:
        return self.until(lambda: all(are_connected(*pair) for pair in pairs), within_s)

    def until_frames_pass(self, one: Endpoint, other: Endpoint, within_s: float = CONNECT_WITHIN_S) -> float:
        """Sends a frame each way every 100 ms until one has arrived each way; returns how long that took."""
        begun, seen = self.now, len(self.witness.deliveries)

        def passed() -> bool:
            fresh = self.witness.deliveries[seen:]
            ways = {(d.frame.sender, d.receiver) for d in fresh}
            return {(one.name, other.name), (other.name, one.name)} <= ways

        while not passed():
            assert self.now - begun < within_s, f"no frames within {within_s} s; {self.describe()}"
            one.send_frame(other)
            other.send_frame(one)
            self.run_for(0.1)
        return self.now - begun

    def until_best(self, one: Endpoint, other: Endpoint, within_s: float) -> float:
        """Runs until both ends are on the class of path that the oracle says is the best there is."""
        return self.until(lambda: self.is_best(one, other), within_s)

    def is_best(self, one: Endpoint, other: Endpoint) -> bool:
        found = one.path_to(other), other.path_to(one)
        return found == (self.expected_kind(one, other), self.expected_kind(other, one))

    def stays_apart(self, one: Endpoint, other: Endpoint, for_s: float) -> None:
        """Fails as soon as the two are connected."""
        met = self.schedule.run_until_true(lambda: one.path_to(other) is not None, for_s)
        assert not met, f"connected where that must not be; {self.describe()}"

    def expected_kind(self, one: Endpoint, other: Endpoint) -> PathKind | None:
        assert one.place is not None
        assert other.place is not None
        return expected_kind(one.place, other.place, has_relays=bool(self.relays))

    def _make_discovery(self, certificate_life_s: float, is_hostile: bool, store: Store | None) -> Discovery:
        stun = self.stun_names
        if is_hostile:
            relays = tuple(relay.place for relay in self.relays)
            return HostileDiscovery(self.office, stun, self.calendar, self.draw, relays)
        places = tuple((relay.place,) for relay in self.relays)
        settings = ServiceSettings(stun=stun, certificate_life_s=certificate_life_s, relays=places)
        return HonestDiscovery(self.office, settings, self.calendar, self.draw, self.now, store)

    def _make_relay(self) -> Relay:
        trust = Trust(self.office.authority.root_der, NETWORK, None)
        return Relay(trust, NETWORK, self.draw, self.calendar, RelaySettings(), self.now)

    def describe(self) -> str:
        """One line for each wish that has not come true."""
        lines = [
            f"{endpoint.name} -> {name}: {status.state.value}, {status.why}"
            for endpoint in self.endpoints.values()
            for name, status in endpoint.status().items()
            if status.state is not PeerState.CONNECTED
        ]
        return f"at {self.now:.3f}: " + "; ".join(lines[:10])


def are_connected(one: Endpoint, other: Endpoint) -> bool:
    return one.path_to(other) is not None and other.path_to(one) is not None
