"""Each certificate renews once at the real authority: a copy is found there too, and nobody else ever is."""

from __future__ import annotations

import pytest

from discovery.core.store import MemoryStore
from tests.sim.endpoint import Endpoint
from tests.sim.place import Access
from tests.sim.theft import clone
from tests.sim.world import World

LIFE_S = 600.0
DUE_S = LIFE_S * 2 / 3


def town(seed: int) -> tuple[World, MemoryStore, Endpoint]:
    store = MemoryStore()
    world = World(seed, certificate_life_s=LIFE_S, store=store)
    alpha = world.endpoint("alpha", Access.PUBLIC)
    world.run_for(1.0)
    return world, store, alpha


def is_revoked(store: MemoryStore, endpoint: Endpoint) -> bool:
    record = store.endpoint(endpoint.name)
    assert record is not None
    return record.revoked is not None


@pytest.mark.slow
@pytest.mark.parametrize("is_off", [True, False])
def test_a_clone_that_renews_as_the_original_does_is_found_whoever_is_first(seed: int, is_off: bool) -> None:
    world, store, alpha = town(seed)
    if is_off:
        alpha.stop()
    thief = clone(world, alpha)
    thief.start()
    world.run_for(world.chance.uniform(0.0, 30.0))
    if is_off:
        alpha.start()
    world.run_for(DUE_S + LIFE_S / 20)
    assert is_revoked(store, alpha)
    record = store.endpoint(alpha.name)
    assert record is not None
    assert sorted(record.sources) == sorted((alpha.outside_ip, thief.outside_ip))


def test_a_host_that_dies_between_request_and_answer_asks_the_same_again(seed: int) -> None:
    world, store, alpha = town(seed)
    first = alpha.disk.certificate
    world.until(lambda: alpha.disk.renewal[0] == first, DUE_S + 1.0)
    alpha.kill()
    world.run_for(world.chance.uniform(0.1, 20.0))
    alpha.start()
    world.until(lambda: alpha.disk.certificate != first, LIFE_S / 3)
    assert not is_revoked(store, alpha)


@pytest.mark.slow
def test_whoever_restarts_and_moves_at_any_time_is_never_taken_for_two(seed: int) -> None:
    world, store, alpha = town(seed)
    for _ in range(60):
        world.run_for(world.chance.expovariate(1 / 40.0))
        alpha.kill()
        world.run_for(world.chance.expovariate(1 / 5.0))
        if world.chance.random() < 0.3:
            alpha.sit(world.atlas.make(Access.PUBLIC))
        alpha.start()
        assert not is_revoked(store, alpha)
    assert len(list(store.certificates_of(alpha.name))) > 3
