"""Everything between the ends is hostile at once. Nobody is ever impersonated; when it stops, who wishes to meet meets.

The witness looks at every key and every frame while it lasts. `FABRIC_WALKS=N` walks N seeds instead of the few of
every day.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest

from fabric.core.events import Event, TrustAlarm
from fabric.crypto.signature import Ed25519Signer
from tests.sim.disk import Disk
from tests.sim.endpoint import Endpoint
from tests.sim.hostile_discovery import HostileDesk
from tests.sim.hostile_network import HostileNetwork
from tests.sim.hostile_relay import HostileRelay
from tests.sim.place import Access
from tests.sim.seed import seed_of
from tests.sim.witness import InvariantError, Witness
from tests.sim.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WALKS = int(os.environ.get("FABRIC_WALKS", "3"))
STEPS = 40
LONGEST_STEP_S = 30.0
CALM_S = 420.0
"""After the last mischief. A relay that was lied about is looked at again within five minutes (`LOOK_LIMIT_S`), and
what else is retried ever more rarely, within two."""


class Middle:
    """A world, and all that stands between its endpoints, in the same hands."""

    def __init__(self, seed: int, names: str, *, has_authority: bool = False) -> None:
        self.world = World(seed, is_hostile=has_authority, relays=2, relay_kind=HostileRelay)
        self.chance = self.world.chance
        self.desk = HostileDesk(self.world, has_authority=has_authority)
        self.network = HostileNetwork(self.world)
        self.endpoints = [self.world.endpoint(name, self.chance.choice(list(Access))) for name in names]
        self.impostors: list[Endpoint] = []
        for endpoint in self.endpoints:
            endpoint.watch = _object_to_alarms(endpoint)

    @property
    def relays(self) -> list[HostileRelay]:
        return [relay for relay in self.world.relays if isinstance(relay, HostileRelay)]

    def wish_all(self) -> None:
        for one, other in itertools.permutations(self.endpoints, 2):
            one.add(other.name)

    def walk(self, steps: int) -> None:
        for _ in range(steps):
            self.chance.choice(self._steps())()
            self._chatter()
            self.world.run_for(self.chance.random() ** 2 * LONGEST_STEP_S)

    def stop(self) -> None:
        """The middle is honest again, and its operator starts the service anew; all endpoints are on."""
        self.network.rate = self.desk.rate = 0.0
        for relay in self.relays:
            relay.turn(self.world, 0.0)
        for impostor in self.impostors:
            impostor.kill()
        self.world.site.go_down()
        self.world.site.come_back()
        for endpoint in self.endpoints:
            if endpoint.node is None:
                endpoint.start()

    def check_calm(self) -> None:
        """Who wishes to meet each other is connected, where that can be; nobody else is, and nobody is alarmed."""
        pairs = list(itertools.combinations(self.endpoints, 2))
        ends = self.world.now + CALM_S
        while self.world.now < ends and not all(self._is_as_wished(*pair) for pair in pairs):
            self.world.run_for(1.0)
        for one, other in pairs:
            assert self._is_as_wished(one, other), f"{one.name}, {other.name}: {self.world.describe()}"
        for impostor in self.impostors:
            assert not impostor.seen_by.shares_a_key_with(self.world.witness), f"somebody met a false {impostor.name}"
        records = [record for endpoint in self.endpoints for record in endpoint.disk.load_records()]
        assert not [record for record in records if record.entangled.alarm is not None]

    def mischief(self) -> int:
        relays = sum(relay.did.total() for relay in self.relays)
        return self.desk.did.total() + self.network.did.total() + relays

    def _is_as_wished(self, one: Endpoint, other: Endpoint) -> bool:
        wished = self.world.witness.is_mutual(one.name, other.name)
        ways = ((one, other), (other, one))
        return all(
            (here.path_to(there) is not None) == (wished and self.world.expected_kind(here, there) is not None)
            for here, there in ways
        )

    def _steps(self) -> list[Callable[[], None]]:
        return [
            self.turn_network,
            self.turn_relays,
            self.turn_discovery,
            self.desk.speak,
            self.desk.speak,
            self.desk.speak,
            self.desk.speak,
            self.kill_or_start,
            self.change_wish,
            self.move,
            self.cut_lines,
            self.set_impostor_up,
        ]

    def turn_network(self) -> None:
        self.network.rate = self.chance.choice((0.0, 0.02, 0.2, 0.6))

    def turn_relays(self) -> None:
        self.chance.choice(self.relays).turn(self.world, self.chance.choice((0.0, 0.1, 0.5)))

    def turn_discovery(self) -> None:
        self.desk.rate = self.chance.choice((0.0, 0.1, 0.5, 0.9))

    def kill_or_start(self) -> None:
        endpoint = self.chance.choice(self.endpoints)
        if endpoint.node is None:
            endpoint.start()
        else:
            self.chance.choice((endpoint.kill, endpoint.stop))()

    def change_wish(self) -> None:
        one, other = self.chance.sample(self.endpoints, 2)
        if one.node is not None:
            self.chance.choice((one.add, one.add, one.disable, one.enable, one.remove))(other.name)

    def move(self) -> None:
        self.chance.choice(self.endpoints).sit(self.world.atlas.make(self.chance.choice(list(Access))))

    def cut_lines(self) -> None:
        self.world.site.go_down()
        self.world.site.come_back()

    def set_impostor_up(self) -> None:
        """Somebody else under the name of one of them, with papers of the authority itself."""
        if not self.desk.has_authority or len(self.impostors) >= 3:
            return
        victim = self.chance.choice(self.endpoints)
        others = [endpoint.name for endpoint in self.endpoints if endpoint is not victim]
        self.impostors.append(impostor(self.world, victim, others))

    def _chatter(self) -> None:
        for one, other in itertools.permutations(self.endpoints, 2):
            one.send_frame(other, length=self.chance.choice((60, 800, 1500)))


def _object_to_alarms(endpoint: Endpoint) -> Callable[[Event], None]:
    def watch(event: Event) -> None:
        if isinstance(event, TrustAlarm):
            raise InvariantError(f"{endpoint.name} is alarmed by {event.peer}, and nobody holds a key but its owner")

    return watch


def impostor(world: World, victim: Endpoint, peers: list[str], access: Access = Access.PUBLIC) -> Endpoint:
    """An endpoint, running, under the victim's name and addresses, certified over a key of its own."""
    seed = world.draw(32)
    genuine = world.office.issued_to(victim.name)
    certificate = world.office.certify(victim.name, Ed25519Signer(seed).public_key, genuine.addresses, world.unix)
    disk = Disk(seed, certificate.der, world.office.authority.root_der, world.office.crl, world.stun_names)
    endpoint = Endpoint(world.network.make_host("impostor"), disk, world.site, Witness(), world.schedule, world.draw)
    endpoint.sit(world.atlas.make(access))
    endpoint.start()
    for peer in peers:
        endpoint.add(peer)
    return endpoint


@pytest.mark.parametrize("walk", range(WALKS))
def test_whatever_the_middle_does_nobody_is_impersonated_and_calm_follows(
    walk: int, request: pytest.FixtureRequest, watched: Callable[[World], World]
) -> None:
    middle = Middle(seed_of(request.node.nodeid), "abcd")
    watched(middle.world)
    middle.wish_all()
    middle.walk(STEPS)
    middle.stop()
    middle.check_calm()
    assert middle.mischief() > 100
    assert middle.world.witness.handshakes.total() > 10


@pytest.mark.parametrize("walk", range(WALKS))
def test_with_the_authoritys_key_the_middle_can_not_touch_pairs_that_have_met(
    walk: int, request: pytest.FixtureRequest, watched: Callable[[World], World]
) -> None:
    middle = Middle(seed_of(request.node.nodeid), "abcd", has_authority=True)
    watched(middle.world)
    middle.wish_all()
    middle.world.run_for(60.0)
    middle.check_calm()
    middle.set_impostor_up()
    middle.walk(STEPS)
    middle.stop()
    middle.check_calm()
    assert middle.mischief() > 100
    assert middle.impostors
