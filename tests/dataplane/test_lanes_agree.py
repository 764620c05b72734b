"""The native lane does what the reference lane does: the same bytes, verdicts, counters and reports for one trace."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.dataplane.reference import ReferenceLane
from fabric.errors import ConfigurationError
from fabric.wire.vnet import NO_VNET
from tests.dataplane.babble import any_frame
from tests.dataplane.pair import End, Ip, LaneMaker, WholeLane, meet, native_lane
from tests.dataplane.trace import Trace
from tests.dataplane.twin import TwinLane

SEED = int(os.environ.get("FABRIC_SEED", "0"))
"""Of the long walks: another one walks elsewhere."""

LANES: dict[str, LaneMaker] = {"reference": ReferenceLane, "native": native_lane}
PAIRINGS = list(itertools.product(LANES, LANES))


@pytest.fixture(autouse=True, scope="module")
def native_is_built() -> None:
    try:
        native_lane(bytes(6), ())
    except ConfigurationError as error:
        pytest.skip(str(error))


def walk(trace: Trace, steps: int) -> Trace:
    for _ in range(steps):
        trace.step()
    trace.settle()
    return trace


def in_turn(kinds: Sequence[str]) -> LaneMaker:
    """Makes a lane of the first kind, then one of the next, round and round."""
    makers = itertools.cycle(LANES[kind] for kind in kinds)

    def make(mac: bytes, addresses: Sequence[Ip]) -> WholeLane:
        return next(makers)(mac, addresses)

    return make


def held(trace: Trace) -> list[object]:
    """What every end got, and what it counted."""
    ends = trace.ends
    counters = [each.lane.counters(other.name) for each in ends for other in ends]
    return [[Counter(trace.delivered[each]) for each in ends], [each.lane.drops() for each in ends], counters]


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 80))
def test_both_lanes_answer_alike_whatever_happens(seed: int, steps: int) -> None:
    walk(Trace(random.Random(seed), TwinLane), steps)


@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_both_lanes_answer_alike_for_thousands_of_steps(seed: int) -> None:
    trace = walk(Trace(random.Random(seed), TwinLane), 2000)
    assert sum(len(frames) for frames in trace.delivered.values()) > 300


@pytest.mark.slow
def test_both_lanes_answer_alike_for_very_long() -> None:
    for seed in range(SEED + 1000, SEED + 1020):
        walk(Trace(random.Random(seed), TwinLane), 3000)


@pytest.mark.parametrize("seed", range(3))
def test_it_makes_no_difference_which_lane_is_at_which_end(seed: int) -> None:
    """Each end has another lane than the one before it, in all ways there are."""
    held_by = []
    for kinds in PAIRINGS:
        held_by.append(held(walk(Trace(random.Random(seed), in_turn(kinds)), 600)))
    assert all(each == held_by[0] for each in held_by)


@pytest.mark.parametrize("kinds", PAIRINGS, ids="-".join)
@given(st.integers(0, 2**32))
@settings(max_examples=10)
def test_what_goes_to_all_and_what_goes_to_one_may_share_a_batch(kinds: tuple[str, str], seed: int) -> None:
    """Then the native lane sends in another order; what comes out is the same."""
    arrived = []
    for sender, receiver in (("reference", "reference"), kinds):
        one, other = End(1, make_lane=LANES[sender]), End(2, make_lane=LANES[receiver])
        meet(one, other, limit=700)
        pick = random.Random(seed)
        batch = [
            any_frame(pick, one, other, pick.choice((other.mac, other.mac, b"\xff" * 6, b"\x02\x99" + bytes(4))))
            for _ in range(30)
        ]
        for items in (batch, [NO_VNET + one.mac + other.mac + b"\x88\xb5" + bytes(60)]):
            one.lane.handle_frames(items, 0.0)
        other.lane.handle_datagrams(one.take(), 0.0)
        arrived.append((Counter(other.lane.take_frames()), other.lane.counters(one.name), one.lane.drops()))
    assert arrived[0] == arrived[1]
