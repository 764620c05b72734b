"""One TCP connection that carries datagrams to and from a peer.

accepted --vouch within VOUCH_S--> open --lost, or closed--> gone
   |-- nothing authentic came --> gone, and not a byte was ever written: a stranger learns nothing,
                                  and little of what it sends is looked at
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable

import trio

from fabric.core.machine import Instant
from fabric.dataplane.contract import Drop
from fabric.errors import DecodeError
from fabric.shell.framing import Unframer
from fabric.shell.outbox import Outbox
from fabric.shell.tcp_stream import close_at_once, unacknowledged_bytes
from fabric.wire.address import Address, Target, target_of
from fabric.wire.datagram import DATA_TYPE, GATED_HEADER_BYTES, GATED_TYPE

VOUCH_S = 5.0
"""A peer that connects speaks at once; this leaves room for three lost segments."""

STRANGERS_BYTES = 2048
STRANGERS_PAUSE_S = 0.1
"""Before anything authentic has come, so much is read at a look: a piece of a handshake is shorter. Each datagram costs
the core some microseconds, and a look at the full buffer could bring 87,000 of one byte: half a second for nobody."""

PARTING_S = 0.3
"""What was written last (the word that this end stops) gets so long to arrive."""
_PARTING_LOOK_S = 0.01

Receive = Callable[[list[tuple[bytes, Target]]], None]


class TcpLink:
    """`address.via` is its number; `asked` what was to be connected to, None for an accepted one.

    `buffer` is where it reads to: all links may share one, for nothing stays in it.
    """

    def __init__(
        self, stream: socket.socket, address: Address, asked: Address | None, buffer: bytearray, drops: Counter[Drop]
    ) -> None:
        self.address = address
        self.asked = asked
        self._stream = stream
        self._buffer = memoryview(buffer)
        self._outbox = Outbox(drops)
        self._scope = trio.CancelScope()
        self._waiting = trio.Event()
        self._vouched = trio.Event()
        self._is_broken = False
        self.is_unwanted = False
        if asked is not None:
            self.vouch()

    @property
    def is_vouched(self) -> bool:
        return self._vouched.is_set()

    def vouch(self) -> None:
        """A peer speaks here: from now on it may be written to."""
        self._vouched.set()

    def put(self, datagram: bytes, now: Instant) -> bool:
        """Takes a datagram for the next `flush`; False where it can't be written to."""
        if self._is_broken or not self.is_vouched:
            return False
        self._outbox.put(datagram, now)
        return True

    def flush(self, now: Instant) -> None:
        """Writes as much as the kernel takes; the rest follows once it takes more. Never calls anybody back."""
        try:
            while buffers := self._outbox.gather(now):
                self._outbox.handle_sent(self._stream.sendmsg(buffers))
        except BlockingIOError:
            self._waiting.set()
        except OSError:
            self._is_broken = True  # the reader finds out as well, and says why
            self._outbox.clear()

    def close(self) -> None:
        """Ends it without a word to core."""
        self.is_unwanted = True
        self._scope.cancel()

    async def run(self, receive: Receive, clock: Callable[[], Instant]) -> str:
        """Carries until it ends, and returns why. Where this end ends it, what was written leaves, if that is quick."""
        lost: str | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, clock)
                    nursery.start_soon(self._expect_voucher)
                    lost = await self._read(receive)
                    nursery.cancel_scope.cancel()
        finally:
            if lost is None and self.is_vouched:
                await self._part(clock())
            close_at_once(self._stream)
        return lost or ("closed by this end" if self.is_vouched else "nothing authentic came")

    async def _read(self, receive: Receive) -> str:
        unframer = Unframer(target_of(self.address))
        while True:
            await trio.lowlevel.wait_readable(self._stream)
            try:
                count = self._stream.recv_into(self._buffer, 0 if self.is_vouched else STRANGERS_BYTES)
                batch = unframer.take(bytes(self._buffer[:count]))
                if not self.is_vouched:
                    _check_of_stranger(batch)
            except BlockingIOError:
                continue
            except OSError as error:
                return (error.strerror or str(error)).lower()
            except DecodeError:
                return "what came was no datagram"
            if not count:
                return "closed by the other end"
            if batch:
                receive(batch)
            if not self.is_vouched:
                with trio.move_on_after(STRANGERS_PAUSE_S):
                    await self._vouched.wait()

    async def _write(self, clock: Callable[[], Instant]) -> None:
        while True:
            await self._waiting.wait()
            await trio.lowlevel.wait_writable(self._stream)
            self._waiting = trio.Event()
            self.flush(clock())

    async def _expect_voucher(self) -> None:
        with trio.move_on_after(VOUCH_S):
            await self._vouched.wait()
        if not self.is_vouched:
            self._scope.cancel()

    async def _part(self, now: Instant) -> None:
        """Waits, shortly, until the other end has all."""
        self.flush(now)
        with trio.CancelScope(shield=True), trio.move_on_after(PARTING_S):
            while not self._is_broken and unacknowledged_bytes(self._stream):  # noqa: ASYNC110  (no event tells)
                await trio.sleep(_PARTING_LOOK_S)


def _check_of_stranger(batch: list[tuple[bytes, Target]]) -> None:
    """Raises `DecodeError` for what no peer begins with."""
    for datagram, _ in batch:
        if len(datagram) <= GATED_HEADER_BYTES or datagram[0] not in (GATED_TYPE, DATA_TYPE):
            raise DecodeError("not a peer's")
