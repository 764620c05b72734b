"""Frames and messages put together again from their slices: bounded in number, bytes and time.

first slice --all others--> frame
    |---- EXPIRY_S, or too much else waits ----> dropped and counted
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.machine import Instant
from fabric.wire.record import CONTROL_FLAG, MAX_CONTROL_BYTES, MAX_FRAME_BYTES, Slice

EXPIRY_S = 1.0
"""All slices of a frame leave at once; what is a second late is lost, and TCP has sent it again by then."""

MAX_PARTIAL = 64
MAX_WAITING_BYTES = 1 << 20
"""Per session: sixteen frames of the longest kind."""


@dataclass(slots=True)
class _Partial:
    """`deadline` is that of the first slice, so partial frames expire in the order in which they began."""

    like: tuple[int, int, bytes]
    deadline: Instant
    parts: dict[int, bytes] = field(default_factory=dict)
    length: int = 0


class Reassembly:
    """The partial frames of one session. `dropped` counts those given up since the caller last looked."""

    __slots__ = ("_partial", "_waiting_bytes", "dropped")

    def __init__(self) -> None:
        self._partial: dict[int, _Partial] = {}
        self._waiting_bytes = 0
        self.dropped = 0

    def handle_slice(self, piece: Slice, now: Instant) -> bytes | None:
        """Returns the whole once its last slice is here."""
        self.handle_timeout(now)
        like = (piece.count, piece.flags, piece.vnet_header)
        partial = self._partial.get(piece.id)
        if partial is None:
            partial = self._partial[piece.id] = _Partial(like, now + EXPIRY_S)
        if partial.like != like or piece.index in partial.parts:
            self._give_up(piece.id)
            return None
        return self._add(partial, piece)

    def handle_timeout(self, now: Instant) -> None:
        while self._partial:
            first = next(iter(self._partial))
            if self._partial[first].deadline > now:
                return
            self._give_up(first)

    def next_timeout(self) -> Instant | None:
        return next(iter(self._partial.values())).deadline if self._partial else None

    def _add(self, partial: _Partial, piece: Slice) -> bytes | None:
        partial.parts[piece.index] = piece.part
        partial.length += len(piece.part)
        self._waiting_bytes += len(piece.part)
        if partial.length > (MAX_CONTROL_BYTES if piece.flags & CONTROL_FLAG else MAX_FRAME_BYTES):
            self._give_up(piece.id)
            return None
        if len(partial.parts) == piece.count:
            self._forget(piece.id)
            return b"".join(partial.parts[index] for index in range(piece.count))
        while len(self._partial) > MAX_PARTIAL or self._waiting_bytes > MAX_WAITING_BYTES:
            self._give_up(next(iter(self._partial)))
        return None

    def _give_up(self, frame_id: int) -> None:
        self._forget(frame_id)
        self.dropped += 1

    def _forget(self, frame_id: int) -> None:
        self._waiting_bytes -= self._partial.pop(frame_id).length
