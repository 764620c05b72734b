"""Drives a relay: what comes over WebSockets, what goes out by either transport, its deadlines.

What waits for a slow WebSocket is bounded, and the oldest is dropped, as a network would: a frame that comes late
is worth nothing, and one reader never makes another wait.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from discovery.core.binding import Source
from discovery.core.limits import OpenCount, Rate, SourceBuckets
from discovery.core.relay import Relay, RelaySettings
from discovery.shell.config import Config
from fabric.core.machine import Calendar, Instant, drain
from fabric.identity.trust import Trust
from fabric.shell import clock
from fabric.shell.driver import Alarm
from fabric.wire.address import Address, Transport
from fabric.wire.relay import RELAYED_TYPE

MAX_WAITING = 128
"""Datagrams for one WebSocket: with 1,400 bytes each, a seventh of a second at 10 Mbit/s."""

MAX_BATCH = 32
"""Of them written at once: some three TLS records."""

MAX_PLACES = 1024
"""Addresses of this host that were asked; more than a host has."""

UNBOUND_S = 10.0
"""A WebSocket over which nothing is bound is closed after this long."""

_RELAYED = bytes((RELAYED_TYPE,))


@dataclass(slots=True)
class RelayLine:
    """One WebSocket. `waiting` has what is to be written, the oldest first; `dropped` counts what gave way."""

    address: Address
    source: Source
    place: int
    waiting: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_WAITING))
    dropped: int = 0
    _filled: trio.Event = field(default_factory=trio.Event)

    def put(self, payload: bytes) -> None:
        if len(self.waiting) == MAX_WAITING:
            self.dropped += 1
        self.waiting.append(payload)
        self._filled.set()

    async def get_batch(self) -> list[bytes]:
        """Returns the oldest ones, as soon as there is any."""
        while not self.waiting:
            self._filled = trio.Event()
            await self._filled.wait()
        return [self.waiting.popleft() for _ in range(min(len(self.waiting), MAX_BATCH))]


def make_relay_driver(trust: Trust, config: Config, calendar: Calendar) -> RelayDriver:
    settings = RelaySettings(max_bindings=config.relay_max_bindings)
    relay = Relay(trust, trust.network, os.urandom, calendar, settings, clock.now())
    return RelayDriver(
        relay,
        calendar,
        OpenCount(per_source=config.max_channels_per_source, overall=config.max_channels),
        SourceBuckets(Rate(config.channel_rate, config.channel_burst)),
    )


class RelayDriver:
    """All but the hot path of UDP goes through here (see `datagrams`, which sets `send_udp`)."""

    def __init__(
        self,
        relay: Relay,
        calendar: Calendar,
        open_count: OpenCount,
        openings: SourceBuckets,
        now: Callable[[], Instant] = clock.now,
        wall_offset: Callable[[], float] = clock.wall_offset,
    ) -> None:
        self.relay = relay
        self.send_udp: Callable[[Source, bytes], None] = lambda _to, _payload: None
        self._calendar = calendar
        self._open = open_count
        self._openings = openings
        self._clock = now
        self._wall_offset = wall_offset
        self._alarm = Alarm(now)
        self._lines: dict[int, RelayLine] = {}
        self._numbers = itertools.count(1)
        self._places: dict[str, int] = {}

    async def run(self) -> None:
        """Wakes the relay at its deadlines, for ever."""
        await self._alarm.run(self._ring)

    def handle_datagram_untrusted(self, source: Address, payload: bytes, place: int = 0) -> None:
        now = self._clock()
        self._calendar.offset = self._wall_offset()
        self.relay.handle_datagram(source, payload, now, place)
        self._settle()

    def post(self, to: Source, payload: bytes) -> None:
        """Sends, or drops where there is no room."""
        if to[2] is Transport.RELAY_UDP:
            self.send_udp(to, payload)
        elif (line := self._lines.get(to[3])) is not None:
            line.put(payload)

    # who may no longer

    def withdraw(self, pair: bytes) -> None:
        self._calendar.offset = self._wall_offset()
        self.relay.withdraw(pair, self._clock())
        self._settle()

    def revoke(self, holder: bytes) -> None:
        self._calendar.offset = self._wall_offset()
        self.relay.revoke(holder, self._clock())
        self._settle()

    # WebSockets

    def open(self, ip: str, port: int, asked: str) -> RelayLine | None:
        """A WebSocket from there, to this address of ours; None where there are too many."""
        if not self._openings.take(ip, self._clock()) or not self._open.enter(ip):
            self.relay.counters["line_limit"] += 1
            return None
        number = next(self._numbers)
        address = Address(ip, port, Transport.RELAY_TLS, number)
        line = RelayLine(address, (ip, port, Transport.RELAY_TLS, number), self._place(asked))
        self._lines[number] = line
        return line

    def handle_message_untrusted(self, line: RelayLine, payload: bytes) -> None:
        """Acts on one message, which is what over UDP is one datagram."""
        if payload[:1] != _RELAYED:
            self.handle_datagram_untrusted(line.address, payload, line.place)
            return
        for to, forwarded in self.relay.forward(line.source, payload, self._clock()):
            self.post(to, forwarded)

    def is_bound(self, line: RelayLine) -> bool:
        return self.relay.is_bound(line.address)

    def close(self, line: RelayLine) -> None:
        """The WebSocket is gone."""
        if self._lines.pop(line.address.via, None) is not None:
            self._open.leave(line.address.ip)
            self.relay.handle_lost(line.address)
            self.relay.counters["line_dropped"] += line.dropped

    def _place(self, asked: str) -> int:
        if len(self._places) >= MAX_PLACES:
            return self._places.get(asked, 0)
        return self._places.setdefault(asked, len(self._places))

    def _ring(self) -> None:
        self._calendar.offset = self._wall_offset()
        self.relay.handle_timeout(self._clock())
        self._settle()

    def _settle(self) -> None:
        for transmit in drain(self.relay.poll_transmit):
            to = transmit.to
            self.post((to.ip, to.port, to.transport, to.via), transmit.payload)
        self._alarm.set(self.relay.next_timeout())
