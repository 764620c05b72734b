"""The keys of one handshake at work: counters, the replay window, and what core is to hear of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag

from fabric.core.machine import Instant
from fabric.core.replay import ReplayWindow
from fabric.crypto.aead import cipher
from fabric.dataplane.contract import Drop, SessionKeys, Traffic
from fabric.dataplane.slices import Reassembly
from fabric.wire.address import Target, address_of
from fabric.wire.datagram import DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, DATA_TYPE

LAST_COUNTER = 2**31
"""Core re-keys after 2^30 records; where that failed for so long, the key is not used any further. Well below
the 2^32 that the protocol allows."""

MAX_HELD = 256
"""Opened records that wait for `promote`: what a fast peer sends within the time of a durable write."""

_NONCE_PREFIX = bytes(4)
Crypt = Callable[[bytes, bytes, bytes], bytes]
"""Nonce, message and associated data to message."""


def data_prefix(index: int) -> bytes:
    """Returns what every datagram for `index` begins with; a table keyed by it checks type, zeros and index at once."""
    return bytes((DATA_TYPE, 0, 0, 0)) + index.to_bytes(4)


class Session:
    """Made from `keys`, which it keeps no reference to beyond the two ciphers; `wipe` drops those as well.

    (The interpreter gives the memory back without overwriting it: that needs a lane outside of Python.)
    """

    __slots__ = (
        "_counter",
        "_decrypt",
        "_encrypt",
        "_keys",
        "_prefix",
        "awaiting",
        "held",
        "last_opened",
        "last_sealed",
        "local_index",
        "opened",
        "peer",
        "reassembly",
        "sealed",
        "source",
        "touched",
        "window",
    )

    def __init__(self, keys: SessionKeys, *, awaiting: bool) -> None:
        self.peer = keys.peer
        self.local_index = keys.local_index
        self.awaiting = awaiting
        self.held: list[bytes] = []
        self.window = ReplayWindow()
        self.reassembly = Reassembly()
        self._keys = hash(keys)
        self._prefix = data_prefix(keys.remote_index)
        self._counter = 0
        self._encrypt: Crypt = cipher(keys.suite, keys.seal_key).encrypt
        self._decrypt: Crypt = cipher(keys.suite, keys.open_key).decrypt
        self.touched = False
        self._reset_report()

    def is_made_from(self, keys: SessionKeys) -> bool:
        return self._keys == hash(keys)

    def seal(self, plain: bytes) -> bytes | None:
        """Returns the datagram, or None once the key is used up. No counter is ever used twice."""
        counter = self._counter
        if counter >= LAST_COUNTER:
            return None
        self._counter = counter + 1
        tail = counter.to_bytes(8)
        header = self._prefix + tail
        return header + self._encrypt(_NONCE_PREFIX + tail, plain, header)

    def seal_all(self, plains: Sequence[bytes]) -> list[bytes]:
        """Returns the datagrams in order: fewer than `plains` once the key is used up."""
        counter = self._counter
        prefix, encrypt = self._prefix, self._encrypt
        datagrams = []
        for plain in plains[: max(0, LAST_COUNTER - counter)]:
            tail = counter.to_bytes(8)
            header = prefix + tail
            datagrams.append(header + encrypt(_NONCE_PREFIX + tail, plain, header))
            counter += 1
            self._counter = counter
        return datagrams

    def open(self, datagram: bytes) -> bytes | Drop:
        """Returns what was sealed, once; or why not."""
        if len(datagram) < DATA_OVERHEAD_BYTES:
            return Drop.MALFORMED
        tail = datagram[8:DATA_HEADER_BYTES]
        counter = int.from_bytes(tail)
        window = self.window
        if counter <= window.highest and not window.check(counter):
            return Drop.REPLAY
        try:
            plain = self._decrypt(_NONCE_PREFIX + tail, datagram[DATA_HEADER_BYTES:], datagram[:DATA_HEADER_BYTES])
        except InvalidTag:
            return Drop.AUTHENTICATION
        window.mark(counter)
        return plain

    def hold(self, plain: bytes) -> bool:
        """Keeps an opened record until `promote`; False where there are too many."""
        if len(self.held) >= MAX_HELD:
            return False
        self.held.append(plain)
        return True

    def take_report(self) -> Traffic:
        """Returns what happened since the last report, and starts the next."""
        source = self.source
        report = Traffic(
            peer=self.peer,
            local_index=self.local_index,
            opened=self.opened,
            sealed=self.sealed,
            last_opened=self.last_opened,
            last_sealed=self.last_sealed,
            highest_sealed_counter=self._counter - 1,
            source=address_of(source) if source is not None else None,
        )
        self._reset_report()
        return report

    def wipe(self) -> None:
        """The session neither seals nor opens any more."""
        self._counter = LAST_COUNTER
        self._encrypt = self._decrypt = _refuse
        self._keys = 0
        self.held.clear()

    def _reset_report(self) -> None:
        self.touched = False
        self.opened = 0
        self.sealed = 0
        self.last_opened: Instant | None = None
        self.last_sealed: Instant | None = None
        self.source: Target | None = None


def _refuse(_nonce: bytes, _message: bytes, _header: bytes) -> bytes:
    raise InvalidTag
