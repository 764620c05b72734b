"""The contract of every machine, and the values that it is spoken in.

A machine is handed time and randomness; it keeps no clock. After every call its driver drains it: first all
events (what must be durable becomes so, and `handle_stored` tells a node that it is), then all transmits, then it
asks for the next timeout. A spurious call is harmless, and a machine without anything to say answers `None`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fabric.wire.address import Address

Instant = float
"""Seconds on a clock that never goes back and counts through suspend (CLOCK_BOOTTIME)."""

NEVER: Instant = float("inf")

T = TypeVar("T")
EventT_co = TypeVar("EventT_co", covariant=True)


class Draw(Protocol):
    """A source of randomness: the kernel's in a daemon, a seeded one in the simulator."""

    def __call__(self, count: int, /) -> bytes: ...


@dataclass(slots=True)
class Calendar:
    """Ties instants to wall time, in seconds since 1970 UTC; the shell corrects `offset` when the clock is set."""

    offset: float

    def unix(self, now: Instant) -> float:
        return now + self.offset

    def instant(self, unix: float) -> Instant:
        return unix - self.offset


@dataclass(frozen=True, slots=True)
class Transmit:
    """A datagram for the driver to send, as it is."""

    to: Address
    payload: bytes


class Machine(Protocol[EventT_co]):
    """What a driver needs of a machine."""

    def handle_datagram(self, source: Address, payload: bytes, now: Instant) -> None: ...

    def handle_timeout(self, now: Instant) -> None: ...

    def poll_transmit(self) -> Transmit | None: ...

    def poll_event(self) -> EventT_co | None: ...

    def next_timeout(self) -> Instant | None: ...


def drain(poll: Callable[[], T | None]) -> Iterator[T]:
    """Yields what `poll` returns until it returns None; lazily, so that the machine may add while it is drained."""
    while (item := poll()) is not None:
        yield item
