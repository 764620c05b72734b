"""From where a handshake was asked for: each caller is asked in its turn, so that a copy's calls hide no other's."""

from __future__ import annotations

from collections.abc import Callable

from fabric.core.machine import Instant
from fabric.core.one_path import Path
from fabric.wire.address import Address

CALL_LIFE_S = 5.0
"""Whoever still wants a handshake calls again within a second."""

MAX_CALLERS = 8


class Callers:
    """`answering` gives the path to an address where the peer has answered, else None."""

    def __init__(self, answering: Callable[[Address], Path | None]) -> None:
        self._answering = answering
        self._heard: dict[Address, Instant] = {}

    def note(self, source: Address, now: Instant) -> None:
        """A call came from `source`; it keeps its place. Where there are too many, one that never answered yields."""
        self._heard[source] = now
        if len(self._heard) > MAX_CALLERS:
            mute = (address for address in self._heard if self._answering(address) is None)
            del self._heard[next(mute, next(iter(self._heard)))]

    def first(self, now: Instant) -> Path | None:
        """Returns the path to whoever has waited longest."""
        self._heard = {address: at for address, at in self._heard.items() if now < at + CALL_LIFE_S}
        return next((path for address in self._heard if (path := self._answering(address)) is not None), None)

    def drop(self, address: Address) -> None:
        """It was asked."""
        self._heard.pop(address, None)
