"""One super-frame on its way in: put together whole, or delivered as far as it came (docs/dataplane.md, "Runs").

slices --all here--> whole
   |---- hurried, slice 0 here ----> a run for each row of slices without a hole --late slice--> a run of its own
"""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.machine import Instant
from fabric.dataplane.contract import Drop
from fabric.dataplane.superframe import Shape, cut_run, header_for, shape_of, slice_start
from fabric.errors import DecodeError
from fabric.wire.vnet import VNET_BYTES


@dataclass(frozen=True, slots=True)
class _Layout:
    """What slice 0 tells of all others. `payload` is how much of it slice 0 has, `step` how long each further is."""

    shape: Shape
    headers: bytes
    payload: int
    step: int


class SuperFrame:
    """Begun by a slice of it; all slices share `like`: count, flags, id and vnet header as they stand on the wire.

    `parts` are the slices that wait, by index; `length` is that of all that came. `expected` are the indices still to
    come, empty once it is hurried.
    """

    __slots__ = (
        "_had",
        "_layout",
        "_vnet_header",
        "count",
        "deadline",
        "expected",
        "id",
        "is_hurried",
        "latest",
        "length",
        "like",
        "parts",
    )

    def __init__(self, like: bytes, frame_id: int, deadline: Instant) -> None:
        self.like = like
        self.id = frame_id
        self.count = like[0]
        self.deadline = deadline
        self.latest: Instant = 0.0
        self.parts: dict[int, bytes] = {}
        self.length = 0
        self.expected = set(range(self.count))
        self.is_hurried = False
        self._had: set[int] = set()
        self._vnet_header = like[-VNET_BYTES:]
        self._layout: _Layout | None = None

    @property
    def has_all_left(self) -> bool:
        return len(self._had) == self.count

    def has_had(self, index: int) -> bool:
        return index in self.parts or index in self._had

    def join(self) -> bytes:
        """Returns the whole behind its vnet header, once each slice is here. Raises `DecodeError`."""
        parts = self.parts
        frame = b"".join([parts[index] for index in range(self.count)])
        shape = shape_of(self._vnet_header, frame)
        return header_for(shape, len(frame) - shape.headers, is_first=True) + frame

    def leave(self, runs: list[bytes]) -> Drop | None:
        """Adds the runs that wait to `runs`, in order, each behind its vnet header; nothing leaves without slice 0.

        Returns why it is of no use any more, or None.
        """
        try:
            layout = self._layout or self._measure()
            if layout is None:
                return None
            return self._leave(layout, runs)
        except DecodeError:
            return Drop.MALFORMED

    def _measure(self) -> _Layout | None:
        first = self.parts.get(0)
        if first is None:
            return None
        shape = shape_of(self._vnet_header, first, run=True)
        step = slice_start(shape, len(first), 2) - len(first)
        self._layout = _Layout(shape, first[: shape.headers], len(first) - shape.headers, step)
        self.parts[0] = first[shape.headers :]
        return self._layout

    def _leave(self, layout: _Layout, runs: list[bytes]) -> Drop | None:
        parts, self.parts = self.parts, {}
        self._had.update(parts)
        last = self.count - 1
        for index in sorted(parts):
            if index - 1 in parts:
                continue
            row = []
            for at in range(index, self.count):
                if at not in parts:
                    break
                if 0 < at < last and len(parts[at]) != layout.step:
                    return Drop.REASSEMBLY
                row.append(parts[at])
            start = layout.payload + (index - 1) * layout.step if index else 0
            is_last = index + len(row) == self.count
            run = cut_run(layout.shape, layout.headers, start, b"".join(row), is_last=is_last)
            if run is not None:
                runs.append(run)
        return None
