"""Fixtures of the simulated world."""

from __future__ import annotations

import random

import pytest

from tests.sim.network import Network
from tests.sim.place import Atlas
from tests.sim.schedule import Schedule
from tests.sim.seed import seed_of


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
