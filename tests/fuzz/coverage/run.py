"""atheris on each target, one process a target and one after the other; nothing else of the project needs it.

What is found worth keeping grows in build/fuzz/grown/<target>; an input that breaks a promise is kept in
build/fuzz/found/<target>/, and the target goes on from there until its time is over.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.coverage.replay import CORPUS, name_of

ROOT = Path(__file__).parents[3]
BUILT = ROOT / "build/fuzz"
MAX_FINDINGS = 3
"""Of one target in one run: the rest is most likely the same fault."""

INPUT_S = 20
MEMORY_MIB = 1024
"""More of either for one input is a finding too."""

MAX_FILES = 90
MAX_CORPUS_BYTES = 190_000
"""Of one target's corpus, as it is committed."""


class FuzzerError(Exception):
    """The fuzzer itself did not run; its last words are in here."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`edges` is what libFuzzer counts as cov, `features` as ft."""

    target: str
    seconds: float
    executions: int
    edges: int
    features: int
    findings: tuple[str, ...]


def fuzz(target: str, seconds: int) -> Outcome:
    """Runs for so many seconds, begun again after each finding."""
    grown, found = BUILT / "grown" / target, BUILT / "found" / target
    for directory in (grown, found, CORPUS / target):
        directory.mkdir(parents=True, exist_ok=True)
    before = {path.name for path in found.iterdir()}
    began = time.monotonic()
    executions = edges = features = 0
    while (left := seconds - (time.monotonic() - began)) >= 1 and len(_fresh(found, before)) < MAX_FINDINGS:
        log = _one(target, grown, found, int(left))
        executions += _last(r"stat::number_of_executed_units:\s*(\d+)", log) or _last(r"^#(\d+)", log)
        edges, features = max(edges, _last(r"cov: (\d+)", log)), max(features, _last(r"ft: (\d+)", log))
        if not _fresh(found, before) and time.monotonic() - began < seconds - 5:
            raise FuzzerError(f"{target} ended too soon, and nothing was found:\n{log[-3000:]}")
    return Outcome(target, time.monotonic() - began, executions, edges, features, tuple(sorted(_fresh(found, before))))


def shrink(target: str) -> tuple[int, int]:
    """Writes the committed corpus anew, from it and from all that has grown: the fewest inputs that reach as much,
    short ones first, within the bounds. Returns how many files and bytes it has now."""
    small = BUILT / "small" / target
    shutil.rmtree(small, ignore_errors=True)
    small.mkdir(parents=True)
    sources = [BUILT / "grown" / target, CORPUS / target]
    _start(target, ["-merge=1", str(small), *(str(each) for each in sources if each.is_dir())], check=True)
    kept: list[bytes] = []
    total = 0
    for data in sorted((path.read_bytes() for path in small.iterdir()), key=len):
        if len(kept) < MAX_FILES and total + len(data) <= MAX_CORPUS_BYTES:
            kept.append(data)
            total += len(data)
    shutil.rmtree(CORPUS / target, ignore_errors=True)
    (CORPUS / target).mkdir(parents=True)
    for data in kept:
        (CORPUS / target / name_of(data)).write_bytes(data)
    return len(kept), total


def publish(outcomes: Iterable[Outcome]) -> None:
    """Adds a line for each outcome to build/fuzz/outcomes.jsonl."""
    with (BUILT / "outcomes.jsonl").open("a") as log:
        for each in outcomes:
            log.write(json.dumps(asdict(each)) + "\n")


def _one(target: str, grown: Path, found: Path, seconds: int) -> str:
    """Returns what libFuzzer said."""
    limits = [
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_S}",
        f"-rss_limit_mb={MEMORY_MIB}",
        "-print_final_stats=1",
        f"-artifact_prefix={found}/",
        str(grown),
        str(CORPUS / target),
    ]
    return _start(target, limits, check=False)


def _start(target: str, words: list[str], *, check: bool) -> str:
    command = [sys.executable, "-m", "tests.fuzz.coverage", "one", target, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    log = done.stdout + done.stderr
    (BUILT / "log").mkdir(exist_ok=True, parents=True)
    (BUILT / "log" / target).write_text(log)
    if check and done.returncode:
        raise FuzzerError(f"{target} ended with {done.returncode}:\n{log[-3000:]}")
    return log


def one(name: str, words: list[str]) -> None:
    """Never returns: becomes libFuzzer on this target, with its own options."""
    import atheris

    os.environ["PYTHONWARNINGS"] = "error"
    with atheris.instrument_imports(include=["fabric", "discovery"]):
        from tests.fuzz.coverage.replay import replay
        from tests.fuzz.coverage.table import target_of

        target = target_of(name)
    grown = BUILT / "grown" / name
    grown.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (grown / name_of(seed)).write_bytes(seed)
    # A merge starts this program again by the first word, through a shell.
    myself = f"{sys.executable} -m tests.fuzz.coverage one {name}"
    atheris.Setup([myself, f"-max_len={target.length}", *words], lambda data: replay(target, data))
    atheris.Fuzz()


def _fresh(found: Path, before: set[str]) -> list[str]:
    return [path.name for path in found.iterdir() if path.name not in before]


def _last(pattern: str, log: str) -> int:
    found = re.findall(pattern, log, re.MULTILINE)
    return int(found[-1]) if found else 0
