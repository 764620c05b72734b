"""One peer's gate in use: what goes out through its gate, and what comes in through ours."""

from __future__ import annotations

from fabric.core.acquaintance import Acquaintance
from fabric.core.gate import Freshness, check, wrap
from fabric.core.machine import Calendar, Draw, Instant
from fabric.core.pieces import Reassembly, split
from fabric.errors import AuthenticationError
from fabric.wire.address import Address, sender_of
from fabric.wire.datagram import Gated
from fabric.wire.handshake import decode_piece
from fabric.wire.path import (
    TOKEN_BYTES,
    Call,
    GatedKind,
    GatedMessage,
    GatedProbe,
    decode_gated_message,
    encode_gated_message,
)


class Gateway:
    """`since_unix` as in `Freshness`: when this process started, for a gate that is older than the process."""

    def __init__(self, papers: Acquaintance, calendar: Calendar, draw: Draw, since_unix: float) -> None:
        self._papers = papers
        self._calendar = calendar
        self._draw = draw
        self._reassembly = Reassembly()
        self.freshness = Freshness(since_unix)

    @property
    def is_open(self) -> bool:
        """Whether the peer's gate is known: before, nothing can be said to it."""
        return bool(self._papers.gate_out)

    def wrap_probe(self, token: bytes, now: Instant) -> bytes:
        return self.wrap(GatedProbe(self._unix_ms(now), token))

    def wrap_call(self, now: Instant) -> bytes:
        return self.wrap(Call(self._unix_ms(now), self._draw(TOKEN_BYTES)))

    def wrap(self, message: GatedMessage) -> bytes:
        return self._wrap_body(encode_gated_message(message))

    def wrap_pieces(self, message: bytes, now: Instant) -> list[bytes]:
        """Returns the datagrams that carry a handshake message."""
        return [self._wrap_body(body) for body in split(message, self._unix_ms(now))]

    def open_untrusted(self, source: Address, datagram: Gated, now: Instant) -> GatedMessage | bytes | None:
        """Returns the message inside, a whole handshake message as bytes, or None while pieces of it are missing.

        Raises `AuthenticationError` for a wrong MAC, and for a probe or call that is old or was seen before;
        `DecodeError` for what a peer would never send.
        """
        gate = self._papers.gate_in
        if not gate or not check(datagram, gate):
            raise AuthenticationError("not from this peer")
        if datagram.body[0] == GatedKind.PIECE:
            return self._reassembly.add(decode_piece(datagram.body), now, sender_of(source))
        message = decode_gated_message(datagram.body)
        if isinstance(message, GatedProbe | Call) and not self.freshness.accept(
            message.unix_ms, message.token, self._calendar.unix(now), sender_of(source)
        ):
            raise AuthenticationError("old, or seen before")
        return message

    def close(self) -> None:
        self._reassembly.clear()

    def _wrap_body(self, body: bytes) -> bytes:
        return wrap(self._offer_index(), self._papers.gate_out, body)

    def _offer_index(self) -> int:
        if self._papers.offer is None:
            raise AuthenticationError("the peer's gate is not known yet")
        return self._papers.offer.gate_index

    def _unix_ms(self, now: Instant) -> int:
        return int(self._calendar.unix(now) * 1000)
