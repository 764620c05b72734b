"""All targets, by name. Each group is a module, which is loaded when one of its targets is asked for."""

from __future__ import annotations

import importlib

from tests.fuzz.coverage.target import Target

GROUPS = {"wire": "codecs", "paper": "papers", "host": "hosts", "machine": "machines"}
"""What the names of a module's targets begin with."""


def targets() -> dict[str, Target]:
    return {target.name: target for group in GROUPS for target in _group(group)}


def target_of(name: str) -> Target:
    """Raises `KeyError` where there is none."""
    return {target.name: target for target in _group(name.partition("-")[0])}[name]


def _group(prefix: str) -> tuple[Target, ...]:
    module = importlib.import_module(f"tests.fuzz.coverage.{GROUPS[prefix]}")
    group: tuple[Target, ...] = module.TARGETS
    return group
