"""Frames and messages put together again from their slices: bounded in number, bytes and time.

frame, message    first slice --all others--> whole
                     |---- EXPIRY_S, or too much else waits ----> dropped and counted

super-frame       first slice --all others--> whole
                     |---- HURRY_S of silence, or a later one is well on its way ----> hurried: runs --all left--> done
                     |---- EXPIRY_S, or too much else waits ----> dropped and counted
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.machine import Instant
from fabric.dataplane.contract import Drop
from fabric.dataplane.runs import SuperFrame
from fabric.errors import DecodeError
from fabric.wire.record import CONTROL_FLAG, MAX_CONTROL_BYTES, MAX_FRAME_BYTES, SLICE_HEAD, Slice

EXPIRY_S = 1.0
"""All slices of a frame leave at once; what is a second late is lost, and TCP has sent it again by then."""

HURRY_S = 0.005
"""A super-frame's slices leave within a fraction of this; a sender that waits for an acknowledgement of what came
should not wait much longer."""

LATER_INDEX = 3
"""A slice of a later super-frame with this index or above says that the earlier one has lost something: less is
reordering, as TCP takes it too (RFC 5681 section 3.2, three duplicate acknowledgements)."""

MAX_PARTIAL = 64
MAX_WAITING_BYTES = 1 << 20
"""Per session: sixteen frames of the longest kind."""

_HEAD_BYTES = SLICE_HEAD.size
_HALF = 2**31


@dataclass(slots=True)
class _Partial:
    """`deadline` is that of the first slice, so what is partial expires in the order in which it began."""

    like: tuple[int, int, bytes]
    deadline: Instant
    parts: dict[int, bytes] = field(default_factory=dict)
    length: int = 0


class Reassembly:
    """What is partial in one session."""

    __slots__ = ("_dropped", "_malformed", "_partial", "_pending", "_super_frames", "_waiting_bytes")

    def __init__(self) -> None:
        self._partial: dict[int, _Partial | SuperFrame] = {}
        self._super_frames: dict[bytes, SuperFrame] = {}
        self._pending: dict[int, SuperFrame] = {}  # not hurried yet
        self._waiting_bytes = 0
        self._dropped = 0
        self._malformed = 0

    def handle_slice(self, piece: Slice, now: Instant) -> bytes | None:
        """Returns the whole once its last slice is here; not for a slice of a super-frame."""
        like = (piece.count, piece.flags, piece.vnet_header)
        partial = self._partial.get(piece.id)
        if partial is None:
            partial = self._partial[piece.id] = _Partial(like, now + EXPIRY_S)
        if isinstance(partial, SuperFrame) or partial.like != like or piece.index in partial.parts:
            self._give_up(piece.id)
            return None
        return self._add(partial, piece)

    def handle_super_slice(self, plain: bytes, now: Instant) -> list[bytes] | None:
        """Takes a SLICE record with flag 1 as it was sealed, with at least one byte behind its head.

        Returns what is to be delivered now, each with its vnet header before it, or None where the slice only joins
        others that wait: the usual case, and the caller need not look at anything else then.
        """
        frame = self._super_frames.get(plain[2:_HEAD_BYTES])
        index = plain[1]
        if frame is None or index not in frame.expected or len(self._pending) > 1:
            return self._handle_unusual(plain, now)
        frame.expected.remove(index)
        frame.parts[index] = part = plain[_HEAD_BYTES:]
        frame.latest = now
        length = len(part)
        frame.length += length
        self._waiting_bytes += length
        if frame.expected and frame.length <= MAX_FRAME_BYTES and self._waiting_bytes <= MAX_WAITING_BYTES:
            return None
        runs: list[bytes] = []
        self._settle(frame, runs)
        return runs

    def handle_timeout(self, now: Instant) -> list[bytes]:
        """Returns what is to be delivered of super-frames that are hurried now."""
        while self._partial:
            first = next(iter(self._partial))
            if self._partial[first].deadline > now:
                break
            self._give_up(first)
        runs: list[bytes] = []
        for frame in list(self._pending.values()):
            if frame.latest + HURRY_S <= now:
                self._hurry(frame, runs)
        return runs

    def next_timeout(self) -> Instant | None:
        if not self._partial:
            return None
        expiry = next(iter(self._partial.values())).deadline
        return min((expiry, *(frame.latest + HURRY_S for frame in self._pending.values())))

    def take_drops(self) -> tuple[int, int]:
        """Returns how many were given up, and how many super-frames were none, since the caller last asked."""
        drops = self._dropped, self._malformed
        self._dropped = self._malformed = 0
        return drops

    # frames and messages

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
        self._make_room()
        return None

    # super-frames

    def _handle_unusual(self, plain: bytes, now: Instant) -> list[bytes]:
        """What `handle_super_slice` does in full; there, only what nearly every slice needs."""
        index, count = plain[1], plain[2]
        runs: list[bytes] = []
        if index >= count:
            self._malformed += 1
            return runs
        frame_id = int.from_bytes(plain[4:8])
        if index >= LATER_INDEX or index == count - 1:
            self._hurry_before(frame_id, runs)
        frame = self._super_frame(plain[2:_HEAD_BYTES], frame_id, now)
        if frame is not None:
            self._add_slice(frame, index, plain[_HEAD_BYTES:], now, runs)
        return runs

    def _super_frame(self, like: bytes, frame_id: int, now: Instant) -> SuperFrame | None:
        """Returns the one that a slice belongs to, or None where other slices of it say otherwise."""
        frame = self._super_frames.get(like)
        if frame is None and frame_id in self._partial:
            self._give_up(frame_id)
        elif frame is None:
            frame = SuperFrame(like, frame_id, now + EXPIRY_S)
            self._partial[frame_id] = self._super_frames[like] = self._pending[frame_id] = frame
        return frame

    def _add_slice(self, frame: SuperFrame, index: int, part: bytes, now: Instant, runs: list[bytes]) -> None:
        if frame.has_had(index):
            if not frame.is_hurried:
                self._give_up(frame.id)
            return
        frame.expected.discard(index)
        frame.parts[index] = part
        frame.latest = now
        frame.length += len(part)
        self._waiting_bytes += len(part)
        self._settle(frame, runs)

    def _settle(self, frame: SuperFrame, runs: list[bytes]) -> None:
        """What follows from a slice's having been added."""
        if frame.length > MAX_FRAME_BYTES:
            self._give_up(frame.id)
        elif frame.is_hurried:
            self._leave(frame, runs)
        elif not frame.expected:
            self._finish(frame, runs)
        self._make_room()

    def _finish(self, frame: SuperFrame, runs: list[bytes]) -> None:
        self._forget(frame.id)
        try:
            runs.append(frame.join())
        except DecodeError:
            self._malformed += 1

    def _hurry_before(self, later_id: int, runs: list[bytes]) -> None:
        """Those that are earlier, in the order in which they began."""
        for frame in list(self._pending.values()):
            if 0 < (later_id - frame.id) % (2 * _HALF) < _HALF:
                self._hurry(frame, runs)

    def _hurry(self, frame: SuperFrame, runs: list[bytes]) -> None:
        del self._pending[frame.id]
        frame.is_hurried = True
        frame.expected.clear()
        self._leave(frame, runs)

    def _leave(self, frame: SuperFrame, runs: list[bytes]) -> None:
        match frame.leave(runs):
            case Drop.MALFORMED:
                self._forget(frame.id)
                self._malformed += 1
            case Drop.REASSEMBLY:
                self._give_up(frame.id)
            case _:
                if frame.has_all_left:
                    self._forget(frame.id)

    # what all have in common

    def _make_room(self) -> None:
        while len(self._partial) > MAX_PARTIAL or self._waiting_bytes > MAX_WAITING_BYTES:
            self._give_up(next(iter(self._partial)))

    def _give_up(self, frame_id: int) -> None:
        self._forget(frame_id)
        self._dropped += 1

    def _forget(self, frame_id: int) -> None:
        partial = self._partial.pop(frame_id)
        self._waiting_bytes -= partial.length
        if isinstance(partial, SuperFrame):
            del self._super_frames[partial.like]
            self._pending.pop(frame_id, None)
