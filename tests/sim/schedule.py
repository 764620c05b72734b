"""Virtual time: a heap of things to do, each at its instant, in the order in which they were asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from fabric.core.machine import Instant

Action = Callable[[], None]


class Appointment:
    """One thing to do; cancelling it costs nothing, the heap drops it when its time comes."""

    __slots__ = ("_action", "when")

    def __init__(self, when: Instant, action: Action) -> None:
        self.when = when
        self._action: Action | None = action

    @property
    def is_pending(self) -> bool:
        return self._action is not None

    def cancel(self) -> None:
        self._action = None

    def keep(self) -> None:
        if (action := self._action) is not None:
            self._action = None
            action()


MAX_STEPS_AN_INSTANT = 100_000
"""More without time passing, and something asks to be woken at once for ever."""


class Schedule:
    """Runs actions in order of time. `now` starts above zero, as the clock of a host that has been up for a while."""

    def __init__(self, start: Instant = 1000.0) -> None:
        self.now = start
        self.steps = 0
        self._steps_now = 0
        self.after_step: Action | None = None
        self._heap: list[tuple[Instant, int, Appointment]] = []
        self._asked = 0

    def at(self, when: Instant, action: Action) -> Appointment:
        """Does `action` at `when`, or at once (behind what is already due) if that has passed."""
        appointment = Appointment(max(when, self.now), action)
        self._asked += 1
        heapq.heappush(self._heap, (appointment.when, self._asked, appointment))
        return appointment

    def after(self, delay_s: float, action: Action) -> Appointment:
        return self.at(self.now + delay_s, action)

    def run_until(self, deadline: Instant) -> None:
        """Does everything that is due up to `deadline`, and leaves the clock there."""
        while self._heap and self._heap[0][0] <= deadline:
            self._step()
        self.now = max(self.now, deadline)

    def run_for(self, lifetime_s: float) -> None:
        self.run_until(self.now + lifetime_s)

    def run_until_true(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Stops as soon as `condition` holds; returns False if it does not within `within_s`."""
        deadline = self.now + within_s
        while not condition():
            if not self._heap or self._heap[0][0] > deadline:
                self.now = deadline
                return condition()
            self._step()
        return True

    def _step(self) -> None:
        when, _, appointment = heapq.heappop(self._heap)
        if when > self.now:
            self.now, self._steps_now = when, 0
        self._steps_now += 1
        assert self._steps_now < MAX_STEPS_AN_INSTANT, f"time stands still at {self.now}"
        self.steps += 1
        appointment.keep()
        if self.after_step is not None:
            self.after_step()
