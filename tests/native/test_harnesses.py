"""The native lane under the compiler's sanitizers: what fuzzing found worth keeping, its threads, its keys."""

from __future__ import annotations

import functools
import shutil

import pytest

from tests.native.harness import HARNESSES, HERE, MEMORY, RACES, build, has_sanitizers, libraries, replayer, run

pytestmark = pytest.mark.slow


@functools.cache
def _can(flags: tuple[str, ...]) -> bool:
    return has_sanitizers(flags)


def needs(flags: tuple[str, ...]) -> None:
    if not _can(flags):
        pytest.skip(f"NOT TESTED: no compiler here builds with {' '.join(flags)}; apt-get install gcc")


@pytest.mark.parametrize("harness", HARNESSES)
def test_no_script_of_the_corpus_breaks_a_promise_or_the_memory(harness: str) -> None:
    needs(MEMORY)
    corpus = HERE / "corpus" / harness
    replayed = run(replayer(harness), corpus)
    assert replayed == f"replayed {len(list(corpus.iterdir()))}\n"


def test_threads_and_who_steers_them_touch_nothing_at_once() -> None:
    needs(RACES)
    assert "generations" in run(build("race", ("race.c",), RACES), "2")


def test_no_block_that_a_removed_session_gives_back_has_a_key_in_it() -> None:
    if shutil.which("cc") is None:
        pytest.skip("NOT TESTED: there is no compiler here; apt-get install gcc")
    assert "after in 0 blocks" in run(build("wipe", ("wipe.c",), ()), *libraries())


def test_what_one_turn_does_not_send_leaves_all_the_same() -> None:
    needs(RACES)
    assert run(build("rest", ("rest.c",), RACES)) == "nothing stays behind\n"
