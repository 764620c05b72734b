"""What an endpoint asks one relay for: a channel to each peer, asked for at a pace."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from fabric.core.machine import NEVER, Instant
from fabric.crypto.digest import mac_128
from fabric.wire.address import Address

BINDS_PER_S = 50.0
BINDS_AT_ONCE = 50
"""A thousand peers are bound in 20 s, and a relay that comes back is not drowned by those who wait for it."""


def grant_id_of(grant: bytes) -> bytes:
    """Returns the 16 bytes by which a relay's answers speak of a grant (see `fabric.wire.relay`)."""
    return mac_128(b"", grant)


@dataclass(slots=True)
class Binding:
    """The channel to one peer at one relay. `asked_on` is the way that a question under way went."""

    peer: str
    grant: bytes = field(repr=False)
    grant_id: bytes = field(repr=False)
    channel: Address | None = None
    asked_on: Address | None = None
    first_asked: Instant = NEVER
    due: Instant = NEVER
    tries: int = 0
    challenges: int = 0
    pause_s: float = 0.0
    is_dead: bool = False
    """The relay doesn't take this grant, and won't."""

    def rest(self) -> None:
        """No question is under way, and none is planned."""
        self.asked_on = None
        self.due = NEVER
        self.tries = 0
        self.challenges = 0


class BindQueue:
    """Bindings by the time at which they are asked for; `due` of a binding is what counts."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, Binding]] = []
        self._count = 0
        self._full_at: Instant = -NEVER
        """When the allowance is whole again: the generic cell rate algorithm of ITU-T I.371."""

    def put(self, binding: Binding, due: Instant) -> None:
        binding.due = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, binding))

    def take_due(self, now: Instant) -> Binding | None:
        """Returns the next binding whose time has come, as far as the pace allows, and counts it."""
        if self.next() is None or self._heap[0][0] > now or self._allowed_at() > now:
            return None
        self._full_at = max(self._full_at, now) + 1 / BINDS_PER_S
        return heapq.heappop(self._heap)[2]

    def next(self) -> Instant | None:
        while self._heap and self._heap[0][0] != self._heap[0][2].due:
            heapq.heappop(self._heap)  # put again with another time, or at rest
        return max(self._heap[0][0], self._allowed_at()) if self._heap else None

    def _allowed_at(self) -> Instant:
        return self._full_at - (BINDS_AT_ONCE - 1) / BINDS_PER_S
