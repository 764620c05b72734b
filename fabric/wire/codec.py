"""Big-endian fields read from and written to bytes, with every length checked.

A `Reader` raises `DecodeError` and nothing else, whatever the bytes are. What is left over at the end of a
message is ignored by its decoder, so that later versions can append fields.
"""

from __future__ import annotations

from fabric.errors import DecodeError


class Reader:
    """Takes fields from the front of `data`; each `take_` raises `DecodeError` when too little is left."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise DecodeError(f"needs {count} bytes, {self.remaining} are left")
        field = self._data[self._at : end]
        self._at = end
        return field

    def take_u8(self) -> int:
        return self.take(1)[0]

    def take_u16(self) -> int:
        return int.from_bytes(self.take(2))

    def take_u32(self) -> int:
        return int.from_bytes(self.take(4))

    def take_u64(self) -> int:
        return int.from_bytes(self.take(8))

    def take_block(self, limit: int) -> bytes:
        """Returns a field with a u16 length before it, of at most `limit` bytes."""
        length = self.take_u16()
        if length > limit:
            raise DecodeError(f"a field of {length} bytes where {limit} are allowed")
        return self.take(length)

    def take_rest(self) -> bytes:
        return self.take(self.remaining)


def block(field: bytes) -> bytes:
    """Returns `field` with its u16 length before it."""
    return len(field).to_bytes(2) + field
