"""TCP as far as punching and links need it: SYN, simultaneous open, listening, and messages in order, once.

One message is one segment. What is lost is sent again, what overtakes waits, and what is not acknowledged for
`SILENCE_S` ends the connection, as TCP_USER_TIMEOUT does. There is no flow control: who sends too much is cut off.

    connect:  SYN_SENT --SYN,ACK--> ESTABLISHED          listen:  --SYN--> SYN_RECEIVED --ACK--> ESTABLISHED
    both:     SYN_SENT --SYN------> SYN_RECEIVED --SYN,ACK or ACK--> ESTABLISHED     (RFC 9293 section 3.5)
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from fabric.core.machine import Instant
from tests.sim.link import Packet, Segment, Socket
from tests.sim.schedule import Appointment, Schedule

FIRST_TIMEOUT_S = 1.0
"""RFC 6298 section 2.1; doubled at each retransmission."""

LEAST_TIMEOUT_S = 0.2
"""Linux's."""

SILENCE_S = 10.0
MAX_UNACKNOWLEDGED = 256

Accept = Callable[["Connection"], None]


class SegmentSender(Protocol):
    """The host below."""

    def address_towards(self, ip: str) -> str | None: ...

    def send_segment(self, packet: Packet) -> None: ...


class State(enum.Enum):
    SYN_SENT = "syn sent"
    SYN_RECEIVED = "syn received"
    ESTABLISHED = "established"
    CLOSED = "closed"


