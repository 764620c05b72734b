"""Everything at once, at random instants: afterwards the mesh is what wishes and oracle say, and nothing else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from tests.sim.endpoint import Endpoint
from tests.sim.link import UPLINK, Quality
from tests.sim.nat import NatTable
from tests.sim.network import Policy
from tests.sim.place import POLICIES, Access
from tests.sim.world import World

pytestmark = pytest.mark.slow

BAD_LINE = Quality(latency_s=0.04, jitter_s=0.03, loss=0.1, duplication=0.05, reordering=0.1)
TOGETHER_S = 60.0
"""After the last mishap, by then all are connected that can be, on whatever path."""

BEST_S = 660.0
"""By then they are on the best path there is: what was given up as hopeless is looked at again every ten minutes."""


class Chaos:
    """Mishaps that befall endpoints, places and the service; each can befall at any time."""

    def __init__(self, world: World, names: str) -> None:
        self.world = world
        self.chance: random.Random = world.chance
        self.endpoints = [world.endpoint(name, world.chance.choice(list(Access))) for name in names]
        self.mishaps: list[Callable[[], None]] = [
            self.kill_or_start,
            self.kill_or_start,
            self.move,
            self.move_two,
            self.sleep_or_wake,
            self.reboot_router,
            self.renumber,
            self.spoil_or_mend_line,
            self.change_wish,
            self.change_wish,
            self.stop_or_start_service,
            self.block_or_allow_udp,
            self.kill_or_start_relay,
            self.chatter,
            self.chatter,
        ]

    def befall(self, count: int, longest_pause_s: float) -> None:
        for _ in range(count):
            self.chance.choice(self.mishaps)()
            self.world.run_for(self.chance.random() ** 3 * longest_pause_s)

    def end(self) -> None:
        """All are up and awake, service and relays are there, the lines are good; wishes and places stay."""
        self.world.come_back()
        for relay in self.world.relays:
            relay.start()
        for endpoint in self.endpoints:
            self.mend(endpoint)
            if not endpoint.host.awake:
                endpoint.resume()
            if endpoint.node is None:
                endpoint.start()

    def wish_all(self) -> None:
        for one, other in itertools.permutations(self.endpoints, 2):
            one.add(other.name)

    # what may happen

    def kill_or_start(self) -> None:
        endpoint = self.chance.choice(self.endpoints)
        if not endpoint.host.awake:
            return
        if endpoint.node is None:
            endpoint.start()
        else:
            self.chance.choice((endpoint.kill, endpoint.kill, endpoint.stop))()

    def move_two(self) -> None:
        """At once, so that neither can tell the other."""
        for endpoint in self.chance.sample(self.endpoints, 2):
            endpoint.sit(self.world.atlas.make(self.chance.choice(list(Access))))

    def move(self) -> None:
        endpoint = self.chance.choice(self.endpoints)
        neighbours = [e.place for e in self.endpoints if e.place is not None and e.place.free and e is not endpoint]
        place = self.chance.choice([*neighbours, self.world.atlas.make(self.chance.choice(list(Access)))])
        endpoint.sit(place)

    def sleep_or_wake(self) -> None:
        endpoint = self.chance.choice(self.endpoints)
        if not endpoint.host.awake:
            endpoint.resume()
        elif endpoint.node is not None:
            endpoint.suspend()

    def reboot_router(self) -> None:
        endpoint = self.chance.choice(self.endpoints)
        if endpoint.place is not None and endpoint.place.routers:
            endpoint.place.reboot_routers()
            endpoint.lose_line()

    def renumber(self) -> None:
        endpoint = self.chance.choice(self.endpoints)
        place = endpoint.place
        if place is not None and place.routers and isinstance(place.routers[-1].table, NatTable):
            place.renumber(self.world.atlas.public_ip())
            endpoint.lose_line()

    def spoil_or_mend_line(self) -> None:
        endpoint = self.chance.choice(self.endpoints)
        if self.chance.random() < 0.5:
            endpoint.host.degrade(BAD_LINE)
        else:
            self.mend(endpoint)

    def mend(self, endpoint: Endpoint) -> None:
        endpoint.host.degrade(endpoint.place.line if endpoint.place is not None else UPLINK)

    def change_wish(self) -> None:
        one, other = self.chance.sample(self.endpoints, 2)
        if one.node is not None and one.host.awake:
            change = self.chance.choice((one.add, one.add, one.enable, one.disable, one.remove))
            change(other.name)

    def block_or_allow_udp(self) -> None:
        place = self.chance.choice(self.endpoints).place
        if place is not None and place.routers and place.access not in POLICIES:
            place.set_policy(Policy.NO_UDP if place.policy is Policy.ALL else Policy.ALL)

    def kill_or_start_relay(self) -> None:
        if self.world.relays:
            relay = self.chance.choice(self.world.relays)
            if relay.relay is None:
                relay.start()
            else:
                relay.kill()

    def stop_or_start_service(self) -> None:
        if self.world.site.is_up:
            self.world.go_dark()
        else:
            self.world.come_back()

    def chatter(self) -> None:
        for one, other in itertools.permutations(self.endpoints, 2):
            one.send_frame(other, length=self.chance.choice((60, 800, 1500)))
            self.world.run_for(self.chance.random() * 0.02)


def check_mesh(world: World, endpoints: list[Endpoint], *, is_best: bool) -> None:
    """Each pair is connected exactly where both wish it, both have not disabled it, and the oracle allows it;
    `is_best`: and by the class of path that the oracle says."""
    for one, other in itertools.combinations(endpoints, 2):
        wished = world.witness.is_mutual(one.name, other.name)
        ways = ((one, other), (other, one))
        expected = [world.expected_kind(*way) if wished else None for way in ways]
        found = [here.path_to(there) for here, there in ways]
        fits = found == expected if is_best else [bool(kind) for kind in found] == [bool(kind) for kind in expected]
        assert fits, (
            f"{one.name} at {one.place and one.place.access}, {other.name} at {other.place and other.place.access}: "
            f"{found} where {expected} is expected; {world.describe()}"
        )


def calm_down(world: World, chaos: Chaos) -> None:
    chaos.end()
    world.run_for(TOGETHER_S)
    if world.relays:
        check_mesh(world, chaos.endpoints, is_best=False)
    world.run_for(BEST_S - TOGETHER_S)
    check_mesh(world, chaos.endpoints, is_best=True)


@pytest.mark.parametrize("round_", range(3))
def test_after_chaos_the_mesh_is_what_was_wished(world: World, round_: int) -> None:
    chaos = Chaos(world, "abcd")
    chaos.wish_all()
    chaos.befall(40, longest_pause_s=30.0)
    calm_down(world, chaos)


@pytest.mark.parametrize("round_", range(4))
def test_after_chaos_with_relays_everybody_is_on_the_best_path(relayed_world: World, round_: int) -> None:
    chaos = Chaos(relayed_world, "abcd")
    chaos.wish_all()
    chaos.befall(40, longest_pause_s=30.0)
    calm_down(relayed_world, chaos)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_after_long_chaos_the_mesh_is_what_was_wished(relayed_world: World) -> None:
    chaos = Chaos(relayed_world, "abcdefgh")
    chaos.wish_all()
    for _ in range(2):
        chaos.befall(60, longest_pause_s=60.0)
        calm_down(relayed_world, chaos)
