"""Modules that the first frame needs nothing of, loaded later and beside the frames.

A third of what a daemon would load at its start serves TLS, HTTP and people's questions. Whoever needs such a module
imports it inside the function that does, and awaits `load` before, so that the import itself takes no time.
"""

from __future__ import annotations

import importlib
import sys

import trio

_SWITCH_S = 0.0005
"""A thread that imports gives way this soon to one that has a frame to move; Python's own 5 ms are a long ping."""


async def load(*modules: str) -> None:
    """Imports what is not there yet, in a thread."""
    missing = [module for module in modules if module not in sys.modules]
    if missing:
        await trio.to_thread.run_sync(_import, missing)


def _import(modules: list[str]) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_S))
    try:
        for module in modules:
            importlib.import_module(module)
    finally:
        sys.setswitchinterval(before)
