"""Moves frames and datagrams between the kernel and the lane: one task a file descriptor, a batch a wakeup.

    TAP --read_batch--> lane.handle_frames ----> take_datagrams --send_batch--> carriers: UDP, TCP, relays
    carriers --readers, receive--> lane.handle_datagrams --> take_frames --write_batch--> TAP
                                     |--> not DATA: on_leftover      |--> traffic, controls: on_reports

No frame crosses an await or a channel; what a wakeup finds is bounded, then every other task has its turn. A full
UDP queue stops the reading of the TAP, so that the kernel's own queue there tells the senders to slow down. TCP and
relays over TLS never stop it: what finds no room there is dropped, for it would hold up the frames of all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import trio

from fabric.core.machine import Instant
from fabric.dataplane.contract import Control, Drop, Traffic
from fabric.shell.clock import now
from fabric.shell.lane_threads import LaneThreads
from fabric.shell.tap import BATCH, Tap
from fabric.shell.udp import Reader, TooLong
from fabric.wire.address import Address, Target, Transport
from fabric.wire.datagram import DATA_TYPE

OnLeftover = Callable[[Sequence[tuple[bytes, Target]]], None]
OnReports = Callable[[Sequence[Traffic], Sequence[Control]], None]
OnTooLong = Callable[[Sequence[TooLong]], None]

STALL_S = 0.1
"""A UDP queue that stays full for so long is not busy but stuck: what waits for it is dropped."""

AGE_INTERVAL_S = 1.0
"""Between two looks at what is old, unless the lane wants one earlier."""

REPORT_INTERVAL_S = 0.02
"""Core looks at every peer when it is told something: under load that is for fifty times a second, not for each
batch. What can't wait (see `HotLane.is_urgent`) is told at once, and so is what comes after a pause."""

_DATA = bytes((DATA_TYPE,))


class HotLane(Protocol):
    """The side of a lane that is touched per batch; `dataplane.reference` says what each verb does."""

    def handle_frames(self, frames: Sequence[bytes], now: Instant) -> None: ...

    def handle_datagrams(self, batch: Sequence[tuple[bytes, Target]], now: Instant) -> list[tuple[bytes, Target]]: ...

    def handle_asks(self, now: Instant) -> list[tuple[bytes, Target]]: ...

    def take_too_long(self) -> list[TooLong]: ...

    def take_datagrams(self) -> list[tuple[bytes, Target]]: ...

    def take_frames(self) -> list[bytes]: ...

    @property
    def is_urgent(self) -> bool: ...

    def take_controls(self) -> list[Control]: ...

    def take_traffic(self) -> list[Traffic]: ...

    def handle_timeout(self, now: Instant) -> None: ...

    def next_timeout(self) -> Instant | None: ...

    def count_drop(self, reason: Drop, count: int) -> None: ...


class Guard(Protocol):
    """Against floods; see `flood_guard`."""

    @property
    def is_behind(self) -> bool: ...

    def look(self, now: Instant) -> None: ...


class Ways(Protocol):
    """The ways that datagrams come and go; see `carriers`."""

    @property
    def readers(self) -> Sequence[Reader]: ...

    @property
    def drops(self) -> Counter[Drop]: ...

    def send_batch(self, batch: Sequence[tuple[bytes, Target]], start: int = 0) -> int: ...

    async def wait_writable(self, target: Target) -> None: ...

    def vouch(self, sources: Collection[Address]) -> None: ...

    @property
    def has_too_long(self) -> bool: ...

    def take_too_long(self) -> list[TooLong]: ...


