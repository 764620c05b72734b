"""The way out to one peer: frames that wait together, the session that seals them, and where they go.

put: fills a record alone? --yes--> seal --> outbox
                           --no---> wait --> flush, or no room for the next --> seal --> outbox
     longer than a record? --------> slices --> seal each --> outbox
put_super_frame: -----------------> slices --> seal each --> outbox

Where there is a target for copies, each datagram goes into the outbox twice: the very same bytes, so the replay
window at the other end lets one of them through.
"""

from __future__ import annotations

from collections import Counter

from fabric.core.machine import Instant
from fabric.dataplane.contract import Drop, PeerCounters, Port
from fabric.dataplane.guard import SourceGuard
from fabric.dataplane.session import Session
from fabric.dataplane.superframe import slice_super_frame
from fabric.wire.address import Target, Transport
from fabric.wire.datagram import DATA_OVERHEAD_BYTES, MAX_GATED_BYTES
from fabric.wire.record import (
    CONTROL_FLAG,
    FRAMES_HEAD,
    LENGTH_BYTES,
    MAX_CONTROL_BYTES,
    MAX_FRAME_BYTES,
    MIN_FRAME_BYTES,
    ControlRecord,
    Empty,
    encode_frames,
    encode_record,
    slice_frame,
)

MAX_UDP_PAYLOAD_BYTES = 65_507
UNMEASURED_LIMIT_BYTES = MAX_GATED_BYTES
"""Of a datagram to a peer that no path leads to as yet: what gets through everywhere."""

COPY_LINGER_S = 10.0
"""For so long after the last copy left, those of the other end still come: as long as its replaced sessions open."""

_FRAMES = 1
_WORTH_WAITING = LENGTH_BYTES + 60
"""What the shortest frame of a real card would take: a record with less room left than that goes at once."""


class Outlet:
    """What all ports of a lane write to: sealed datagrams, ports with waiting frames, sessions with news."""

    __slots__ = ("datagrams", "unflushed", "unreported")

    def __init__(self) -> None:
        self.datagrams: list[tuple[bytes, Target]] = []
        self.unflushed: list[PeerPort] = []
        self.unreported: list[Session] = []


