"""Pairs with relays at hand: together at once, direct as soon as that can be, and not a frame lost on the way."""

from __future__ import annotations

import itertools
import random

import pytest

from fabric.core.settings import Settings
from fabric.core.status import PathKind
from fabric.dataplane.contract import Drop
from tests.sim.endpoint import Endpoint
from tests.sim.network import Policy
from tests.sim.oracle import is_direct
from tests.sim.place import Access
from tests.sim.world import World

pytestmark = pytest.mark.slow

FIRST_FRAME_S = 3.0
BEST_WITHIN_S = 75.0


def test_a_pair_that_can_not_be_direct_is_relayed_within_seconds(relayed_world: World) -> None:
    world = relayed_world
    alpha, beta = world.pair(Access.SYMMETRIC, Access.SYMMETRIC)
    world.until_connected((alpha, beta), within_s=FIRST_FRAME_S)
    world.until_frames_pass(alpha, beta, within_s=1.0)
    assert alpha.path_to(beta) is beta.path_to(alpha) is PathKind.RELAY_UDP


def test_a_network_that_lets_only_the_web_out_is_relayed_over_tls(relayed_world: World) -> None:
    world = relayed_world
    alpha, beta = world.pair(Access.WEB_ONLY, Access.PORT_RESTRICTED)
    world.until_frames_pass(alpha, beta, within_s=15.0)
    assert alpha.path_to(beta) is PathKind.RELAY_TLS


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(Access, 2)))
def test_a_pair_with_relays_ends_up_on_the_best_path_and_loses_no_frame_on_the_way(
    relayed_world: World, one: Access, other: Access
) -> None:
    """A frame each way every 50 ms, from the first connection until half a minute after the best path is found."""
    world = relayed_world
    alpha, beta = world.pair(one, other)
    world.until_connected((alpha, beta), within_s=15.0)
    stream = Stream(world, alpha, beta)
    stream.until(lambda: world.is_best(alpha, beta), within_s=BEST_WITHIN_S)
    stream.run_for(30.0)
    assert world.is_best(alpha, beta)
    assert stream.lost() == 0


class Stream:
    """Frames both ways at a steady pace; the witness has an eye on doubles."""

    def __init__(self, world: World, one: Endpoint, other: Endpoint, pause_s: float = 0.05) -> None:
        self.world, self.one, self.other, self.pause_s = world, one, other, pause_s
        self.sent: list[tuple[float, int]] = []

    def run_for(self, seconds: float) -> None:
        end = self.world.now + seconds
        while self.world.now < end:
            self._step()

    def until(self, condition: object, within_s: float) -> float:
        assert callable(condition)
        begun = self.world.now
        while not condition():
            assert self.world.now - begun < within_s, f"not within {within_s} s; {self.world.describe()}"
            self._step()
        return self.world.now - begun

    def lost(self) -> int:
        """How many of those sent so far never came out."""
        self.world.run_for(2.0)
        came = {delivery.frame.number for delivery in self.world.witness.deliveries}
        return sum(number not in came for _, number in self.sent)

    def longest_gap_s(self) -> float:
        """The longest time for which what was sent got lost, either way together."""
        self.world.run_for(2.0)
        came = {delivery.frame.number for delivery in self.world.witness.deliveries}
        times = [at for at, number in self.sent if number in came]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)

    def _step(self) -> None:
        for sender, receiver in ((self.one, self.other), (self.other, self.one)):
            if sender.node is not None:
                self.sent.append((self.world.now, sender.send_frame(receiver)))
        self.world.run_for(self.pause_s)


@pytest.mark.parametrize("killed", [1, 2, 3])
def test_a_relayed_pair_outlives_all_relays_but_one(relayed_world: World, killed: int) -> None:
    world = relayed_world
    alpha, beta = world.pair(Access.SYMMETRIC, Access.SYMMETRIC)
    world.until_frames_pass(alpha, beta, within_s=5.0)
    world.run_for(10.0)
    for relay in world.chance.sample(world.relays, killed):
        relay.kill()
        world.until_frames_pass(alpha, beta, within_s=10.0)
    world.run_for(30.0)
    world.until_frames_pass(alpha, beta, within_s=1.0)


