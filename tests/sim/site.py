"""Where the discovery service runs: its lines to endpoints, its clock, and whether it is there at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fabric.core.machine import Instant, drain
from fabric.wire.rendezvous import ToEndpoint, ToService, encode_message
from tests.sim.endpoint import Endpoint
from tests.sim.line import OPENING_S, Line
from tests.sim.schedule import Appointment, Schedule


class Desk(Protocol):
    """The service as a machine: the product's own, or the introducer of this world."""

    def handle_connected(self, connection: int, now: Instant, source: str) -> None: ...

    def handle_message(self, connection: int, message: ToService, now: Instant) -> None: ...

    def handle_lost(self, connection: int, now: Instant) -> None: ...

    def handle_timeout(self, now: Instant) -> None: ...

    def next_timeout(self) -> Instant | None: ...

    def poll_message(self) -> tuple[int, ToEndpoint] | None: ...

    def poll_close(self) -> int | None: ...


class Site:
    """`rewrite` may change each message to an endpoint, or swallow it, as a compromised service can."""

    def __init__(self, desk: Desk, tls_certificate: bytes, schedule: Schedule) -> None:
        self.desk = desk
        self.tls_certificate = tls_certificate
        self.is_up = True
        self.rewrite: Callable[[ToEndpoint], ToEndpoint | None] = lambda message: message
        self.overhear: Callable[[bytes], None] | None = None
        """Is told the bytes of each message that comes in."""
        self._schedule = schedule
        self._lines: dict[int, Line] = {}
        self._opened = 0
        self._wake: Appointment | None = None

    def open_line(self, endpoint: Endpoint, opened: Callable[[Line | None], None]) -> None:
        def finish() -> None:
            if not self.is_up or not endpoint.is_online:
                opened(None)
                return
            self._opened += 1
            line = self._lines[self._opened] = Line(self._opened, self._schedule, endpoint, self)
            opened(line)
            self.desk.handle_connected(line.number, self._schedule.now, endpoint.outside_ip)
            self.settle()

        self._schedule.after(OPENING_S, finish)

    def go_down(self) -> None:
        """The service is stopped: its kernel closes every connection."""
        self.is_up = False
        for line in list(self._lines.values()):
            line.close_by_service()
            self.desk.handle_lost(line.number, self._schedule.now)
        self._lines.clear()
        self._arm()

    def come_back(self) -> None:
        self.is_up = True
        self.settle()

    def handle_line_message(self, line: Line, message: ToService) -> None:
        if line.number in self._lines:
            if self.overhear is not None:
                self.overhear(encode_message(message))
            self.desk.handle_message(line.number, message, self._schedule.now)
            self.settle()

    def handle_line_lost(self, line: Line) -> None:
        if self._lines.pop(line.number, None) is not None:
            self.desk.handle_lost(line.number, self._schedule.now)
            self.settle()

    def settle(self) -> None:
        """Sends what the service has to say, and arms its next timeout."""
        for connection, message in drain(self.desk.poll_message):
            said = self.rewrite(message)
            if said is not None and connection in self._lines:
                self._lines[connection].say_to_endpoint(said)
        for connection in drain(self.desk.poll_close):
            if (line := self._lines.pop(connection, None)) is not None:
                line.close_by_service()
                self.desk.handle_lost(connection, self._schedule.now)
        self._arm()

    def _arm(self) -> None:
        due = self.desk.next_timeout() if self.is_up else None
        if self._wake is not None:
            self._wake.cancel()
        self._wake = None if due is None else self._schedule.at(due, self._handle_wake)

    def _handle_wake(self) -> None:
        self.desk.handle_timeout(self._schedule.now)
        self.settle()