class PeerPort:
    """`put` a batch of frames, then `flush`: nothing waits longer than a batch.

    While there is no promoted session or no target, `_room`, the bytes that the frames of one record may take
    with their lengths, is 0 and every frame is dropped and counted.
    """

    __slots__ = (
        "_copied_until",
        "_datagrams",
        "_drops",
        "_enough",
        "_limit",
        "_outlet",
        "_room",
        "_rx_bytes",
        "_sealing",
        "_slice_id",
        "_tx_bytes",
        "_waiting",
        "_waiting_bytes",
        "copy_target",
        "guard",
        "name",
        "port",
        "target",
    )

    def __init__(self, name: str, port: Port, guard: SourceGuard, outlet: Outlet) -> None:
        self.name = name
        self.port = port
        self.guard = guard
        self.target: Target | None = None
        self.copy_target: Target | None = None
        self._copied_until: Instant = 0.0
        self._outlet = outlet
        self._datagrams = outlet.datagrams
        self._sealing: Session | None = None
        self._limit = 0
        self._slice_id = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._drops: Counter[Drop] = Counter()
        self._rx_bytes = 0
        self._tx_bytes = 0
        self._measure()

    @property
    def sealing(self) -> Session | None:
        """The session that seals this peer's frames."""
        return self._sealing

    @property
    def counters(self) -> PeerCounters:
        return PeerCounters(self._rx_bytes, self._tx_bytes, dict(self._drops))

    def seal_with(self, session: Session | None) -> None:
        self._sealing = session
        self._measure()

    def steer(self, target: Target | None, payload_limit: int, copy_target: Target | None, now: Instant) -> None:
        if self.copy_target is not None:
            self._copied_until = now + COPY_LINGER_S
        self.target = target
        self.copy_target = copy_target if target is not None and copy_target != target else None
        self._limit = min(payload_limit, MAX_UDP_PAYLOAD_BYTES)
        self._measure()

    def count_drop(self, reason: Drop, count: int = 1) -> None:
        self._drops[reason] += count

    def count_unopened(self, reason: Drop, source: Target, now: Instant) -> bool:
        """Returns whether it is odd. A record that came twice is what copies are for, and relays."""
        if reason is Drop.REPLAY and (self.copy_target is not None or now < self._copied_until or _is_relay(source)):
            reason = Drop.COPY
        self._drops[reason] += 1
        return reason is not Drop.COPY

    def count_received(self, frame_bytes: int) -> None:
        self._rx_bytes += frame_bytes

    def put(self, frame: bytes, now: Instant) -> None:
        """Sends a frame, at once or with the next `flush`."""
        length = len(frame) + LENGTH_BYTES
        if self._waiting:
            if self._waiting_bytes + length <= self._room:
                self._wait(frame, length)
                return
            self._seal_waiting(now)
        if self._enough < length <= self._room:
            self._seal(FRAMES_HEAD.pack(_FRAMES, length - LENGTH_BYTES) + frame, 1, length, now)
        elif length <= self._room:
            self._wait(frame, length)
        else:
            self._put_oversize(frame, now)

    def put_super_frame(self, vnet_header: bytes, frame: bytes, now: Instant) -> None:
        """Sends a super-frame at once, behind what waits; raises `DecodeError` where its vnet header doesn't fit it."""
        if self._waiting:
            self._seal_waiting(now)
        slice_id = (self._slice_id + 1) & 0xFFFFFFFF
        slices = slice_super_frame(vnet_header, frame, self._room + 1, slice_id)
        if self._is_able():
            self._slice_id = slice_id if slices and len(frame) <= MAX_FRAME_BYTES else self._slice_id
            self._seal_slices(slices, len(frame), now)

    def flush(self, now: Instant) -> None:
        """Sends what waits."""
        if self._waiting:
            self._seal_waiting(now)

    def put_control(self, session: Session, message: bytes, target: Target, *, whole: bool) -> None:
        """Sends a message of core at once, under any session of the peer's, to any target, and no copy of it."""
        record = encode_record(ControlRecord(message) if message else Empty())
        room = (self._limit or UNMEASURED_LIMIT_BYTES) - DATA_OVERHEAD_BYTES
        parts = [record] if whole or len(record) <= room else self._slice(message, room, CONTROL_FLAG)
        if not parts or len(message) > MAX_CONTROL_BYTES:
            self._drops[Drop.OVERSIZE] += 1
            return
        for part in parts:
            datagram = session.seal(part)
            if datagram is None:
                self._drops[Drop.EXHAUSTED] += 1
                return
            self._datagrams.append((datagram, target))

    def _wait(self, frame: bytes, length: int) -> None:
        if length < LENGTH_BYTES + MIN_FRAME_BYTES:
            self._drops[Drop.MALFORMED] += 1
            return
        if not self._waiting:
            self._outlet.unflushed.append(self)
        self._waiting.append(frame)
        self._waiting_bytes += length

    def _seal_waiting(self, now: Instant) -> None:
        waiting, length = self._waiting, self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
        self._seal(encode_frames(waiting), len(waiting), length, now)

    def _seal(self, plain: bytes, frames: int, length: int, now: Instant) -> None:
        """Seals a record of `frames` frames that take `length` bytes with their lengths."""
        session, target = self._sealing, self.target
        if session is None or target is None:
            self._drops[Drop.NO_SESSION if session is None else Drop.NO_PATH] += frames
            return
        datagram = session.seal(plain)
        if datagram is None:
            self._drops[Drop.EXHAUSTED] += frames
            return
        self._datagrams.append((datagram, target))
        if self.copy_target is not None:
            self._datagrams.append((datagram, self.copy_target))
        self._tx_bytes += length - LENGTH_BYTES * frames
        session.sealed += 1
        session.last_sealed = now
        if not session.touched:
            session.touched = True
            self._outlet.unreported.append(session)

    def _put_oversize(self, frame: bytes, now: Instant) -> None:
        """Too long for a record, which any frame is while nothing can be sent."""
        if self._is_able():
            self._seal_slices(self._slice(frame, self._limit - DATA_OVERHEAD_BYTES, 0), len(frame), now)

    def _is_able(self) -> bool:
        """Whether a frame can be sent; it is counted where not."""
        if self._sealing is not None and self.target is not None:
            return True
        self._drops[Drop.NO_SESSION if self._sealing is None else Drop.NO_PATH] += 1
        return False

    def _seal_slices(self, slices: list[bytes], length: int, now: Instant) -> None:
        """`slices` are all of a frame of `length` bytes; none where it can't be cut."""
        session, target, copy_target = self._sealing, self.target, self.copy_target
        if session is None or target is None or not slices or length > MAX_FRAME_BYTES:
            self._drops[Drop.OVERSIZE] += 1
            return
        datagrams = session.seal_all(slices)
        if copy_target is None:
            self._datagrams += [(datagram, target) for datagram in datagrams]
        else:
            self._datagrams += [(datagram, to) for datagram in datagrams for to in (target, copy_target)]
        if datagrams:
            self._note_sealed(session, len(datagrams), now)
        if len(datagrams) == len(slices):
            self._tx_bytes += length
        else:
            self._drops[Drop.EXHAUSTED] += 1

    def _note_sealed(self, session: Session, records: int, now: Instant) -> None:
        session.sealed += records
        session.last_sealed = now
        if not session.touched:
            session.touched = True
            self._outlet.unreported.append(session)

    def _slice(self, whole: bytes, room: int, flags: int) -> list[bytes]:
        """Empty where it takes too many, or it is too long, and then no number is used up."""
        slice_id = (self._slice_id + 1) & 0xFFFFFFFF
        slices = slice_frame(whole, room, slice_id, flags) if len(whole) <= MAX_FRAME_BYTES else []
        self._slice_id = slice_id if slices else self._slice_id
        return slices

    def _measure(self) -> None:
        able = self._sealing is not None and self.target is not None
        self._room = max(0, self._limit - DATA_OVERHEAD_BYTES - 1) if able else 0
        self._enough = self._room - _WORTH_WAITING


def _is_relay(source: Target) -> bool:
    return len(source) == 4 and source[2] in (Transport.RELAY_UDP, Transport.RELAY_TLS)
