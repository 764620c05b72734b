"""The population of the survey against what was measured of real ones."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.sim.oracle import derived, outside_of
from tests.sim.place import Access, Atlas
from tests.sim.population import MIX, make_places

SITES = 4000
PAIRS = 20_000


@pytest.mark.slow
def test_each_kind_of_site_has_its_share(atlas: Atlas, chance: random.Random) -> None:
    assert sum(kind.share for kind in MIX) == pytest.approx(100.0)
    found = Counter(kind.name for kind, _ in make_places(atlas, chance, SITES))
    for kind in MIX:
        assert 100 * found[kind.name] / SITES == pytest.approx(kind.share, abs=3.0)


@pytest.mark.slow
def test_plain_punching_between_nats_opens_as_often_as_libp2p_measured(atlas: Atlas, chance: random.Random) -> None:
    """70 % +- 7.1 of 4.4 million attempts (Trautwein et al. 2025), between hosts behind NATs, over IPv4."""
    places = [place for kind, place in make_places(atlas, chance, SITES) if place.access.is_nat]
    pairs = [chance.sample(places, 2) for _ in range(PAIRS)]
    opened = sum(derived(one, other) for one, other in pairs)
    assert 0.629 <= opened / PAIRS <= 0.771


@pytest.mark.slow
def test_as_many_nats_have_one_port_for_all_as_ford_found(atlas: Atlas, chance: random.Random) -> None:
    """82 % of 380 NATs allowed UDP punching (Ford, Srisuresh, Kegel 2005); NATs have become better since."""
    places = [p for _, p in make_places(atlas, chance, SITES) if p.access not in (Access.PUBLIC, Access.FIREWALL)]
    assert 0.80 <= sum(outside_of(place).holds for place in places) / len(places) <= 0.90
