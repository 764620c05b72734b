"""What was done and what was refused, in one log line a part every five minutes, where there was anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import trio

from fabric.shell.log import Log

INTERVAL_S = 300.0

_log = Log("discovery.tally")


class Tally:
    """`parts` are counters by the name of what counts."""

    def __init__(self, parts: Mapping[str, Counter[str]]) -> None:
        self._parts = dict(parts)
        self._told: dict[str, Counter[str]] = {name: Counter() for name in parts}

    async def run(self) -> None:
        """Tells for ever."""
        while True:
            await trio.sleep(INTERVAL_S)
            for name, risen in self.take().items():
                _log.info(f"{name}, in the last minutes", **risen)

    def take(self) -> dict[str, dict[str, int]]:
        """Returns by how much each counter has risen since the last time; what stands still is left out."""
        taken = {}
        for name, counters in self._parts.items():
            risen = counters - self._told[name]
            self._told[name] = counters.copy()
            if risen:
                taken[name] = dict(sorted(risen.items()))
        return taken
