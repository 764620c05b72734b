"""Who may send in through a mapping (RFC 5780 section 4.4): does an answer come in from where nothing was sent to?

    round of three requests, each to the server's first address, from a socket that never sends to its others:
        plain                   answered from the first address: what did get through at that time
        change port             answered from another port of the same IP, where the filter lets it in
        change IP and port      answered from another IP

Loss looks like a filter. So silence counts only once as many plain requests, sent in the same rounds, were answered.
"""

from __future__ import annotations

from dataclasses import replace

from fabric.core.binding_query import BindingQueries, BindingQuery, Outcome
from fabric.core.machine import Draw, Instant, Transmit
from fabric.wire.address import Address
from fabric.wire.nat import Filtering

ROUND_S = 0.15
MAX_ROUNDS = 16
ENOUGH_ANSWERED = 4
"""With 30 % loss each way (half of all answers) a filter is seen where there is none in 1 test of 80, as
(0.25 / 0.75)^4."""

GRACE_S = 0.3
"""For an answer that takes longer from the other address than from the first."""

PATIENCE_S = 2.0


class FilterProbe:
    """`server` and `other` are the server's addresses, with the `via` of the socket that asks."""

    def __init__(self, server: Address, other: Address, draw: Draw, now: Instant) -> None:
        self._server = server
        self._other_port = replace(server, port=other.port) if other.port != server.port else None
        self._other_ip = other if other.ip != server.ip else None
        self._queries = BindingQueries(draw)
        self._plain: set[BindingQuery] = set()
        self._answered = 0
        self._rounds = 0
        self._comes_in_by_port = False
        self._end_at: Instant | None = None
        self._next_round_at = now
        self.result: Filtering | None = None
        """None while it goes on; `UNKNOWN` where too little came back, or the server can't do what it was asked."""

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        """Raises `DecodeError` for what is no answer to a question of this probe."""
        query = self._queries.handle_datagram_untrusted(source, payload)
        if query.outcome is Outcome.REFUSED:
            self.result = Filtering.UNKNOWN
        elif query in self._plain:
            self._answered += 1
            if self._answered == ENOUGH_ANSWERED:
                self._end_at = now + GRACE_S
        elif query.answer_from == self._other_ip:
            self.result = Filtering.ENDPOINT_INDEPENDENT
        else:
            self._comes_in_by_port = True
            if self._other_ip is None:
                self.result = Filtering.ADDRESS_DEPENDENT

    def handle_timeout(self, now: Instant) -> None:
        if self.result is not None:
            return
        self._queries.handle_timeout(now)
        if self._end_at is not None and self._end_at <= now:
            self._conclude()
        elif self._next_round_at <= now and self._end_at is None:
            self._ask(now)

    def next_timeout(self) -> Instant | None:
        if self.result is not None:
            return None
        return self._end_at if self._end_at is not None else self._next_round_at

    def poll_transmit(self) -> Transmit | None:
        return self._queries.poll_transmit()

    def _ask(self, now: Instant) -> None:
        if self._rounds == MAX_ROUNDS:
            self._end_at = now + PATIENCE_S
            return
        self._rounds += 1
        self._next_round_at = now + ROUND_S
        once = (PATIENCE_S,)
        self._plain.add(self._queries.ask(self._server, now, pauses_s=once))
        if self._other_port is not None and not self._comes_in_by_port:
            self._queries.ask(self._server, now, answer_from=self._other_port, change_port=True, pauses_s=once)
        if self._other_ip is not None:
            has_port = self._other_port is not None
            self._queries.ask(
                self._server, now, answer_from=self._other_ip, change_ip=True, change_port=has_port, pauses_s=once
            )

    def _conclude(self) -> None:
        if self._comes_in_by_port:
            self.result = Filtering.ADDRESS_DEPENDENT
        elif self._answered >= ENOUGH_ANSWERED:
            self.result = Filtering.ADDRESS_AND_PORT_DEPENDENT
        else:
            self.result = Filtering.UNKNOWN
