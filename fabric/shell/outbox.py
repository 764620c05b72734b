"""What waits to be written to a TCP connection: little, not for long, and urgent things first.

TCP delivers everything in order, so whatever stands in a queue delays all behind it. A frame that waited is worth less
than the next one: its sender's own TCP has noticed, its listener has heard the gap. So frames get old here, not in
the kernel (TCP_NOTSENT_LOWAT), and are dropped.

    put --> urgent: gated, short   --\\
        --> frames: older than MAX_FRAME_AGE_S, or no room --> dropped and counted
                                   --> gather --> kernel --> handle_sent; the one that it cut in two comes next
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice

from fabric.core.machine import Instant
from fabric.dataplane.contract import Drop
from fabric.shell.framing import frame_datagram
from fabric.wire.datagram import GATED_TYPE

MAX_WAITING_BYTES = 256 << 10
"""A tenth of a second at 20 Mbit/s: on a slower connection age is what bounds."""

MAX_FRAME_AGE_S = 0.1
MAX_URGENT_AGE_S = 1.0
"""A probe that is older measures nothing any more, and has been sent again."""

SHORT_BYTES = 200
"""Probes and their replies, closes, and the acknowledgements of the TCP inside."""

_GATED = bytes((GATED_TYPE,))
_GATHERED = 64
"""Buffers in one system call; the kernel takes 1,024."""

_Waiting = deque[tuple[bytes, Instant]]


class Outbox:
    """True while something waits. What is lost is counted as `BACKPRESSURE` in `drops`."""

    __slots__ = ("_begun", "_drops", "_frames", "_urgent", "_waiting_bytes")

    def __init__(self, drops: Counter[Drop]) -> None:
        self._drops = drops
        self._begun = b""
        self._urgent: _Waiting = deque()
        self._frames: _Waiting = deque()
        self._waiting_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._begun or self._urgent or self._frames)

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes + len(self._begun)

    def put(self, datagram: bytes, now: Instant) -> None:
        framed = frame_datagram(datagram)
        self._forget_old(now)
        is_urgent = len(datagram) <= SHORT_BYTES or datagram[:1] == _GATED
        while is_urgent and self._frames and self._lacks_room(framed):
            self._drop_first(self._frames)
        if self._lacks_room(framed):
            self._drops[Drop.BACKPRESSURE] += 1
            return
        (self._urgent if is_urgent else self._frames).append((framed, now))
        self._waiting_bytes += len(framed)

    def gather(self, now: Instant) -> list[bytes]:
        """Returns what to write next, in order. Tell `handle_sent` before anything else how much of it went."""
        self._forget_old(now)
        begun = [self._begun] if self._begun else []
        waiting = [framed for queue in (self._urgent, self._frames) for framed, _ in _first(queue, _GATHERED)]
        return (begun + waiting)[:_GATHERED]

    def handle_sent(self, count: int) -> None:
        """`count` bytes of what was gathered are the kernel's. What it has of a datagram in part must follow whole."""
        cut = min(count, len(self._begun))
        self._begun = self._begun[cut:]
        count -= cut
        while count:
            queue = self._urgent or self._frames
            framed, _ = queue.popleft()
            self._waiting_bytes -= len(framed)
            self._begun = framed[count:]
            count -= min(count, len(framed))

    def clear(self) -> None:
        self._drops[Drop.BACKPRESSURE] += len(self._urgent) + len(self._frames) + bool(self._begun)
        self._urgent.clear()
        self._frames.clear()
        self._begun, self._waiting_bytes = b"", 0

    def _lacks_room(self, framed: bytes) -> bool:
        return self._waiting_bytes + len(framed) > MAX_WAITING_BYTES

    def _forget_old(self, now: Instant) -> None:
        for queue, age_s in ((self._frames, MAX_FRAME_AGE_S), (self._urgent, MAX_URGENT_AGE_S)):
            while queue and queue[0][1] + age_s < now:
                self._drop_first(queue)

    def _drop_first(self, queue: _Waiting) -> None:
        framed, _ = queue.popleft()
        self._waiting_bytes -= len(framed)
        self._drops[Drop.BACKPRESSURE] += 1


def _first(queue: _Waiting, count: int) -> list[tuple[bytes, Instant]]:
    return list(islice(queue, count))
