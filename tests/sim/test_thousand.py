"""A thousand endpoints under virtual time, behind every kind of NAT, each with a few wishes."""

from __future__ import annotations

import time
from functools import partial

import pytest

from fabric.core.events import Event, PeerChanged
from fabric.core.status import PeerState
from tests.sim.endpoint import Endpoint
from tests.sim.link import Quality
from tests.sim.place import Access, Place
from tests.sim.world import World, are_connected

ENDPOINTS = 1000
WISHES = 3
SETTLED_S = 40.0

SHARES = {
    Access.PORT_RESTRICTED: 45,
    Access.CARRIER: 15,
    Access.ADDRESS_RESTRICTED: 10,
    Access.FULL_CONE: 10,
    Access.PUBLIC: 8,
    Access.FIREWALL: 6,
    Access.SYMMETRIC: 6,
}
"""In percent; roughly what hosts of people and of clouds stand behind."""


def make_places(world: World) -> list[Place]:
    accesses = world.chance.choices(list(SHARES), list(SHARES.values()), k=ENDPOINTS)
    places: list[Place] = []
    for access in accesses:
        if places and places[-1].access is access and len(places[-1].free) > 0 and world.chance.random() < 0.3:
            places.append(places[-1])
        else:
            latency_s = world.chance.uniform(0.005, 0.08)
            uplink = Quality(latency_s=latency_s, jitter_s=0.005, loss=0.005, reordering=0.005, duplication=0.002)
            places.append(world.atlas.make(access, uplink=uplink))
    return places


def access_of(endpoint: Endpoint) -> str:
    return endpoint.place.access.value if endpoint.place is not None else ""


def is_connection(event: Event, peer: str) -> bool:
    return isinstance(event, PeerChanged) and event.peer == peer and event.state is PeerState.CONNECTED


def met_at(one: Endpoint, other: Endpoint) -> float | None:
    """When the later of the two saw the other connected for the first time; None unless both still are."""
    if not are_connected(one, other):
        return None
    firsts = [
        next(at for at, event in here.events if is_connection(event, there.name))
        for here, there in ((one, other), (other, one))
    ]
    return max(firsts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_endpoints_are_direct_exactly_where_the_oracle_allows_it(world: World) -> None:
    begun = time.perf_counter()
    endpoints = [world.endpoint(f"e{number:04}", place) for number, place in enumerate(make_places(world))]
    world.run_for(5.0)
    enrolled = time.perf_counter()
    pairs = {
        (min(one, other), max(one, other))
        for one in range(ENDPOINTS)
        for other in world.chance.sample(range(ENDPOINTS), WISHES)
        if one != other
    }
    wished: dict[tuple[str, str], float] = {}
    by_name = {endpoint.name: endpoint for endpoint in endpoints}

    def wish(one: Endpoint, other: Endpoint) -> None:
        one.add(other.name)
        other.add(one.name)
        wished[one.name, other.name] = world.now

    for one, other in sorted(pairs):
        world.schedule.after(world.chance.uniform(0.0, 20.0), partial(wish, endpoints[one], endpoints[other]))
    world.run_for(20.0 + SETTLED_S)
    connected = {pair: at for pair in wished if (at := met_at(by_name[pair[0]], by_name[pair[1]])) is not None}
    wrong = [
        f"{access_of(by_name[one])} {one} - {access_of(by_name[other])} {other}"
        for one, other in wished
        if (world.expected_kind(by_name[one], by_name[other]) is not None) != ((one, other) in connected)
    ]
    times = sorted(connected[pair] - wished[pair] for pair in connected)
    finished = time.perf_counter()
    print(
        f"{ENDPOINTS} endpoints, {len(wished)} pairs, {len(connected)} direct, "
        f"{world.witness.handshakes.total() // 2} handshakes, {world.witness.sealed_records} records sealed, "
        f"{world.schedule.steps} steps; connected after p50 {times[len(times) // 2]:.2f} s, "
        f"p99 {times[len(times) * 99 // 100]:.2f} s, longest {times[-1]:.2f} s of virtual time; "
        f"{enrolled - begun:.1f} s to enrol and {finished - enrolled:.1f} s to run on the wall"
    )
    assert wrong == []
