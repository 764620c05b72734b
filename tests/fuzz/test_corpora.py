"""What coverage-guided fuzzing found worth keeping, tried again; needs no fuzzer. See `tests.fuzz.coverage`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import fabric.identity
import fabric.wire
from fabric.errors import DecodeError
from tests.fuzz.coverage.replay import CORPUS, corpus, replay
from tests.fuzz.coverage.run import MAX_CORPUS_BYTES, MAX_FILES
from tests.fuzz.coverage.table import targets
from tests.fuzz.coverage.target import Target, again, exactly, script, steps

pytestmark = pytest.mark.slow

TARGETS = targets()
READERS = ("decode", "open", "peek", "parse", "read")
PARTS = {
    "certificate_of",  # of a form that was read
    "open_body",  # behind open_intent and its like
    "open_with",  # of what is opened by a key before anything is read
    "open_stream",  # of pieces; `open_envelope` reads it
    "parse_der",  # is handed the parser
}


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_the_corpus_does_more_than_it_may(name: str) -> None:
    inputs = corpus(name)
    assert inputs, f"no corpus for {name}: make fuzz-python, then python -m tests.fuzz.coverage shrink"
    for path in inputs:
        try:
            replay(TARGETS[name], path.read_bytes())
        except Exception as error:
            raise AssertionError(f"{path} against {name}: {error!r}") from error


@pytest.mark.parametrize("name", TARGETS)
def test_genuine_inputs_are_taken(name: str) -> None:
    """Else a target would try nothing but refusals."""
    target = TARGETS[name]
    taken = 0
    for seed in target.seeds():
        try:
            target.check(seed)
        except target.errors:
            continue
        taken += 1
    assert taken


def test_corpora_are_small_and_each_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
    for name in TARGETS:
        inputs = corpus(name)
        assert len(inputs) <= MAX_FILES
        assert sum(path.stat().st_size for path in inputs) <= MAX_CORPUS_BYTES


def test_every_public_reader_of_bytes_is_fuzzed() -> None:
    """A decoder that is added without a target fails here."""
    fuzzed = {each for target in TARGETS.values() for each in target.covers}
    missing = [
        f"{module}:{name}"
        for package in (fabric.wire, fabric.identity)
        for module, name in _readers(package.__path__, package.__name__)
        if name not in PARTS and f"{module}:{name}" not in fuzzed
    ]
    assert not missing


def _readers(path: object, package: str) -> list[tuple[str, str]]:
    found = []
    for info in pkgutil.iter_modules(path):  # type: ignore[arg-type]
        module = importlib.import_module(f"{package}.{info.name}")
        for name, value in vars(module).items():
            is_here = inspect.isfunction(value) and value.__module__ == module.__name__
            if is_here and name.partition("_")[0] in READERS:
                found.append((info.name, name))
    return found


# the harness itself


def _target(check: object) -> Target:
    return Target("planted", check, lambda: [b""])  # type: ignore[arg-type]


def test_another_error_than_the_decoders_own_is_a_finding() -> None:
    with pytest.raises(IndexError):
        replay(_target(lambda data: data[0]), b"")


def test_the_decoders_own_error_is_none() -> None:
    def refuse(_data: bytes) -> None:
        raise DecodeError("no")

    replay(_target(refuse), b"")


def test_what_can_not_be_written_as_it_was_read_is_a_finding() -> None:
    with pytest.raises(AssertionError):
        replay(_target(exactly(bytes.lower, bytes)), b"A")
    grows = again(bytes, lambda read: read + b"+")
    with pytest.raises(AssertionError):
        replay(_target(grows), b"A")


def test_a_script_is_read_as_it_was_written_and_a_cut_one_as_far_as_it_goes() -> None:
    written = script((1, b"one"), (2, b""), (3, b"three"))
    assert list(steps(written)) == [(1, b"one"), (2, b""), (3, b"three")]
    assert list(steps(written[:-2])) == [(1, b"one"), (2, b""), (3, b"thr")]
    assert list(steps(written[:5])) == [(1, b"on")]


def test_the_corpus_lies_where_the_runner_keeps_it() -> None:
    assert Path(__file__).parent / "corpus" == CORPUS
