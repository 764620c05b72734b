"""Binding transactions under way (RFC 8489 section 6.2.1): asked again until answered, refused or given up.

An answer counts only where it comes from the address that was to answer, at the socket that was to hear it, under the
transaction id that nobody else was told.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fabric.core.machine import Draw, Instant, Transmit
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.stun import BindingError, binding_request, decode_binding_response, transaction_of

TRANSACTION_BYTES = 12

RETRIES_S = (0.25, 0.5, 1.0, 2.0)
"""Retransmissions as RFC 8489 section 6.2.1 has them, from half its initial RTO: our servers are asked at start."""


class Outcome(enum.Enum):
    OPEN = enum.auto()
    ANSWERED = enum.auto()
    REFUSED = enum.auto()
    SILENT = enum.auto()


@dataclass(slots=True, eq=False)
class BindingQuery:
    """`to` is the server with the `via` of the socket that asks; `answer_from` the address and socket of the answer.

    `seen` is what the server saw, once it is `ANSWERED`.
    """

    to: Address
    answer_from: Address
    request: bytes
    next_at: Instant
    pauses_s: Sequence[float]
    tries: int = 0
    outcome: Outcome = Outcome.OPEN
    seen: Address | None = None
    other: Address | None = None

    @property
    def is_open(self) -> bool:
        return self.outcome is Outcome.OPEN


class BindingQueries:
    """The open queries of one machine."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._open: dict[bytes, BindingQuery] = {}
        self._transmits: deque[Transmit] = deque()

    def ask(
        self,
        to: Address,
        now: Instant,
        *,
        answer_from: Address | None = None,
        change_ip: bool = False,
        change_port: bool = False,
        response_port: int = 0,
        pauses_s: Sequence[float] = RETRIES_S,
    ) -> BindingQuery:
        """Sends at once, and again after each pause but the last, which is how long the last answer is waited for."""
        transaction = self._draw(TRANSACTION_BYTES)
        request = binding_request(
            transaction, change_ip=change_ip, change_port=change_port, response_port=response_port
        )
        query = BindingQuery(to, answer_from or to, request, now, pauses_s)
        self._open[transaction] = query
        self._try(query, now)
        return query

    def forget_all(self) -> None:
        self._open.clear()
        self._transmits.clear()

    def forget(self, query: BindingQuery) -> None:
        self._open.pop(transaction_of(query.request), None)

    def handle_datagram_untrusted(self, source: Address, payload: bytes) -> BindingQuery:
        """Returns the query that this closes. Raises `DecodeError` for what is no answer to an open one."""
        transaction = transaction_of(payload)
        query = self._open.get(transaction)
        if query is None or source not in (query.answer_from, query.to):
            raise DecodeError("STUN from a stranger, or for another transaction")
        response = decode_binding_response(payload)
        if isinstance(response, BindingError) or source != query.answer_from:
            query.outcome = Outcome.REFUSED  # it can't do what was wished, says so, or does something else
        elif response.address.is_ipv6 != query.to.is_ipv6:
            raise DecodeError("an address of another family")
        else:
            query.outcome, query.seen, query.other = Outcome.ANSWERED, response.address, response.other
        del self._open[transaction]
        return query

    def handle_timeout(self, now: Instant) -> list[BindingQuery]:
        """Returns those that are given up."""
        given_up = []
        for transaction, query in list(self._open.items()):
            if query.next_at <= now and not self._try(query, now):
                query.outcome = Outcome.SILENT
                given_up.append(query)
                del self._open[transaction]
        return given_up

    def next_timeout(self) -> Instant | None:
        return min(query.next_at for query in self._open.values()) if self._open else None

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def _try(self, query: BindingQuery, now: Instant) -> bool:
        if query.tries >= len(query.pauses_s):
            return False
        query.next_at = now + query.pauses_s[query.tries]
        query.tries += 1
        self._transmits.append(Transmit(query.to, query.request))
        return True


def from_socket(server: Address, via: int) -> Address:
    """Returns the server as it is asked from another socket."""
    return replace(server, via=via)
