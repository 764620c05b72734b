"""Deadlines under names, so that a machine asks once for what is due and once for what comes next."""

from __future__ import annotations

from typing import Generic, TypeVar

from fabric.core.machine import Instant

KeyT = TypeVar("KeyT")


class Timers(Generic[KeyT]):
    """At most one deadline a key; a small number of keys, so the next is found by looking at all."""

    __slots__ = ("_deadlines",)

    def __init__(self) -> None:
        self._deadlines: dict[KeyT, Instant] = {}

    def set(self, key: KeyT, deadline: Instant) -> None:
        self._deadlines[key] = deadline

    def set_if_unset(self, key: KeyT, deadline: Instant) -> bool:
        """Returns whether the deadline was set."""
        if key in self._deadlines:
            return False
        self._deadlines[key] = deadline
        return True

    def cancel(self, key: KeyT) -> None:
        self._deadlines.pop(key, None)

    def clear(self) -> None:
        self._deadlines.clear()

    def take_due(self, now: Instant) -> list[KeyT]:
        """Returns and cancels what is due, the earliest first."""
        due = sorted((at, i, key) for i, (key, at) in enumerate(self._deadlines.items()) if at <= now)
        for _, _, key in due:
            del self._deadlines[key]
        return [key for _, _, key in due]

    def next(self) -> Instant | None:
        return min(self._deadlines.values(), default=None)
