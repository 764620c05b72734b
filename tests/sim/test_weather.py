"""A pair over bad lines: it connects, stays connected, and delivers what the line lets through, once."""

from __future__ import annotations

import pytest

from tests.sim.endpoint import Endpoint
from tests.sim.link import Quality
from tests.sim.place import Access
from tests.sim.world import World


def pair_over(world: World, quality: Quality) -> tuple[Endpoint, Endpoint]:
    """The bad line is alpha's; beta's is clean."""
    return world.pair(world.atlas.make(Access.PORT_RESTRICTED, uplink=quality), Access.FULL_CONE)


def delivered_share(world: World, one: Endpoint, other: Endpoint, count: int) -> float:
    """Sends `count` frames each way, 10 ms apart; returns the share that came out."""
    before = len(world.witness.deliveries)
    for _ in range(count):
        one.send_frame(other, length=600)
        other.send_frame(one, length=600)
        world.run_for(0.01)
    world.run_for(1.0)
    return (len(world.witness.deliveries) - before) / (2 * count)


@pytest.mark.parametrize(("loss", "within_s"), [(0.01, 10.0), (0.05, 15.0), (0.3, 60.0)])
def test_a_pair_connects_over_a_lossy_line(world: World, loss: float, within_s: float) -> None:
    alpha, beta = pair_over(world, Quality(latency_s=0.02, loss=loss))
    world.until_connected((alpha, beta), within_s=within_s)
    share = delivered_share(world, alpha, beta, 300)
    assert share == pytest.approx(1 - loss, abs=0.08)


def test_a_pair_stays_connected_at_five_percent_loss(world: World) -> None:
    alpha, beta = pair_over(world, Quality(latency_s=0.02, loss=0.05))
    world.until_connected((alpha, beta), within_s=15.0)
    lost = []
    for second in range(300):
        world.run_for(1.0)
        if alpha.path_to(beta) is None or beta.path_to(alpha) is None:
            lost.append(second)
    assert lost == []


def test_reordered_and_doubled_datagrams_harm_nothing(world: World) -> None:
    quality = Quality(latency_s=0.02, jitter_s=0.03, reordering=0.2, duplication=0.2)
    alpha, beta = pair_over(world, quality)
    world.until_connected((alpha, beta))
    assert delivered_share(world, alpha, beta, 300) == 1.0


def test_a_slow_line_is_only_slow(world: World) -> None:
    """A geostationary satellite up and down, both ways, and slow queues besides: more than a second a round trip."""
    alpha, beta = pair_over(world, Quality(latency_s=0.5, jitter_s=0.1))
    world.until_connected((alpha, beta), within_s=30.0)
    assert delivered_share(world, alpha, beta, 50) == 1.0


def test_frames_of_every_size_cross_a_line_of_1500_bytes(world: World) -> None:
    alpha, beta = pair_over(world, Quality(mtu=1500))
    world.until_connected((alpha, beta))
    for length in (60, 1000, 1400, 1440, 1500, 1514):
        alpha.send_frame(beta, length=length)
    world.run_for(1.0)
    assert sorted(len(d.frame.data) for d in world.witness.deliveries) == [60, 1000, 1400, 1440, 1500, 1514]


def test_the_handshake_fits_a_line_of_1280_bytes(world: World) -> None:
    alpha, beta = pair_over(world, Quality(mtu=1280))
    world.until_connected((alpha, beta))
    world.until_frames_pass(alpha, beta, within_s=1.0)
