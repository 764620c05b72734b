"""Drives the pure service: after every call its messages leave, what is to be closed is closed, events are logged."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from discovery.core import events
from discovery.core.channel import ServiceIdentity
from discovery.core.service import Service
from discovery.shell.relay import RelayDriver
from discovery.shell.store_sqlite import DATABASE_FILE, SqliteStore
from fabric.core.machine import Calendar, Instant, drain
from fabric.errors import DecodeError, FabricError
from fabric.shell import clock
from fabric.shell.driver import Alarm
from fabric.shell.log import Log
from fabric.wire.rendezvous import (
    EnrolmentAnswer,
    EnrolmentRefusal,
    EnrolmentRequest,
    ToEndpoint,
    decode_to_service,
    encode_message,
)

OUTBOX_MESSAGES = 8192
"""Introductions to all peers of the largest mesh wait for a slow reader; with one more its channel is closed."""

STORE_POLL_S = 0.1
"""How soon what the command line changed takes effect. Asking costs some microseconds."""

_log = Log("discovery.service")


@dataclass(frozen=True, slots=True)
class Line:
    """One open channel: `inbox` gives what is to be written, and ends when the channel is to be closed."""

    connection: int
    inbox: trio.MemoryReceiveChannel[bytes]


class StoreFailedError(FabricError):
    """The store takes no more changes: the disk is full, or broken."""


class ServiceDriver:
    """All calls into the service go through here. Once the store has failed nothing is said any more, and `run`
    ends: who can't remember must not promise."""

    def __init__(
        self,
        service: Service,
        store: SqliteStore,
        calendar: Calendar,
        relay: RelayDriver | None = None,
        now: Callable[[], Instant] = clock.now,
        wall_offset: Callable[[], float] = clock.wall_offset,
    ) -> None:
        self.service = service
        self._store = store
        self._calendar = calendar
        self._relay = relay
        self._clock = now
        self._wall_offset = wall_offset
        self._alarm = Alarm(now)
        self._numbers = itertools.count(1)
        self._outboxes: dict[int, trio.MemorySendChannel[bytes]] = {}
        self._failure: sqlite3.Error | None = None
        self._failed = trio.Event()

    def open(self, source: str, identity: ServiceIdentity) -> Line:
        """A channel was opened from this IP address, over TLS with this certificate."""
        connection = next(self._numbers)
        outbox, inbox = trio.open_memory_channel[bytes](OUTBOX_MESSAGES)
        self._outboxes[connection] = outbox
        with self._settled() as now:
            self.service.handle_connected(connection, now, source, identity)
        return Line(connection, inbox)

    def handle_message_untrusted(self, line: Line, data: bytes) -> float:
        """Acts on what came over the channel; returns how many seconds to wait before reading on.

        Raises `DecodeError` for bytes that are no message: close the channel.
        """
        try:
            message = decode_to_service(data)
        except DecodeError:
            self.service.counters["undecodable"] += 1
            raise
        with self._settled() as now:
            self.service.handle_message(line.connection, message, now)
        return max(0.0, self.service.may_read(line.connection) - now)

    def close(self, line: Line) -> None:
        """The channel is gone."""
        with self._settled() as now:
            self.service.handle_lost(line.connection, now)
            self._hang_up(line.connection)

    def enrol(
        self, request: EnrolmentRequest, source: str, identity: ServiceIdentity
    ) -> EnrolmentAnswer | EnrolmentRefusal:
        with self._settled() as now:
            return self.service.handle_enrolment(request, source, now, identity)

    async def run(self) -> None:
        """Wakes the service at its timeouts, and when another process changed the store; for ever.

        Raises `StoreFailedError`.
        """
        self._settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarm.run, self._ring)
            nursery.start_soon(self._watch_store)
            await self._failed.wait()
            raise StoreFailedError(f"{DATABASE_FILE} takes no more changes: {self._failure}") from self._failure

    async def _watch_store(self) -> None:
        while True:
            await trio.sleep(STORE_POLL_S)
            if self._store.has_changed():
                with self._settled() as now:
                    self.service.handle_store_changed(now)

    def _ring(self) -> None:
        with self._settled() as now:
            self.service.handle_timeout(now)

    @contextmanager
    def _settled(self) -> Iterator[Instant]:
        """Around every call into the service: gives it the time, and drains it afterwards."""
        try:
            yield self._now()
        except sqlite3.Error as error:
            self._failure = self._failure or error
            self._failed.set()
            raise
        self._settle()

    def _now(self) -> Instant:
        """Every call sees the wall clock as it is now: it may have been set since the last one."""
        self._calendar.offset = self._wall_offset()
        return self._clock()

    def _settle(self) -> None:
        if self._failure is not None:
            return
        for connection, message in drain(self.service.poll_message):
            self._post(connection, message)
        for connection in drain(self.service.poll_close):
            self._hang_up(connection)
        happened: Iterator[events.Event] = drain(self.service.poll_event)
        for event in happened:
            log_event(event)
            self._tell_relay(event)
        self._alarm.set(self.service.next_timeout())

    def _tell_relay(self, event: events.Event) -> None:
        """The relay in this process drops at once whom the service no longer introduces."""
        if self._relay is None:
            return
        match event:
            case events.PairEnded(pair):
                self._relay.withdraw(pair)
            case events.EndpointRevoked(public_key=public_key):
                self._relay.revoke(public_key)

    def _post(self, connection: int, message: ToEndpoint) -> None:
        outbox = self._outboxes.get(connection)
        if outbox is None:
            return
        try:
            outbox.send_nowait(encode_message(message))
        except (trio.WouldBlock, trio.BrokenResourceError):
            self.service.counters["slow_reader"] += 1
            self.service.handle_lost(connection, self._clock())
            self._hang_up(connection)

    def _hang_up(self, connection: int) -> None:
        """What is queued is still written; then the channel ends."""
        outbox = self._outboxes.pop(connection, None)
        if outbox is not None:
            outbox.close()


