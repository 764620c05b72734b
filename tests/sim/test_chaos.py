"""Everything at once, at random instants: afterwards the mesh is what wishes and oracle say, and nothing else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from fabric.core.status import PathKind
from tests.sim.endpoint import Endpoint
from tests.sim.link import UPLINK, Quality
from tests.sim.nat import NatTable
from tests.sim.place import Access
from tests.sim.world import World

BAD_LINE = Quality(latency_s=0.04, jitter_s=0.03, loss=0.1, duplication=0.05, reordering=0.1)
CALM_S = 180.0
"""After the last mishap; a pair that both believe apart looks for each other at least once a minute."""


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
            self.sleep_or_wake,
            self.reboot_router,
            self.renumber,
            self.spoil_or_mend_line,
            self.change_wish,
            self.change_wish,
            self.stop_or_start_service,
            self.chatter,
            self.chatter,
        ]

    def befall(self, count: int, longest_pause_s: float) -> None:
        for _ in range(count):
            self.chance.choice(self.mishaps)()
            self.world.run_for(self.chance.random() ** 3 * longest_pause_s)

    def end(self) -> None:
        """All are up and awake, the service is there, the lines are good; wishes and places stay as they are."""
        self.world.come_back()
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

    def stop_or_start_service(self) -> None:
        if self.world.site.is_up:
            self.world.go_dark()
        else:
            self.world.come_back()

    def chatter(self) -> None:
        for one, other in itertools.permutations(self.endpoints, 2):
            one.send_frame(other, length=self.chance.choice((60, 800, 1500)))
            self.world.run_for(self.chance.random() * 0.02)


def check_mesh(world: World, endpoints: list[Endpoint]) -> None:
    """Each pair is connected exactly where both wish it, both have not disabled it, and the oracle allows it."""
    for one, other in itertools.combinations(endpoints, 2):
        expected: PathKind | None = None
        if world.witness.is_mutual(one.name, other.name):
            expected = world.expected_kind(one, other)
        found = one.path_to(other), other.path_to(one)
        assert found == (expected, expected), (
            f"{one.name} at {one.place and one.place.access}, {other.name} at {other.place and other.place.access}: "
            f"{found} where {expected} is expected; {world.describe()}"
        )


@pytest.mark.parametrize("round_", range(3))
def test_after_chaos_the_mesh_is_what_was_wished(world: World, round_: int) -> None:
    chaos = Chaos(world, "abcd")
    chaos.wish_all()
    chaos.befall(40, longest_pause_s=30.0)
    chaos.end()
    world.run_for(CALM_S)
    check_mesh(world, chaos.endpoints)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("round_", range(6))
def test_after_long_chaos_the_mesh_is_what_was_wished(world: World, round_: int) -> None:
    chaos = Chaos(world, "abcdefgh")
    chaos.wish_all()
    for _ in range(3):
        chaos.befall(100, longest_pause_s=60.0)
        chaos.end()
        world.run_for(CALM_S)
        check_mesh(world, chaos.endpoints)
