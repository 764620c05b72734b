"""What a check has found."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

Scalar = bool | int | float | str | None
Figure = Scalar | tuple[dict[str, Scalar], ...]


class Verdict(enum.StrEnum):
    OK = "ok"
    LIMITED = "limited"
    """It works, or something in its place does; some paths will be worse for it."""
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Nobody was there to ask."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` is one sentence for a person; `figures` by a name that ends in its unit where it has one."""

    verdict: Verdict
    text: str
    figures: Mapping[str, Figure] = field(default_factory=dict)


def ms(seconds: float | None) -> float | None:
    """Returns milliseconds to a tenth."""
    return None if seconds is None else round(seconds * 1000, 1)


def said(seconds: float) -> str:
    """Returns a time for a person."""
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