def log_event(event: events.Event) -> None:
    """One line for each. What strangers do is counted, and shown at `debug` only: they must not fill a log."""
    match event:
        case events.Enrolled(name=name, key_id=key_id):
            _log.info("endpoint enrolled", name=name, key=key_id)
        case events.EnrolmentRefused(key_id=key_id, source=source, why=why, is_proven=is_proven):
            (_log.warning if is_proven else _log.debug)("enrolment refused", key=key_id, source=source, why=why)
        case events.EndpointConnected(name=name, source=source):
            _log.info("endpoint connected", name=name)
            _log.debug("endpoint connected from", name=name, source=source)
        case events.EndpointLost(name=name):
            _log.info("endpoint gone", name=name)
        case events.ChannelRejected(source=source, name=name, why=why):
            (_log.warning if name else _log.debug)("channel closed", name=name, source=source, why=why)
        case events.Renewed(name=name):
            _log.info("certificate renewed", name=name)
        case events.Introduced(one=one, other=other):
            _log.info("introduced", one=one, other=other)
        case events.PairEnded():
            _log.debug("pair ended")
        case _:
            _log_of_authority(event)


def _log_of_authority(event: events.Event) -> None:
    match event:
        case events.KeyGuessed(key_id=key_id):
            _log.warning("many wrong secrets are tried for an enrolment key", key=key_id)
        case events.SignatureAwaited(name=name, number=number, is_renewal=is_renewal):
            what = "renewal" if is_renewal else "enrolment"
            _log.warning(f"{what} waits for the authority: discoveryd requests", name=name, request=number)
        case events.ListAwaited(count=count):
            _log.warning("revocations wait for a list that the authority has signed", count=count)
        case events.EndpointRevoked(name=name):
            _log.info("endpoint revoked", name=name)
        case events.RenewalAlarm(name=name, sources=(first, second)):
            _log.error(
                "ALARM: two hosts hold the key of this endpoint; it is revoked", name=name, first=first, second=second
            )
        case events.RevocationsIssued(number=number, count=count):
            _log.info("revocation list issued", number=number, entries=count)
