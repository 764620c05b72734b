"""Datagrams in a TCP stream, each behind its length.

     0               2                      2 + n
    +---------------+----------------------+---
    | length n, u16 | datagram             | ...
    +---------------+----------------------+---

n is 1 to 16,384. Whoever sends another length does not speak this, and there is no way back into step: the connection
ends.
"""

from __future__ import annotations

from fabric.errors import DecodeError
from fabric.wire.address import Target

MAX_FRAMED_BYTES = 16_384
"""As long as a UDP socket reads (see `udp`). The first two letters of HTTP, TLS and SSH read as more, or as 5,635."""

LENGTH_BYTES = 2


def frame_datagram(datagram: bytes) -> bytes:
    """`datagram` has 1 to `MAX_FRAMED_BYTES` bytes."""
    return len(datagram).to_bytes(LENGTH_BYTES) + datagram


class Unframer:
    """Cuts a stream into its datagrams, however it arrives; each comes with `source`. Holds less than one datagram."""

    __slots__ = ("_rest", "_source")

    def __init__(self, source: Target) -> None:
        self._source = source
        self._rest = b""

    def take(self, data: bytes) -> list[tuple[bytes, Target]]:
        """Returns the datagrams that are whole now. Raises `DecodeError`; then no more is to be read."""
        stream = self._rest + data if self._rest else data
        batch: list[tuple[bytes, Target]] = []
        source, at, end = self._source, 0, len(stream)
        while end - at >= LENGTH_BYTES:
            length = stream[at] << 8 | stream[at + 1]
            if not 0 < length <= MAX_FRAMED_BYTES:
                raise DecodeError(f"a datagram of {length} bytes")
            stop = at + LENGTH_BYTES + length
            if stop > end:
                break
            batch.append((stream[at + LENGTH_BYTES : stop], source))
            at = stop
        self._rest = stream[at:]
        return batch
