"""The walk goes by symbols, remembers steps and renames names: each of the three is held against what it stands for."""

from __future__ import annotations

import random

import pytest

from fabric.core.pair import PROVEN_STEPS
from tests.explore import letters, symbolic
from tests.explore.shapes import clone
from tests.explore.stage import Rules
from tests.explore.steps import LocalSteps
from tests.explore.world import Move, World, moves_of

SYMBOLS = Rules()
MOVES = 60


def real_keys(seed: int) -> Rules:
    return Rules(steps=PROVEN_STEPS, draw=random.Random(seed).randbytes)


def compare(seed: int) -> set[str]:
    """Makes the same moves with symbols and with real keys. Returns the kinds of what was sent."""
    source = random.Random(seed)
    one, other = World(SYMBOLS), World(real_keys(seed))
    told: list[Move] = []
    kinds: set[str] = set()
    for _ in range(MOVES):
        move = moves_of(one, source, copies=bool(seed % 2))
        told.append(move)
        sent = one.make(move)
        kinds.update(sent)
        assert (sent, one.summary()) == (other.make(move), other.summary()), told
    return kinds


def replay(seed: int) -> int:
    """Runs a world, and takes each of its steps from memory as well. Returns how many were remembered."""
    source, world, steps = random.Random(seed), World(SYMBOLS), LocalSteps(SYMBOLS)
    for _ in range(MOVES):
        move = moves_of(world, source, copies=bool(seed % 2))
        if move.verb in ("lose", "copy"):
            world.make(move)
            continue
        end = world.ends[move.who]
        local, names = steps.shapes.take(clone(end))
        sender, head = 0, ""
        spelled: tuple[int, ...] = ()
        if move.verb == "deliver":
            sender, raw = world.net[move.letter]
            head, spelled = letters.read(raw)
        brought = [symbolic.NOBODY, *names]
        brought += [name for name in dict.fromkeys(spelled) if name not in brought]
        outcomes = steps.take(local, move.verb, sender, (head, tuple(brought.index(name) for name in spelled)))
        index = 0 if move.blow is None else 1 + (2 * move.blow.at - 2) + move.blow.is_stored
        world.make(move)
        if move.blow is None or index < len(outcomes):
            assert steps.shapes.take(clone(end))[0] is outcomes[index].local, (move, outcomes[index])
    return steps.taken


ALL_KINDS = {"HELLO", "ANSWER", "FINISH", "RESUME", "RESUMED", "RECORD", "CLOSE", "CALL"}


def test_symbols_and_real_keys_come_to_the_same() -> None:
    assert set().union(*(compare(seed) for seed in range(12))) >= ALL_KINDS - {"CLOSE"}


@pytest.mark.slow
def test_symbols_and_real_keys_come_to_the_same_over_many_moves() -> None:
    assert set().union(*(compare(seed) for seed in range(100, 300))) == ALL_KINDS


@pytest.mark.parametrize("seed", range(12))
def test_a_step_that_is_remembered_is_the_step_that_is_taken(seed: int) -> None:
    assert replay(seed) > MOVES / 4