def test_a_relay_that_began_anew_is_bound_again(relayed_world: World) -> None:
    world = relayed_world
    alpha, beta = world.pair(Access.SYMMETRIC, Access.SYMMETRIC)
    world.until_frames_pass(alpha, beta, within_s=5.0)
    for relay in world.relays:
        relay.kill()
    world.run_for(30.0)
    for relay in world.relays:
        relay.start()
    world.until_frames_pass(alpha, beta, within_s=30.0)


@pytest.mark.parametrize("attempt", range(3))
def test_two_copies_outlive_any_one_relay_without_the_loss_of_a_frame(relayed_world: World, attempt: int) -> None:
    world = relayed_world
    settings = Settings(relay_copies=2)
    alpha = world.endpoint("alpha", Access.SYMMETRIC, settings=settings)
    beta = world.endpoint("beta", Access.SYMMETRIC, settings=settings)
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.until_connected((alpha, beta), within_s=5.0)
    world.run_for(15.0)
    stream = Stream(world, alpha, beta, pause_s=0.02)
    for relay in random.Random(attempt).sample(world.relays, len(world.relays)):
        stream.run_for(5.0)
        relay.kill()
        stream.run_for(15.0)
        relay.start()
        stream.run_for(15.0)
    assert stream.lost() == 0


def test_udp_that_is_blocked_all_at_once_moves_the_pair_to_tcp_and_back_when_it_is_let_through(
    relayed_world: World,
) -> None:
    world = relayed_world
    alpha, beta = world.pair(Access.PORT_RESTRICTED, Access.PORT_RESTRICTED)
    world.until_best(alpha, beta, within_s=10.0)
    assert alpha.place is not None
    stream = Stream(world, alpha, beta)
    stream.run_for(5.0)
    alpha.place.set_policy(Policy.NO_UDP)
    stream.run_for(20.0)
    assert stream.longest_gap_s() < 10.0
    assert is_direct(world.expected_kind(alpha, beta))
    stream.until(lambda: world.is_best(alpha, beta), within_s=120.0)
    alpha.place.set_policy(Policy.ALL)
    stream.until(lambda: world.is_best(alpha, beta), within_s=400.0)


def test_every_frame_takes_two_relays_while_these_are_reached_over_udp_again(relayed_world: World) -> None:
    """What goes over TLS goes on so until UDP has shown that it carries."""
    world = relayed_world
    settings = Settings(relay_copies=2)
    alpha = world.endpoint("alpha", Access.SYMMETRIC, settings=settings)
    beta = world.endpoint("beta", Access.SYMMETRIC, settings=settings)
    assert alpha.place is not None
    alpha.place.set_policy(Policy.NO_UDP)
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.until_frames_pass(alpha, beta, within_s=30.0)
    world.run_for(15.0)
    assert alpha.path_to(beta) is PathKind.RELAY_TLS

    before = copies(beta, alpha)
    stream = Stream(world, alpha, beta, pause_s=0.01)
    alpha.place.set_policy(Policy.ALL)
    stream.until(lambda: alpha.path_to(beta) is beta.path_to(alpha) is PathKind.RELAY_UDP, within_s=400.0)
    stream.run_for(70.0)  # the connections over TLS are let go
    assert stream.lost() == 0
    assert copies(beta, alpha) - before == len(stream.sent) / 2


def copies(at: Endpoint, of: Endpoint) -> int:
    """How many came a second time."""
    assert at.lane is not None
    return at.lane.counters(of.name).drops.get(Drop.COPY, 0)


def test_without_a_relay_left_a_direct_pair_notices_nothing(relayed_world: World) -> None:
    world = relayed_world
    alpha, beta = world.pair(Access.PORT_RESTRICTED, Access.CARRIER)
    world.until_best(alpha, beta, within_s=10.0)
    for relay in world.relays:
        relay.kill()
    stream = Stream(world, alpha, beta)
    stream.run_for(120.0)
    assert stream.lost() == 0
