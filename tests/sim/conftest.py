"""Fixtures of the simulated world."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.sim.network import Network
from tests.sim.place import Atlas
from tests.sim.schedule import Schedule
from tests.sim.sealing import witnessed_cipher, witnessed_seal
from tests.sim.seed import seed_of
from tests.sim.world import World


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return seed_of(request.node.nodeid)


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def schedule() -> Schedule:
    return Schedule()


@pytest.fixture
def network(schedule: Schedule, chance: random.Random) -> Network:
    return Network(schedule, chance)


@pytest.fixture
def atlas(network: Network, schedule: Schedule, chance: random.Random) -> Atlas:
    return Atlas(network, schedule, chance)


@pytest.fixture
def world(seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the product's own discovery service."""
    return watched(World(seed), monkeypatch)


@pytest.fixture
def relayed_world(seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    """The same with four relays."""
    return watched(World(seed, relays=4), monkeypatch)


@pytest.fixture
def hostile_world(seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose discovery service does what a test tells it to."""
    return watched(World(seed, is_hostile=True), monkeypatch)


@pytest.fixture(name="watched")
def watched_fixture(monkeypatch: pytest.MonkeyPatch) -> Callable[[World], World]:
    """Makes the witness of a world that a test made by itself see every seal."""
    return lambda world: watched(world, monkeypatch)


def watched(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Has the witness see every seal of the data plane and of the handshakes."""
    monkeypatch.setattr("fabric.dataplane.session.cipher", witnessed_cipher(world.witness))
    monkeypatch.setattr("fabric.core.handshake.seal", witnessed_seal(world.witness))
    return world
