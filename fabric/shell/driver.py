"""Drives a machine in the world: drains it after every call, and wakes it when its time has come.

call -> events (durable first, and the node hears of it) -> more? -> transmits -> messages -> lane -> alarm
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import trio

from fabric.core.events import Event, ForgetRecord, StoreRecord
from fabric.core.machine import Instant, Transmit, drain
from fabric.core.records import PeerRecord
from fabric.wire.rendezvous import ToService


class DrivenNode(Protocol):
    """What a driver takes out of a node."""

    def handle_timeout(self, now: Instant, /) -> None: ...

    def handle_stored(self, now: Instant, /) -> None: ...

    def next_timeout(self) -> Instant | None: ...

    def poll_event(self) -> Event | None: ...

    def poll_transmit(self) -> Transmit | None: ...

    def poll_message(self) -> tuple[int, ToService] | None: ...


class Effects(Protocol):
    """What a driver does with it."""

    def keep(self, changes: Sequence[PeerRecord | str]) -> None:
        """Stores records and forgets names, on stable storage when it returns."""

    def handle_event(self, event: Event) -> None:
        """May call into the node again: the driver drains that before anything leaves."""

    def transmit(self, transmit: Transmit) -> None: ...

    def say(self, link: int, message: ToService) -> None:
        """`link` is the number of a channel to the service."""

    def flush(self) -> None:
        """Sends what the lane has ready."""


class Driver:
    """Call `settle` after every call into the node; nested calls of it are harmless."""

    def __init__(self, node: DrivenNode, effects: Effects, clock: Callable[[], Instant]) -> None:
        self._node = node
        self._effects = effects
        self._alarm = Alarm(clock)
        self._clock = clock
        self._settling = False
        self._has_failed = False

    def settle(self) -> None:
        """Drains the node. Whatever `Effects.keep` raises goes through, and nothing has left then, nor ever will: the
        process is to end, and whoever says goodbye meanwhile must not send what was not stored."""
        if self._settling or self._has_failed:
            return
        self._settling = True
        try:
            self._handle_events()
            for transmit in drain(self._node.poll_transmit):
                self._effects.transmit(transmit)
            messages: Iterator[tuple[int, ToService]] = drain(self._node.poll_message)
            for link, message in messages:
                self._effects.say(link, message)
            self._effects.flush()
        finally:
            self._settling = False
        self._alarm.set(self._node.next_timeout())

    async def run(self) -> None:
        """Wakes the node at its timeouts, for ever."""
        await self._alarm.run(self._ring)

    def _ring(self) -> None:
        self._node.handle_timeout(self._clock())
        self.settle()

    def _handle_events(self) -> None:
        while events := self._take_events():
            changes = [_change(event) for event in events if isinstance(event, StoreRecord | ForgetRecord)]
            if changes:
                self._keep(changes)
                self._node.handle_stored(self._clock())
            for event in events:
                if not isinstance(event, StoreRecord | ForgetRecord):
                    self._effects.handle_event(event)

    def _keep(self, changes: Sequence[PeerRecord | str]) -> None:
        self._has_failed = True
        self._effects.keep(changes)
        self._has_failed = False

    def _take_events(self) -> list[Event]:
        return list(drain(self._node.poll_event))


class Alarm:
    """One deadline. Moving it to a later time wakes nobody: the sleeper finds out when it looks."""

    def __init__(self, clock: Callable[[], Instant]) -> None:
        self._clock = clock
        self._deadline: Instant | None = None
        self._sleeps_until: Instant | None = None
        self._moved = trio.Event()

    def set(self, deadline: Instant | None) -> None:
        self._deadline = deadline
        if deadline is not None and (self._sleeps_until is None or deadline < self._sleeps_until):
            self._moved.set()

    async def run(self, ring: Callable[[], None]) -> None:
        """Calls `ring` at each deadline; a deadline that has been rung is gone unless it is set again."""
        while True:
            await self._sleep()
            if self._deadline is not None and self._deadline <= self._clock():
                self._deadline = None
                ring()

    async def _sleep(self) -> None:
        self._moved = trio.Event()
        self._sleeps_until = self._deadline
        if self._deadline is None:
            await self._moved.wait()
            return
        with trio.move_on_after(max(0.0, self._deadline - self._clock())):
            await self._moved.wait()


def _change(event: StoreRecord | ForgetRecord) -> PeerRecord | str:
    return event.record if isinstance(event, StoreRecord) else event.name
