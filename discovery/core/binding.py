"""What a relay keeps of a pair: in which ways each side is bound, and what both may still send."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.machine import Instant
from fabric.wire.address import Transport

Source = tuple[str, int, Transport, int]
"""An address as it is looked up and compared: IP, port, transport, via."""

Place = tuple[Transport, int]
"""In which way a side is bound: the transport, and which of its own addresses the relay was asked at."""


@dataclass(slots=True)
class Allowance:
    """What one side may still send until `ends`."""

    left: int
    ends: Instant


@dataclass(slots=True)
class Pair:
    """`ways` has the bindings of side 0 and of side 1; `moves` counts how often each was bound somewhere new."""

    key: bytes
    rate: float
    tokens: float
    at: Instant
    ways: tuple[list[Binding], list[Binding]] = field(default_factory=lambda: ([], []))
    moves: list[int] = field(default_factory=lambda: [0, 0])

    def take(self, count: int, now: Instant) -> bool:
        """Returns whether `count` bytes may pass; a second's worth may come at once."""
        rate = self.rate
        tokens = self.tokens + (now - self.at) * rate
        self.at = now
        tokens = min(tokens, rate)
        if tokens < count:
            self.tokens = tokens
            return False
        self.tokens = tokens - count
        return True


@dataclass(slots=True, eq=False)
class Binding:
    """`others` are the bindings of the other side; `head` begins what is sent to `source`. `moves` counts the sources
    that the channel has been bound from, one after the other."""

    source: Source
    place: Place
    channel: int
    moves: int
    head: bytes
    pair: Pair
    side: int
    others: list[Binding] = field(repr=False)
    quota: int
    allowance: Allowance
    grant_id: bytes
    holder: bytes
    grant_ends: Instant
    cookie: bytes = field(repr=False)
    bound: Instant
    heard: Instant
    until: Instant


def best_of(others: list[Binding], place: Place) -> Binding:
    """Returns the binding in the same way, where it was heard since the newest was bound; else the one heard last."""
    newest = max(reversed(others), key=lambda binding: binding.bound)
    for binding in others:
        if binding.place == place and (binding is newest or binding.heard > newest.bound):
            return binding
    return max(reversed(others), key=lambda binding: binding.heard)
