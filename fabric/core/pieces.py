"""Handshake messages cut into pieces that fit a gated datagram, and put together again within a fixed bound.

One `Reassembly` belongs to one peer, and sees only pieces that passed that peer's gate: strangers never make it
hold a byte. It holds at most one unfinished message of each kind and sender, and eight in all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.machine import Instant
from fabric.crypto.digest import blake2b_256, equal
from fabric.errors import DecodeError
from fabric.wire.handshake import (
    DIGEST_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_SLICE_BYTES,
    MessageKind,
    Piece,
    encode_piece,
    kind_of,
)

MAX_UNFINISHED = 8
HOLD_S = 10.0
"""An unfinished message yields to any other after this: its sender has long begun anew."""


def message_digest(message: bytes) -> bytes:
    """Returns what names a message in its pieces: the first 16 bytes of its hash."""
    return blake2b_256(message)[:DIGEST_BYTES]


def split(message: bytes, unix_ms: int) -> list[bytes]:
    """Returns the gated bodies that carry `message`, in order; `unix_ms` is the time of sending.

    Raises `ValueError` where the message is longer than four pieces hold.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a handshake message of {len(message)} bytes")
    kind, digest = kind_of(message), message_digest(message)
    slices = [message[at : at + MAX_SLICE_BYTES] for at in range(0, len(message), MAX_SLICE_BYTES)]
    return [
        encode_piece(Piece(kind, index, len(slices), unix_ms, digest, content)) for index, content in enumerate(slices)
    ]


@dataclass(slots=True)
class _Unfinished:
    digest: bytes
    count: int
    unix_ms: int
    since: Instant
    contents: dict[int, bytes] = field(default_factory=dict, repr=False)


class Reassembly:
    """Puts the messages of one peer together; of each kind and sender the newest by its sender's clock wins.

    That order matters: pieces that were recorded earlier and are sent again pass the gate, and must not be able
    to push out the message that is just arriving. Nor must those of a copy of the peer, which is at another address.
    """

    __slots__ = ("_unfinished",)

    def __init__(self) -> None:
        self._unfinished: dict[tuple[MessageKind, str], _Unfinished] = {}

    def __len__(self) -> int:
        """How many bytes of messages are held."""
        return sum(len(content) for held in self._unfinished.values() for content in held.contents.values())

    def add(self, piece: Piece, now: Instant, sender: str = "") -> bytes | None:
        """Returns the message that `piece`, which came from `sender`, completes, or None.

        Raises `DecodeError` for a piece that contradicts one held already, and where the whole does not have the
        hash that its pieces named; what was held of that message is then dropped.
        """
        held = self._claim(piece, now, sender)
        if held is None:
            return None
        if held.contents.setdefault(piece.index, piece.content) != piece.content:
            del self._unfinished[piece.kind, sender]
            raise DecodeError("two different pieces for one place")
        if len(held.contents) < held.count:
            return None
        del self._unfinished[piece.kind, sender]
        return _joined(held, piece.kind)

    def clear(self) -> None:
        """Forgets every unfinished message."""
        self._unfinished.clear()

    def _claim(self, piece: Piece, now: Instant, sender: str) -> _Unfinished | None:
        """Returns where `piece` belongs, making room for it; None where a newer message is arriving."""
        held = self._unfinished.get((piece.kind, sender))
        if held is not None:
            if held.digest == piece.digest and held.count == piece.count:
                held.unix_ms = max(held.unix_ms, piece.unix_ms)
                return held
            if piece.unix_ms < held.unix_ms and now < held.since + HOLD_S:
                return None
        held = _Unfinished(piece.digest, piece.count, piece.unix_ms, now)
        self._unfinished[piece.kind, sender] = held
        if len(self._unfinished) > MAX_UNFINISHED:
            del self._unfinished[min(self._unfinished, key=lambda each: self._unfinished[each].since)]
        return held


def _joined(held: _Unfinished, kind: MessageKind) -> bytes:
    message = b"".join([held.contents[index] for index in range(held.count)])
    if not equal(message_digest(message), held.digest):
        raise DecodeError("the pieces do not make the message that they name")
    if kind_of(message) is not kind:
        raise DecodeError("the message is of another kind than its pieces")
    return message
