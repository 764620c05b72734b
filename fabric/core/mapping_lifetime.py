"""How long an idle UDP mapping lives (RFC 5780 section 4.6): one that is let alone, and then asked for from elsewhere.

    socket 2 -> server          makes a mapping, or wakes it; the server tells its outside port X
    ... silence of T seconds on socket 2 ...
    socket 1 -> server          "answer to port X"
    server -> X -> socket 2     arrives where the mapping still stands

T grows as long as answers arrive. A first test without silence shows that server and NAT let this be measured at all.
Loss looks like expiry. So a T at which nothing arrives is tried again, and counts only if the server is heard then.
"""

from __future__ import annotations

import enum
from dataclasses import replace

from fabric.core.binding_query import BindingQueries, BindingQuery, Outcome
from fabric.core.machine import Draw, Instant, Transmit
from fabric.wire.address import Address

LADDER_S = (25.0, 45.0, 90.0, 180.0)
"""Below 30 s (the shortest mappings seen), 60 s, 120 s (RFC 4787 REQ-5) and a little more than what keepalives need."""

PAUSES_S = (0.25, 0.5, 1.0, 1.0, 1.0, 2.0)
"""Six tries: with 30 % loss each way, twice in a row none gets through in 1 of 3000 tests."""

ASKING_SOCKET = 1
SILENT_SOCKET = 2
START_S = 10.0
"""After a look: its own use of socket 2 is over, and the first seconds are for connecting."""

REST_S = 3600.0
"""Routers are replaced and set differently; slowly."""

RETRY_S = 300.0
"""After a test that the network broke off."""


class _Step(enum.Enum):
    IDLE = enum.auto()
    RESTING = enum.auto()
    OPENING = enum.auto()
    WAITING = enum.auto()
    TESTING = enum.auto()


class MappingLifetime:
    """`lifetime_s`: a mapping idle for so long stood still; None where that isn't known."""

    def __init__(self, draw: Draw) -> None:
        self._queries = BindingQueries(draw)
        self._server: Address  # from the first `begin`
        self._port = 0
        self._rung = 0
        self._misses = 0
        self._is_measurable = False
        self.forget()

    def forget(self) -> None:
        """The network is another one."""
        self.lifetime_s: float | None = None
        self.stop()

    def stop(self) -> None:
        """Socket 2 is used for something else: what was found is kept, what is under way isn't."""
        self._queries.forget_all()
        self._step = _Step.IDLE
        self._at: Instant | None = None

    def begin(self, server: Address, now: Instant) -> None:
        self.stop()
        self._server = server
        self._rest(START_S, now)

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        """Raises `DecodeError` for what is no answer to a question of this machine."""
        self._advance(self._queries.handle_datagram_untrusted(source, payload), now)

    def handle_timeout(self, now: Instant) -> None:
        for query in self._queries.handle_timeout(now):
            self._advance(query, now)
        if self._at is None or self._at > now:
            return
        self._at = None
        if self._step is _Step.RESTING:
            self._rung, self._misses, self._is_measurable = 0, 0, False
            self._open(now)
        elif self._step is _Step.WAITING:
            self._test(now)

    def next_timeout(self) -> Instant | None:
        asking = self._queries.next_timeout()
        if self._at is None or asking is None:
            return asking if self._at is None else self._at
        return min(self._at, asking)

    def poll_transmit(self) -> Transmit | None:
        return self._queries.poll_transmit()

    # within

    def _advance(self, query: BindingQuery, now: Instant) -> None:
        if self._step is _Step.OPENING:
            self._handle_opened(query, now)
        elif self._step is _Step.TESTING:
            self._handle_tested(is_alive=query.outcome is Outcome.ANSWERED, now=now)

    def _rest(self, for_s: float, now: Instant) -> None:
        self._step, self._at = _Step.RESTING, now + for_s

    def _open(self, now: Instant) -> None:
        self._step = _Step.OPENING
        self._queries.ask(replace(self._server, via=SILENT_SOCKET), now, pauses_s=PAUSES_S)

    def _handle_opened(self, query: BindingQuery, now: Instant) -> None:
        if query.seen is None:
            self._rest(RETRY_S, now)
        elif self._misses == 2:  # the server is heard: it was the mapping that was gone, twice
            self.lifetime_s = LADDER_S[self._rung - 1] if self._rung else None
            self._rest(REST_S, now)
        else:
            self._port = query.seen.port
            self._step, self._at = _Step.WAITING, now + (LADDER_S[self._rung] if self._is_measurable else 0.0)

    def _test(self, now: Instant) -> None:
        self._step = _Step.TESTING
        asked = replace(self._server, via=ASKING_SOCKET)
        heard = replace(self._server, via=SILENT_SOCKET)
        self._queries.ask(asked, now, answer_from=heard, response_port=self._port, pauses_s=PAUSES_S)

    def _handle_tested(self, *, is_alive: bool, now: Instant) -> None:
        if not is_alive:
            self._misses += 1
        else:
            self._misses = 0
            if self._is_measurable:
                self.lifetime_s = max(self.lifetime_s or 0.0, LADDER_S[self._rung])
                self._rung += 1
            self._is_measurable = True
        if self._rung == len(LADDER_S) or (self._misses == 2 and not self._is_measurable):
            self._rest(REST_S, now)
        else:
            self._open(now)