class Connection:
    """`opened`, `message` and `lost` are called by the stack; whoever has the connection sets them."""

    def __init__(self, stack: Stack, local: Socket, remote: Socket, state: State, patience_s: float) -> None:
        self.local = local
        self.remote = remote
        self.state = state
        self.opened: Callable[[], None] = _nothing
        self.message: Callable[[bytes], None] = _ignore
        self.lost: Callable[[str], None] = _shrug
        self.waits_for_answer = False
        """For whoever asks something over it."""
        self.dropped = 0
        self.pace_s: float | None = None
        """Between SYNs; None: as the kernel does it, twice as long each time."""
        self._stack = stack
        self._schedule = stack.schedule
        self._gives_up = self._schedule.now + patience_s
        self._timeout_s = FIRST_TIMEOUT_S
        self._alarm: Appointment | None = None
        self._next_sent = 0
        self._next_heard = 0
        self._unacknowledged: deque[tuple[int, bytes, bool, Instant]] = deque()
        self._early: dict[int, tuple[bytes, bool]] = {}
        self._repeated = 0
        self._is_closing = False

    def begin(self) -> None:
        self._send_syn()

    def send(self, payload: bytes) -> None:
        """Drops what a link that hangs can't take: stale frames are worth nothing."""
        if self.state is not State.ESTABLISHED or len(self._unacknowledged) >= MAX_UNACKNOWLEDGED:
            self.dropped += 1
            return
        self._queue(payload, fin=False)

    def close(self) -> None:
        """What was sent still arrives, if the other side is there."""
        self.opened, self.message, self.lost = _nothing, _ignore, _shrug
        if self._is_closing:
            return
        self._is_closing = True
        if self.state is State.ESTABLISHED:
            self._queue(b"", fin=True)
        else:
            self._end()

    def handle_segment(self, segment: Segment, payload: bytes) -> None:
        if segment.reset:
            self._fail("refused" if self.state is not State.ESTABLISHED else "reset")
        elif self.state is State.SYN_SENT and segment.syn and segment.ack is None:
            self.state = State.SYN_RECEIVED
            self._send_syn()
        elif self.state is State.SYN_SENT and not segment.syn:
            self._send(Segment(reset=True))  # the other side still has an older connection (RFC 5961 section 4)
        elif self.state in (State.SYN_SENT, State.SYN_RECEIVED) and segment.ack is not None:
            self._establish()
            self._take(segment, payload)
        elif self.state is State.SYN_RECEIVED and segment.syn:
            self._send(Segment(syn=True, ack=0))
        elif self.state is State.ESTABLISHED:
            self._take(segment, payload)

    # inside

    def _establish(self) -> None:
        self.state = State.ESTABLISHED
        self._timeout_s = FIRST_TIMEOUT_S
        self._cancel()
        self._send(Segment(ack=0))
        self.opened()

    def _take(self, segment: Segment, payload: bytes) -> None:
        if segment.ack is not None:
            self._acknowledge(segment.ack)
        if segment.syn:
            self._send(Segment(ack=self._next_heard))
        if segment.number is None:
            return
        if segment.number >= self._next_heard:
            self._early[segment.number] = payload, segment.fin
        while self.state is State.ESTABLISHED and (heard := self._early.pop(self._next_heard, None)) is not None:
            self._next_heard += 1
            self._deliver(*heard)
        self._send(Segment(ack=self._next_heard))

    def _deliver(self, payload: bytes, fin: bool) -> None:
        if fin:
            self._fail("closed")
        else:
            self.message(payload)

    def _acknowledge(self, upto: int) -> None:
        news = False
        while self._unacknowledged and self._unacknowledged[0][0] < upto:
            since = self._schedule.now - self._unacknowledged.popleft()[3]
            self._timeout_s = max(LEAST_TIMEOUT_S, min(2 * since, SILENCE_S / 4))
            news = True
        if news:
            self._repeated = 0
            self._arm()
            if self._is_closing and not self._unacknowledged:
                self._end()
        elif self._unacknowledged and self._unacknowledged[0][0] == upto:
            self._repeated += 1
            if self._repeated == 3:  # fast retransmit, RFC 5681 section 3.2
                self._repeat()

    def _queue(self, payload: bytes, *, fin: bool) -> None:
        self._unacknowledged.append((self._next_sent, payload, fin, self._schedule.now))
        self._next_sent += 1
        self._send(Segment(ack=self._next_heard, number=self._next_sent - 1, fin=fin), payload)
        if self._alarm is None:
            self._arm()

    def _repeat(self) -> None:
        number, payload, fin, _ = self._unacknowledged[0]
        self._send(Segment(ack=self._next_heard, number=number, fin=fin), payload)

    def _arm(self) -> None:
        self._cancel()
        if self._unacknowledged:
            self._alarm = self._schedule.after(self._timeout_s, self._handle_alarm)

    def _handle_alarm(self) -> None:
        self._alarm = None
        if self._schedule.now - self._unacknowledged[0][3] >= SILENCE_S:
            self._fail("timed out")
            return
        self._timeout_s *= 2
        self._repeat()
        self._arm()

    def _send_syn(self) -> None:
        """Again and again until somebody answers, or patience ends."""
        self._cancel()
        if self.state not in (State.SYN_SENT, State.SYN_RECEIVED):
            return
        if self._schedule.now >= self._gives_up:
            self._fail("timed out")
            return
        self._send(Segment(syn=True, ack=0 if self.state is State.SYN_RECEIVED else None))
        wait_s = min(self.pace_s or self._timeout_s, self._gives_up - self._schedule.now)
        self._timeout_s *= 2
        self._alarm = self._schedule.after(wait_s, self._send_syn)

    def _send(self, segment: Segment, payload: bytes = b"") -> None:
        self._stack.host.send_segment(Packet(self.local, self.remote, payload, segment=segment))

    def _fail(self, why: str) -> None:
        lost = self.lost
        self._end()
        lost(why)

    def _end(self) -> None:
        self.state = State.CLOSED
        self._cancel()
        self._stack.forget(self)

    def _cancel(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None


class Stack:
    """The connections of one host. Nothing here costs anything before the first use."""

    def __init__(self, host: SegmentSender, schedule: Schedule) -> None:
        self.host = host
        self.schedule = schedule
        self._listeners: dict[int, Accept] = {}
        self._connections: dict[tuple[Socket, Socket], Connection] = {}

    def listen(self, port: int, accept: Accept) -> None:
        """`accept` is called with each connection that stands."""
        self._listeners[port] = accept

    def stop_listening(self, port: int) -> None:
        self._listeners.pop(port, None)

    def connect(self, port: int, to: Socket, patience_s: float) -> Connection | None:
        """Returns a connection that is not open yet, or None where there is no way, or one is there already."""
        ip = self.host.address_towards(to[0])
        if ip is None or ((ip, port), to) in self._connections:
            return None
        connection = self._make((ip, port), to, State.SYN_SENT, patience_s)
        self.schedule.after(0.0, partial(_begin, connection))
        return connection

    def handle_packet(self, packet: Packet) -> None:
        assert packet.segment is not None
        known = self._connections.get((packet.destination, packet.source))
        if known is not None:
            known.handle_segment(packet.segment, packet.payload)
        elif packet.segment.syn and packet.segment.ack is None and packet.destination[1] in self._listeners:
            self._accept(packet)
        elif not packet.segment.reset:
            self.host.send_segment(Packet(packet.destination, packet.source, b"", segment=Segment(reset=True)))

    def close_all(self) -> None:
        """What the kernel does for a process that is gone."""
        self._listeners.clear()
        for connection in list(self._connections.values()):
            connection.close()

    def forget(self, connection: Connection) -> None:
        if self._connections.get((connection.local, connection.remote)) is connection:
            del self._connections[connection.local, connection.remote]

    def _accept(self, packet: Packet) -> None:
        connection = self._make(packet.destination, packet.source, State.SYN_RECEIVED, SILENCE_S)
        accept = self._listeners[packet.destination[1]]
        connection.opened = lambda: accept(connection)
        connection.begin()

    def _make(self, local: Socket, remote: Socket, state: State, patience_s: float) -> Connection:
        connection = self._connections[local, remote] = Connection(self, local, remote, state, patience_s)
        return connection


def _begin(connection: Connection) -> None:
    if connection.state is State.SYN_SENT:
        connection.begin()


def _nothing() -> None:
    pass


def _ignore(_: bytes) -> None:
    pass


def _shrug(_: str) -> None:
    pass
