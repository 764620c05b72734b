"""The order in which a driver lets things out, and when it wakes its machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from fabric.core.events import BundleDue, Event, ForgetRecord, RenewalDue, StoreRecord
from fabric.core.machine import Transmit
from fabric.core.records import PeerRecord
from fabric.shell.driver import Alarm, Driver
from fabric.wire.address import Address
from fabric.wire.rendezvous import Renew, ToService

RECORD = PeerRecord(name="bob.home")
TRANSMIT = Transmit(Address("192.0.2.1", 4711), b"datagram")


class FakeNode:
    """Says what it was told to say."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.transmits: deque[Transmit] = deque()
        self.messages: deque[ToService] = deque()
        self.timeout: float | None = None
        self.woken: list[float] = []

        self.stored = 0
        self.then: Event | None = None

    def handle_stored(self, _now: float, /) -> None:
        self.stored += 1
        if self.then is not None:
            self.events.append(self.then)
            self.then = None

    def handle_timeout(self, now: float, /) -> None:
        self.woken.append(now)
        self.timeout = None

    def next_timeout(self) -> float | None:
        return self.timeout

    def poll_event(self) -> Event | None:
        return self.events.popleft() if self.events else None

    def poll_transmit(self) -> Transmit | None:
        return self.transmits.popleft() if self.transmits else None

    def poll_message(self) -> tuple[int, ToService] | None:
        return (1, self.messages.popleft()) if self.messages else None


class Notes:
    """Notes every effect in order."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.made: list[Any] = []
        self.driver: Driver | None = None
        self.disk_is_full = False

    def keep(self, changes: Sequence[PeerRecord | str]) -> None:
        if self.disk_is_full:
            raise OSError("no space left on device")
        self.made.append(("keep", list(changes)))

    def handle_event(self, event: Event) -> None:
        self.made.append(("event", type(event).__name__))
        if isinstance(event, RenewalDue):
            self.node.messages.append(Renew(b"request"))
            self.node.events.append(StoreRecord(RECORD))
            assert self.driver is not None
            self.driver.settle()

    def transmit(self, transmit: Transmit) -> None:
        self.made.append(("transmit", transmit.payload))

    def say(self, link: int, message: ToService) -> None:
        self.made.append(("say", type(message).__name__))

    def flush(self) -> None:
        self.made.append(("flush",))


def driven() -> tuple[FakeNode, Notes, Driver]:
    node = FakeNode()
    notes = Notes(node)
    notes.driver = Driver(node, notes, trio.current_time)
    return node, notes, notes.driver


async def test_records_are_durable_before_anything_leaves() -> None:
    node, notes, driver = driven()
    node.transmits.append(TRANSMIT)
    node.messages.append(Renew(b""))
    node.events += [BundleDue(), StoreRecord(RECORD), ForgetRecord("carol.home")]
    driver.settle()
    assert notes.made == [
        ("keep", [RECORD, "carol.home"]),
        ("event", "BundleDue"),
        ("transmit", b"datagram"),
        ("say", "Renew"),
        ("flush",),
    ]


async def test_what_an_event_brings_about_is_durable_before_anything_leaves_too() -> None:
    node, notes, driver = driven()
    node.transmits.append(TRANSMIT)
    node.events.append(RenewalDue())
    driver.settle()
    assert [made[0] for made in notes.made] == ["event", "keep", "transmit", "say", "flush"]


async def test_what_waited_for_the_disk_happens_before_anything_leaves() -> None:
    node, notes, driver = driven()
    node.transmits.append(TRANSMIT)
    node.events.append(StoreRecord(RECORD))
    node.then = BundleDue()
    driver.settle()
    assert node.stored == 1
    assert [made[0] for made in notes.made] == ["keep", "event", "transmit", "flush"]


def test_nothing_leaves_when_the_disk_is_full() -> None:
    node, notes, driver = driven()
    notes.disk_is_full = True
    node.transmits.append(TRANSMIT)
    node.events.append(StoreRecord(RECORD))
    with pytest.raises(OSError, match="no space"):
        driver.settle()
    assert notes.made == []


def test_nothing_leaves_after_that_either_whoever_else_still_has_to_say_goodbye() -> None:
    """A message that leaves while the root that it depends on is not stored is a false alarm after the restart."""
    node, notes, driver = driven()
    notes.disk_is_full = True
    node.transmits.append(TRANSMIT)
    node.events.append(StoreRecord(RECORD))
    with pytest.raises(OSError, match="no space"):
        driver.settle()
    notes.disk_is_full = False
    node.events.append(BundleDue())
    driver.settle()
    assert notes.made == []
    assert node.stored == 0


async def test_the_machine_is_woken_at_its_deadline(autojump_clock: MockClock) -> None:
    node, _, driver = driven()
    node.timeout = trio.current_time() + 7
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            driver.settle()
    assert node.woken == [pytest.approx(autojump_clock.current_time() - 100 + 7, abs=0.01)]


async def test_an_earlier_deadline_wakes_the_sleeper_and_a_later_one_does_not(autojump_clock: MockClock) -> None:
    rung: list[float] = []
    alarm = Alarm(trio.current_time)
    start = trio.current_time()
    with trio.move_on_after(100):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarm.run, lambda: rung.append(round(trio.current_time() - start, 1)))
            alarm.set(start + 50)
            await trio.sleep(1)
            alarm.set(start + 5)
            await trio.sleep(10)
            alarm.set(start + 20)
            await trio.sleep(1)
            alarm.set(start + 30)
            alarm.set(None)
            alarm.set(start + 40)
    assert rung == [5.0, 40.0]


async def test_a_deadline_that_is_over_rings_at_once(autojump_clock: MockClock) -> None:
    rung: list[float] = []
    alarm = Alarm(trio.current_time)
    alarm.set(trio.current_time() - 5)
    before = trio.current_time()
    with trio.move_on_after(1):
        await alarm.run(lambda: rung.append(trio.current_time()))
    assert rung == [before]
