"""What a service could find if it looked at every byte that it was ever given, keeps, or answered: not where peers are.

The product's service over SQLite, its STUN servers and relays, and endpoints of whole simulated houses. Searched is
for the addresses of their LANs, as text and packed, for what opens their gates, and for their secrets.
"""

from __future__ import annotations

import base64
import ipaddress
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from discovery.shell.store_sqlite import SqliteStore
from fabric.wire.address import CandidateKind
from fabric.wire.offer import Offer, decode_offer
from fabric.wire.rendezvous import SendOffer
from tests.sim.endpoint import Endpoint
from tests.sim.link import WIRE, Packet
from tests.sim.network import Realm
from tests.sim.place import Access
from tests.sim.relay_host import RELAY_PORT
from tests.sim.seed import seed_of
from tests.sim.world import World

pytestmark = pytest.mark.slow

HOUSES = {
    "alpha": (Access.PORT_RESTRICTED, "192.168.41.0/24", "fd41:aa::2/64"),
    "beta": (Access.SYMMETRIC, "10.77.3.0/24", "fd42:bb::2/64"),
    "gamma": (Access.SYMMETRIC, "172.20.9.0/24", "fd43:cc::2/64"),
}


class Service:
    """A service whose operator keeps everything."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.store = SqliteStore(directory)
        self.world = World(seed, relays=2, store=self.store)
        self.messages: list[bytes] = []
        self.datagrams: list[bytes] = []
        self.world.site.overhear = self.messages.append
        self._own = {server.ip for server in self.world.stun_servers} | {relay.ip for relay in self.world.relays}
        self.world.network.listeners.append(self._overhear)

    def _overhear(self, realm: Realm, packet: Packet) -> None:
        """All that goes to or comes from its hosts, TCP included."""
        if realm is self.world.network.internet and {packet.source[0], packet.destination[0]} & self._own:
            self.datagrams.append(packet.payload)

    @property
    def files(self) -> bytes:
        """As they lie on the disk, the write-ahead log included."""
        return b"".join(path.read_bytes() for path in sorted(self.directory.iterdir()))

    def possession(self) -> Possession:
        files = b"".join(path.read_bytes() for path in sorted(self.directory.iterdir()))
        return Possession({"files": [files], "messages": list(self.messages), "datagrams": list(self.datagrams)})


@dataclass(frozen=True, slots=True)
class Possession:
    """All that it has: `files` as they lie on the disk, the write-ahead log included."""

    blobs: dict[str, list[bytes]]

    def places_of(self, needle: bytes) -> set[str]:
        """Where in it these bytes are."""
        return {place for place, blobs in self.blobs.items() if any(needle in blob for blob in blobs)}


@dataclass(frozen=True, slots=True)
class Scene:
    service: Service
    people: list[Endpoint]
    possession: Possession


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Three houses with networks of their own, each wishing to meet each, and connected: directly or by a relay."""
    service = Service(tmp_path_factory.mktemp("service"), seed_of(__name__))
    people = settle(service.world)
    yield Scene(service, people, service.possession())
    service.store.close()


def settle(world: World) -> list[Endpoint]:
    endpoints = []
    for name, (access, lan, ula) in HOUSES.items():
        place = world.atlas.make(access, lan=lan)
        endpoint = world.endpoint(name, place, is_on=False)
        endpoint.host.join(place.realm, ula, WIRE)
        endpoint.start()
        endpoints.append(endpoint)
    for one, other in itertools.permutations(endpoints, 2):
        one.add(other.name)
    pairs = list(itertools.combinations(endpoints, 2))
    world.until_connected(*pairs, within_s=60.0)
    for pair in pairs:
        world.until_frames_pass(*pair)
    world.run_for(300.0)
    return endpoints


def lan_addresses(endpoint: Endpoint) -> list[str]:
    return [str(interface.ip) for interface in endpoint.host.interfaces]


def offers_of(endpoint: Endpoint) -> list[Offer]:
    """What others hold of its offers."""
    return [decode_offer(record.offer) for record in endpoint.disk.load_records() if record.offer is not None]


def forms(address: str) -> list[bytes]:
    return [address.encode(), ipaddress.ip_address(address).packed]


def secrets_of(endpoint: Endpoint) -> dict[str, bytes]:
    """What is drawn at an endpoint and told to a peer at most."""
    secrets = {"identity": endpoint.disk.seed}
    for record in endpoint.disk.load_records():
        assert record.gate_share is not None
        secrets[f"gate share for {record.name}"] = record.gate_share
        secrets |= {f"root with {record.name}": root for root in record.entangled.roots}
    return secrets


def test_peers_know_the_lan_addresses_and_the_service_does_not(scene: Scene) -> None:
    for endpoint in scene.people:
        told = {
            candidate.address.ip
            for other in scene.people
            for offer in offers_of(other)
            for candidate in offer.candidates
            if candidate.kind is CandidateKind.HOST
        }
        for address in lan_addresses(endpoint):
            assert address in told
            for form in forms(address):
                assert scene.possession.places_of(form) == set(), f"{address} of {endpoint.name}"


def test_the_service_has_none_of_the_secrets(scene: Scene) -> None:
    for endpoint in scene.people:
        for what, secret in secrets_of(endpoint).items():
            for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
                assert scene.possession.places_of(form) == set(), f"{what} of {endpoint.name}"


def test_what_the_service_is_told_is_known(scene: Scene) -> None:
    """It may see who wishes to meet whom and where their routers stand, and hears no kind of message but these."""
    kinds = {msgspec.msgpack.decode(message)["t"] for message in scene.service.messages}
    assert {"Authenticate", "PublishBundle", "StateIntent"} < kinds
    assert kinds <= {"Authenticate", "PublishBundle", "StateIntent", "SendOffer"}
    for endpoint in scene.people:
        assert {"files", "messages"} <= scene.possession.places_of(endpoint.name.encode())
    assert all(scene.possession.blobs.values())


def test_the_search_finds_an_offer_that_was_sent_without_its_seal(scene: Scene) -> None:
    """Guards the tests above: what an endpoint would do that forgets to seal."""
    alpha, beta, _ = scene.people
    (record,) = (record for record in beta.disk.load_records() if record.name == alpha.name)
    assert record.offer is not None
    alpha.say_to_service(SendOffer(beta.name, record.offer))
    scene.service.world.run_for(1.0)
    possession = scene.service.possession()
    for address in lan_addresses(alpha):
        assert any("messages" in possession.places_of(form) for form in forms(address))
    (own,) = (record for record in alpha.disk.load_records() if record.name == beta.name)
    assert own.gate_share is not None
    assert possession.places_of(own.gate_share) == {"messages"}


def test_the_search_finds_what_is_stored(scene: Scene) -> None:
    """In the write-ahead log, where it lies first."""
    (address, _) = lan_addresses(scene.people[2])
    with scene.service.store.change():
        scene.service.store.put_fact("planted", address)
    assert scene.service.possession().places_of(address.encode()) == {"files"}


def test_the_search_finds_what_a_relay_is_sent_in_the_clear(scene: Scene) -> None:
    alpha = scene.people[0]
    (address, _) = lan_addresses(alpha)
    to = (scene.service.world.relays[0].ip, RELAY_PORT)
    alpha.host.send(alpha.port, to, ipaddress.ip_address(address).packed)
    scene.service.world.run_for(1.0)
    assert scene.service.possession().places_of(ipaddress.ip_address(address).packed) >= {"datagrams"}
