"""Own reflexive addresses by STUN Binding (RFC 8489 section 2), from the socket that the datagrams use.

Asked again at an interval, which also keeps the mapping alive that offers speak of. An answer counts only for the
transaction that is open with the server it came from; without answers for a while an address is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from fabric.core.machine import Draw, Instant, Transmit
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.stun import binding_request, decode_binding_success

TRANSACTION_BYTES = 12
MAX_SERVERS = 8
"""The service names them: more would let it aim our requests at hosts that never asked for them."""

RETRIES_S = (0.25, 0.5, 1.0, 2.0)
"""Retransmissions as RFC 8489 section 6.2.1 has them, from half its initial RTO: our servers are asked at start."""


@dataclass(slots=True)
class _Query:
    server: Address
    next_at: Instant
    transaction: bytes | None = None
    tries: int = 0
    reflexive: Address | None = None


class Reflexive:
    def __init__(self, draw: Draw, interval_s: float) -> None:
        self._draw = draw
        self._interval_s = interval_s
        self._queries: dict[Address, _Query] = {}
        self._transmits: deque[Transmit] = deque()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What the servers saw, each once, in the order of the servers."""
        return tuple(dict.fromkeys(q.reflexive for q in self._queries.values() if q.reflexive is not None))

    def handle_servers(self, servers: Sequence[Address], now: Instant) -> None:
        self._queries = {s: self._queries.get(s) or _Query(s, now) for s in servers[:MAX_SERVERS]}

    def handle_moved(self, now: Instant) -> None:
        """The own network changed: ask again at once."""
        for query in self._queries.values():
            query.tries = 0
            query.transaction = None
            query.next_at = now

    def doubt(self, now: Instant) -> None:
        """What the servers saw may no longer be so, or who was silent may be back: whoever isn't being asked just now
        is asked at once."""
        for query in self._queries.values():
            if query.transaction is None or query.tries > len(RETRIES_S):
                query.tries = 0
                query.next_at = now

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> bool:
        """Returns True where an address of ours has changed. Raises `DecodeError` for what is no such answer."""
        query = self._queries.get(source)
        if query is None or query.transaction is None:
            raise DecodeError("STUN from a stranger")
        success = decode_binding_success(payload)
        if success.transaction_id != query.transaction:
            raise DecodeError("STUN for another transaction")
        changed = query.reflexive != success.address
        query.reflexive = success.address
        query.transaction = None
        query.tries = 0
        query.next_at = now + self._interval_s
        return changed

    def handle_timeout(self, now: Instant) -> bool:
        """Returns True where an address was forgotten."""
        forgotten = False
        for query in self._queries.values():
            if query.next_at <= now:
                forgotten |= self._ask(query, now)
        return forgotten

    def next_timeout(self) -> Instant | None:
        return min((q.next_at for q in self._queries.values()), default=None)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def _ask(self, query: _Query, now: Instant) -> bool:
        forgotten = False
        if query.tries >= len(RETRIES_S):
            forgotten = query.reflexive is not None
            query.reflexive = None
            query.next_at = now + self._interval_s
        else:
            query.next_at = now + RETRIES_S[query.tries]
        query.tries += 1
        query.transaction = query.transaction or self._draw(TRANSACTION_BYTES)
        self._transmits.append(Transmit(query.server, binding_request(query.transaction)))
        return forgotten
