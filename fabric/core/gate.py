"""The gate: what lets an endpoint stay silent to everybody but the peers that it was introduced to.

Each side draws, for each peer, a 32-bit gate index and a 32-byte share, and tells them to that peer alone. A
datagram before a session carries the receiver's index and a MAC; an unknown index is dropped before any MAC is
computed. The two directions have different keys, so nothing can be sent back to where it came from.

    key = BLAKE2b-256(key=share of the receiver, "fabric/1 gate" || network || sender || receiver)
    mac = BLAKE2b-128(key=key, body)
"""

from __future__ import annotations

import heapq
from collections import Counter

from fabric.crypto.digest import blake2b_256, equal, mac_128
from fabric.wire.datagram import GATED_HEADER_BYTES, MAX_GATED_BYTES, Gated, encode_gated

SHARE_BYTES = 32
MAX_BODY_BYTES = MAX_GATED_BYTES - GATED_HEADER_BYTES

WINDOW_S = 300.0
"""How far a peer's clock may be from ours."""

CAPACITY = 4096
"""Hashes kept for one peer, of 16 bytes each: for more than two genuine datagrams a second over all of the 600 s."""


def gate_key(share: bytes, network: str, sender: str, recipient: str) -> bytes:
    """Returns the 32-byte key for datagrams from `sender` to `recipient`, whose `share` it is."""
    return blake2b_256(b"fabric/1 gate", network.encode(), sender.encode(), recipient.encode(), key=share)


def wrap(gate_index: int, key: bytes, body: bytes) -> bytes:
    """Returns the datagram that carries `body` through the receiver's gate. `ValueError` if it would be too long."""
    if not 0 < len(body) <= MAX_BODY_BYTES:
        raise ValueError(f"a gated body of {len(body)} bytes")
    return encode_gated(Gated(gate_index, mac_128(key, body), body))


def check(datagram: Gated, key: bytes) -> bool:
    """Whether the sender knew `key`."""
    return equal(mac_128(key, datagram.body), datagram.mac)


class Freshness:
    """Tells what one peer sends now from what was recorded: near our clock, and each thing once only.

    Keep one for each peer: then a peer that floods, or dates its datagrams oddly, uses up its own room alone.

    `since_unix` is when this process started, for a gate share that is older than the process: whatever is dated
    before may have been accepted by the process before this one. For a share that was drawn just now nothing can
    have been recorded: leave it 0, so that a peer whose clock is behind need not wait.

    Memory is bounded by `capacity` hashes. When they are all in use the one with the oldest date is given up, and
    that date becomes the floor: everything dated up to it is refused from then on. So a full table costs late
    datagrams, and never lets one in twice. The floor rises for hashes that have outlived the window as well, so
    that setting the clock back opens nothing. Only `since_unix` moves with the clock: a host that booted with a
    fast clock would else be deaf until the time that it believed in.
    """

    __slots__ = ("_capacity", "_dated", "_floor_ms", "_most", "_seen", "_shares", "_since_ms")

    def __init__(self, since_unix: float = 0.0, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._most = capacity - capacity // 8
        self._floor_ms = 0
        self._since_ms = int(since_unix * 1000)
        self._dated: list[tuple[int, bytes, str | None]] = []
        self._shares: Counter[str | None] = Counter()
        self._seen: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._dated)

    def accept(self, unix_ms: int, random: bytes, now_unix: float, sender: str | None = None) -> bool:
        """Whether a datagram with this date and random value is new; if so it never is again.

        Call it only for what passed the gate. One `sender` never uses all of the room: a copy of the peer could else
        raise the floor with dates to come, and the real one would not be heard.
        """
        self._expire(now_unix)
        if unix_ms <= max(self._floor_ms, self._since_ms) or abs(unix_ms - now_unix * 1000) > WINDOW_S * 1000:
            return False
        name = blake2b_256(unix_ms.to_bytes(8), random)[:16]
        if name in self._seen or (sender is not None and self._shares[sender] >= self._most):
            return False
        self._remember(unix_ms, name, sender)
        return unix_ms > self._floor_ms

    def handle_clock_set(self, by_s: float) -> None:
        """The own clock was corrected by so many seconds, so this process started at another date."""
        if self._since_ms:
            self._since_ms += int(by_s * 1000)

    def _remember(self, unix_ms: int, name: bytes, sender: str | None) -> None:
        heapq.heappush(self._dated, (unix_ms, name, sender))
        self._shares[sender] += 1
        self._seen.add(name)
        while len(self._dated) > self._capacity:
            self._forget_oldest()

    def _expire(self, now_unix: float) -> None:
        oldest_ms = (now_unix - WINDOW_S) * 1000
        while self._dated and self._dated[0][0] < oldest_ms:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        unix_ms, name, sender = heapq.heappop(self._dated)
        self._seen.discard(name)
        self._shares[sender] -= 1
        if not self._shares[sender]:
            del self._shares[sender]
        self._floor_ms = max(self._floor_ms, unix_ms)
