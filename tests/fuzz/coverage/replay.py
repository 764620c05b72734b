"""One input against one target, and where the inputs lie that are worth trying again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.fuzz.coverage.target import Target

CORPUS = Path(__file__).parents[1] / "corpus"


def replay(target: Target, data: bytes) -> None:
    """Returns if nothing came of `data` but what may; raises whatever else did."""
    try:
        target.check(data)
    except target.errors:
        return


def corpus(target: str) -> list[Path]:
    """Returns the files of a target's corpus, always in one order."""
    return sorted((CORPUS / target).glob("*"))


def name_of(data: bytes) -> str:
    """Returns what libFuzzer calls a file with this content: its SHA-1 (no secret hangs on it)."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
