"""Finding out what a path carries, against paths that drop what is too long and say nothing."""

from __future__ import annotations

import random

import pytest

from fabric.core.machine import NEVER
from fabric.core.path_mtu import BASE_BYTES, COMMON_BYTES, CONFIRM_S, LEAST_BYTES, MISSES, RAISE_S, ROUND_S, PathMtu

ROUND_TRIP_S = 0.05


class Pipe:
    """A path of `width` bytes that loses probes with a probability of `loss`; `longest` is what was ever risked."""

    def __init__(self, width: int, *, loss: float = 0.0, ceiling: int = 1500) -> None:
        self.mtu = PathMtu(ceiling)
        self.width = width
        self.loss = loss
        self.now = 0.0
        self.probes = 0
        self.is_busy = False
        self._random = random.Random(7)

    def begin(self) -> None:
        self.mtu.begin(self.now)

    def run(self, duration_s: float) -> None:
        ends = self.now + duration_s
        while self.now < ends:
            self.now += 0.05
            if self.is_busy:
                self.mtu.handle_sealed(10, self.now)
            for size in self.mtu.take_due(self.now):
                self.probes += 1
                if size <= self.width and self._random.random() >= self.loss:
                    self.mtu.handle_answer(size, self.now + ROUND_TRIP_S)


@pytest.mark.parametrize("width", COMMON_BYTES)
def test_what_the_path_carries_is_found(width: int) -> None:
    pipe = Pipe(width)
    pipe.begin()
    pipe.run(5.0)
    assert pipe.mtu.limit == (width if width >= BASE_BYTES else LEAST_BYTES)
    assert pipe.mtu.is_settled


def test_a_path_that_does_not_carry_the_base_is_used_all_the_same_and_looked_at_again() -> None:
    pipe = Pipe(1100)
    pipe.begin()
    pipe.run(5.0)
    assert pipe.mtu.limit == LEAST_BYTES
    pipe.run(40.0)
    assert pipe.mtu.limit == 1024


def test_a_full_path_costs_two_probes() -> None:
    pipe = Pipe(1500)
    pipe.begin()
    pipe.run(20.0)
    assert pipe.mtu.limit == 1500
    assert pipe.probes == 2


def test_data_never_uses_a_length_that_was_not_answered() -> None:
    mtu = PathMtu(9000)
    assert mtu.limit == BASE_BYTES
    mtu.begin(0.0)
    known = {LEAST_BYTES, BASE_BYTES}
    for step in range(400):
        sizes = mtu.take_due(step * 0.1)
        answered = [size for size in sizes if size <= 1420 and step % 2]
        for size in answered:
            mtu.handle_answer(size, step * 0.1)
        known.update(answered)
        assert mtu.limit in known
    assert len(known) > 2


def test_loss_is_not_mistaken_for_narrowness_for_long() -> None:
    pipe = Pipe(1500, loss=0.3)
    pipe.begin()
    pipe.run(60.0)
    assert pipe.mtu.limit == 1500


def test_a_path_that_becomes_narrower_under_traffic_is_noticed_within_five_seconds() -> None:
    pipe = Pipe(1500)
    pipe.begin()
    pipe.run(5.0)
    pipe.is_busy = True
    pipe.run(3.0)
    pipe.width = 1300
    started = pipe.now
    while pipe.mtu.limit > pipe.width:
        pipe.run(0.05)
    assert pipe.now - started <= CONFIRM_S + MISSES * ROUND_S + 0.5
    pipe.run(5.0)
    assert pipe.mtu.limit == BASE_BYTES


def test_a_path_that_becomes_wider_is_used_in_full_again() -> None:
    pipe = Pipe(1300)
    pipe.begin()
    pipe.run(5.0)
    assert pipe.mtu.limit == BASE_BYTES
    pipe.width = 1500
    pipe.run(31.0)
    assert pipe.mtu.limit == 1500


def test_an_idle_path_is_asked_nothing() -> None:
    pipe = Pipe(1500)
    pipe.begin()
    pipe.run(5.0)
    before = pipe.probes
    pipe.run(500.0)
    assert pipe.probes == before


def test_what_the_own_device_refuses_is_not_tried_again() -> None:
    pipe = Pipe(1500)
    pipe.begin()
    pipe.run(5.0)
    pipe.mtu.handle_too_long(1500, pipe.now)
    assert pipe.mtu.limit <= BASE_BYTES
    pipe.run(5.0)
    assert pipe.mtu.limit == 1499


def test_what_one_device_refused_is_tried_again_after_a_move() -> None:
    pipe = Pipe(1500)
    pipe.mtu.handle_too_long(1300, pipe.now)
    pipe.begin()
    pipe.run(5.0)
    assert pipe.mtu.limit == 1299
    pipe.mtu.handle_moved()
    pipe.begin()
    pipe.run(5.0)
    assert pipe.mtu.limit == 1500


def test_what_the_device_refused_for_a_while_is_tried_again() -> None:
    pipe = Pipe(1500)
    pipe.mtu.handle_too_long(1300, pipe.now)
    pipe.begin()
    pipe.run(RAISE_S + 5.0)
    assert pipe.mtu.limit == 1500


def test_a_path_out_of_use_asks_nothing() -> None:
    pipe = Pipe(1400)
    pipe.begin()
    pipe.run(0.1)
    pipe.mtu.stop()
    assert pipe.mtu.next_timeout() == NEVER
    assert pipe.mtu.take_due(1e9) == ()