class Pump:
    """`on_leftover`, `on_reports` and `on_too_long` are called between batches, and may steer the lane.

    Traffic comes before controls. `on_too_long` hears what this host's own devices refused to carry. With `threads`,
    device and main sockets are theirs; here is what they leave: the other ways, questions, reports.
    """

    def __init__(
        self,
        lane: HotLane,
        tap: Tap,
        ways: Ways,
        on_leftover: OnLeftover,
        on_reports: OnReports,
        on_too_long: OnTooLong = lambda _refused: None,
        threads: LaneThreads | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._lane = lane
        self._tap = tap
        self._ways = ways
        self._on_leftover = on_leftover
        self._on_reports = on_reports
        self._on_too_long = on_too_long
        self._threads = threads
        self._guard = guard
        self._report_due: Instant = 0.0
        self._untold = trio.Event()
        self._age_due: Instant = 0.0
        self._until_age = trio.CancelScope()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; raises `OSError` where the device is taken away."""
        async with trio.open_nursery() as nursery:
            if self._threads is not None:
                await nursery.start(self._threads.run, self._answer, self._tell_now, REPORT_INTERVAL_S)
            else:
                nursery.start_soon(self._pump_tap)
            taken = self._threads.sockets if self._threads is not None else ()
            for reader in self._ways.readers:
                if reader[0] not in taken:
                    nursery.start_soon(self._pump_in, reader)
            nursery.start_soon(self._age)
            nursery.start_soon(self._tell_late)
            task_status.started()

    def flush(self) -> None:
        """Sends and delivers what the lane holds, without waiting: to be called after core has steered the lane."""
        self._deliver()
        batch = self._lane.take_datagrams()
        if batch:
            unsent = len(batch) - self._ways.send_batch(batch)
            self._count(Drop.BACKPRESSURE, unsent)
        if self._ways.has_too_long or (self._guard is not None and self._guard.is_behind):
            self._untold.set()  # core, which may be the caller, hears of it later
        self._settle_drops()

    def receive(self, batch: Sequence[tuple[bytes, Target]]) -> None:
        """Takes a batch of datagrams, from wherever they came."""
        instant = now()
        leftovers = self._lane.handle_datagrams(batch, instant)
        self._deliver()
        self._age_in_time(instant)
        self._pass_on(leftovers, instant)
        self._report(instant)

    def _answer(self) -> None:
        """Does what the threads ask for."""
        instant = now()
        leftovers = self._lane.handle_asks(instant)
        self.flush()
        self._pass_on(leftovers, instant)
        self._report(instant)

    def _pass_on(self, leftovers: list[tuple[bytes, Target]], instant: Instant) -> None:
        """What the threads leave may be from a relay: the DATA that it has wrapped is the lane's after all."""
        while leftovers and self._threads is not None:
            came = self._threads.sort(leftovers)
            data = [each for each in came if each[0].startswith(_DATA)]
            if len(data) < len(came):
                self._on_leftover([each for each in came if not each[0].startswith(_DATA)])
            leftovers = self._lane.handle_datagrams(data, instant) if data else []
            self._deliver()
            self._age_in_time(instant)
        if leftovers:
            self._on_leftover(leftovers)

    def _tell_now(self) -> None:
        self._tell([], now())

    async def _pump_tap(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._tap.fd)
            while frames := self._tap.read_batch():
                instant = now()
                self._lane.handle_frames(frames, instant)
                await self._send()
                self._deliver()
                self._report(instant)
                if not self._tap.has_more:
                    break
                await trio.lowlevel.checkpoint()

    async def _pump_in(self, reader: Reader) -> None:
        readable, receive_batch = reader
        while True:
            await trio.lowlevel.wait_readable(readable)
            while batch := receive_batch():
                self.receive(batch)
                if len(batch) < BATCH:
                    break
                await trio.lowlevel.checkpoint()

    async def _age(self) -> None:
        """Delivers what the lane holds back for a moment, and has it free memory, for which nobody waits."""
        while True:
            instant = now()
            self._age_due = instant + AGE_INTERVAL_S
            with trio.CancelScope(deadline=trio.current_time() + AGE_INTERVAL_S) as self._until_age:
                self._age_in_time(instant)
                await trio.sleep_forever()
            instant = now()
            self._look(instant)
            deadline = self._lane.next_timeout()
            if deadline is not None and deadline <= instant:
                self._lane.handle_timeout(instant)
                self._deliver()

    def _age_in_time(self, instant: Instant) -> None:
        """Moves the next look at what is old forward, where the lane wants it. Under load that is seldom: what was
        due in five milliseconds is so for that long."""
        deadline = self._lane.next_timeout()
        if deadline is not None and deadline < self._age_due:
            self._age_due = deadline
            self._until_age.deadline = trio.current_time() + max(0.0, deadline - instant)

    async def _send(self) -> None:
        batch = self._lane.take_datagrams()
        done = self._ways.send_batch(batch)
        while done < len(batch):
            with trio.move_on_after(STALL_S) as patience:
                await self._ways.wait_writable(batch[done][1])
            if patience.cancelled_caught:
                self._count(Drop.BACKPRESSURE, len(batch) - done)
                return
            done = self._ways.send_batch(batch, done)

    def _deliver(self) -> None:
        frames = self._lane.take_frames()
        if frames:
            self._tap.write_batch(frames)

    def _report(self, instant: Instant) -> None:
        """Tells core what has happened, now or within `REPORT_INTERVAL_S`."""
        controls = self._lane.take_controls()
        if controls or self._lane.is_urgent or instant >= self._report_due or self._ways.has_too_long:
            self._tell(controls, instant)
        else:
            self._untold.set()

    async def _tell_late(self) -> None:
        while True:
            await self._untold.wait()
            await trio.sleep(REPORT_INTERVAL_S)
            self._untold = trio.Event()
            self._tell([], now())
            if self._guard is not None and self._guard.is_behind:
                self._untold.set()

    def _tell(self, controls: Sequence[Control], instant: Instant) -> None:
        self._report_due = instant + REPORT_INTERVAL_S
        too_long = [*self._ways.take_too_long(), *self._lane.take_too_long()]
        if too_long:
            self._on_too_long(too_long)
        traffic = self._lane.take_traffic()
        if traffic or controls:
            self._vouch(traffic, controls)
            self._on_reports(traffic, controls)
            self.flush()
        else:
            self._settle_drops()
        self._look(instant)

    def _look(self, instant: Instant) -> None:
        if self._guard is not None:
            self._guard.look(instant)

    def _vouch(self, traffic: Sequence[Traffic], controls: Sequence[Control]) -> None:
        """A record that opened shows who speaks on a connection, before core answers on it."""
        sources = [*(report.source for report in traffic), *(control.source for control in controls)]
        connections = {source for source in sources if source is not None and source.transport is Transport.TCP}
        if connections:
            self._ways.vouch(connections)

    def _settle_drops(self) -> None:
        for drops in (self._ways.drops, self._tap.drops):
            if drops:
                self._take(drops)

    def _take(self, drops: Counter[Drop]) -> None:
        for reason, count in drops.items():
            self._count(reason, count)
        drops.clear()

    def _count(self, reason: Drop, count: int) -> None:
        if count:
            self._lane.count_drop(reason, count)
