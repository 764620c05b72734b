"""The window that lets each record of a session through once, in any order within its size.

A ring of bits as in RFC 6479, twice as long as the window, so that moving forward clears whole bytes only:

        oldest accepted                highest
             |<------ WINDOW bits ------->|
    ...xxxxxx|.x..xxx..xx.xxxxxxxxxxxxxxxxx|00000 cleared as highest moves...
"""

from __future__ import annotations

WINDOW = 8192
"""Counters behind the highest one that are still accepted: protocol.md section 5."""

_RING_BYTES = 2 * WINDOW // 8
_RING_MASK = _RING_BYTES - 1


class ReplayWindow:
    """`check` before the record is opened, `mark` only after it is authentic: a forger can't move the window."""

    __slots__ = ("_bits", "highest")

    def __init__(self) -> None:
        self._bits = bytearray(_RING_BYTES)
        self.highest = -1

    def check(self, counter: int) -> bool:
        """Returns whether a record with this counter may be opened: neither seen before nor too old."""
        highest = self.highest
        if counter > highest:
            return True
        return counter > highest - WINDOW and not self._bits[(counter >> 3) & _RING_MASK] >> (counter & 7) & 1

    def mark(self, counter: int) -> None:
        """Records that `counter`, which `check` let pass, was seen."""
        if counter > self.highest:
            if counter >> 3 != self.highest >> 3:
                self._clear(self.highest >> 3, counter >> 3)
            self.highest = counter
        self._bits[(counter >> 3) & _RING_MASK] |= 1 << (counter & 7)

    def _clear(self, before: int, last: int) -> None:
        """Clears the bytes after `before` up to `last`, both counted from the session's start."""
        bits = self._bits
        if last - before >= _RING_BYTES:
            bits[:] = bytes(_RING_BYTES)
            return
        for byte in range(before + 1, last + 1):
            bits[byte & _RING_MASK] = 0
