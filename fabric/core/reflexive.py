"""Own reflexive addresses, and what the NAT in between does, by STUN (RFC 8489 section 2, RFC 5780).

Asked again at an interval, from the socket that the datagrams use, which also keeps the mapping alive that offers
speak of. An answer counts only for the transaction that is open with the server it came from; without answers for a
while an address is forgotten.

    start, move ----> look, one for each address family (`nat_probe`) ----> lifetime of a mapping (`mapping_lifetime`)
    an address changed, or an hour later: look again

What hostile names and answers can make of this: servers that never answer get `CALLS_AT_ONCE` requests and then one
every 5 s, all together; the other addresses that servers name of themselves, two of each, get four requests each
every 5 minutes, with 8 such servers 816 an hour. All are of 60 bytes or fewer. A look is in those 5 minutes however
often servers are exchanged or what they see changes, but for the first `LOOKS_AT_ONCE`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from fabric.core.askable import is_askable, may_be_seen
from fabric.core.binding_query import RETRIES_S, TRANSACTION_BYTES
from fabric.core.machine import NEVER, Draw, Instant, Transmit
from fabric.core.mapping_lifetime import SILENT_SOCKET, MappingLifetime
from fabric.core.nat_probe import PATIENCE_S, NatProbe
from fabric.core.pace import Pace
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.nat import UNKNOWN_NAT, NatBehaviour
from fabric.wire.stun import binding_request, decode_binding_success, transaction_of

MAX_SERVERS = 8
"""The service names them: more would let it aim our requests at hosts that never asked for them."""

LOOK_AGAIN_S = 3600.0
LOOK_PAUSE_S = 300.0
"""A mapping that moves all the time, or a server that says so, must not make for looks all the time. After a look that
found too little, it doubles."""

LOOKS_AT_ONCE = 4
CALLS_AT_ONCE = 100
CALL_PAUSE_S = 5.0
"""Pace at which servers are asked that never answered: 8 of them need 32 requests at first."""
STRANGE_INTERVAL_S = 300.0
"""Who never answered is asked ever more rarely, up to this."""

DOUBT_S = 0.5
"""No doubt comes sooner behind the last sign of a path: what a server has said since still holds."""

MAX_INTERVAL_S = 120.0
LIFETIME_SHARE = 0.6
"""Of an idle mapping's life passes until it is used again: room for two lost requests."""

FRESH_S = 60.0
"""Older than that, an outside port says little about the next one."""


@dataclass(slots=True)
class _Query:
    server: Address
    next_at: Instant
    transaction: bytes | None = None
    tries: int = 0
    reflexive: Address | None = None
    heard: Instant = -NEVER
    is_strange: bool = True
    """It never answered."""

    @property
    def is_given_up(self) -> bool:
        return self.tries > len(RETRIES_S)


class Reflexive:
    """Asks from three sockets: transmits have their `via`, 0 the main one, 1 and 2; and so must have sources."""

    def __init__(self, draw: Draw, interval_s: float) -> None:
        self._draw = draw
        self._least_interval_s = interval_s
        self._queries: dict[Address, _Query] = {}
        self._transmits: deque[Transmit] = deque()
        self._probe_4, self._probe_6 = NatProbe(draw), NatProbe(draw)
        self._lifetime = MappingLifetime(draw)
        self._is_heard = False
        self._unheard_at: Instant = NEVER
        self._carries_udp = True
        self._look_at: Instant = NEVER
        self._looked_at: Instant = -NEVER
        self._pause_s = LOOK_PAUSE_S
        self._calls = Pace(CALL_PAUSE_S, CALLS_AT_ONCE)
        self._looks = Pace(LOOK_PAUSE_S, LOOKS_AT_ONCE)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What the servers saw, each once, in the order of the servers."""
        return tuple(dict.fromkeys(q.reflexive for q in self._queries.values() if q.reflexive is not None))

    @property
    def nat(self) -> NatBehaviour:
        """What IPv4 goes through."""
        return self._behaviour(self._probe_4)

    @property
    def nat6(self) -> NatBehaviour:
        """What IPv6 goes through: a firewall, as a rule."""
        return self._behaviour(self._probe_6)

    @property
    def is_settled(self) -> bool:
        """Whether no look is under way: `nat` is as well known as these servers let it be. True without servers."""
        return not self._queries or not (self._probe_4.is_looking or self._probe_6.is_looking)

    @property
    def lifetime_s(self) -> float | None:
        """A UDP mapping that nobody used for so long stood still."""
        return self._lifetime.lifetime_s

    @property
    def interval_s(self) -> float:
        """How often the servers are asked."""
        grown = min(LIFETIME_SHARE * (self.lifetime_s or 0.0), MAX_INTERVAL_S)
        return max(grown, self._least_interval_s)

    def port_now(self, now: Instant) -> int | None:
        """Returns the outside port of the IPv4 mapping made last, behind a NAT that counts them; ask for a newer one
        by `refresh`. None elsewhere, and where none was made for a minute."""
        return self._probe_4.port(now, FRESH_S) if self._probe_4.stride else None

    def refresh(self, now: Instant, via: int = 1) -> None:
        """Makes a mapping from socket `via`, so that `port_now` tells it a round trip later. A socket that has
        sent to the server within the lifetime of mappings makes no new one: best is one just opened."""
        if via == SILENT_SOCKET and self._probe_4.server is not None:
            self._lifetime.begin(self._probe_4.server, now)
        self._probe_4.refresh(now, via)

    def handle_hosts(self, ips: Sequence[str]) -> None:
        """Takes the own IPs outside the overlay: who is seen under one of them is not translated."""
        for probe in self._probes:
            probe.handle_hosts(frozenset(ips))

    def handle_servers(self, servers: Sequence[Address], now: Instant) -> None:
        before = set(self._queries)
        askable = [server for server in servers[:MAX_SERVERS] if is_askable(server.ip)]
        self._queries = {s: self._queries.get(s) or _Query(s, now) for s in askable}
        if set(self._queries) != before:
            self.doubt(now)
            self._begin_look_soon(now)
        if not before:
            self._listen_anew(now)

    def handle_moved(self, now: Instant) -> None:
        """The own network changed: ask again at once."""
        for query in self._queries.values():
            query.tries = 0
            query.transaction = None
            query.next_at = now
        for probe in self._probes:
            probe.forget()
        self._calls.refill()
        self._looks.refill()
        self._lifetime.forget()
        self._carries_udp = True
        self._pause_s = LOOK_PAUSE_S
        self._listen_anew(now)
        self._begin_look(now)

    def doubt(self, now: Instant) -> None:
        """What the servers saw may no longer be so, or who was silent may be back: whoever isn't being asked just now
        is asked at once, unless it was heard a moment ago. This may be called for every peer and every doubt."""
        for query in self._queries.values():
            is_asked = query.transaction is not None and not query.is_given_up
            if not is_asked and now - query.heard >= DOUBT_S:
                query.tries = 0
                query.next_at = now

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> bool:
        """Returns True where an address of ours or `nat` has changed. Raises `DecodeError` for what is no answer."""
        query = self._queries.get(source)
        if query is not None and query.transaction is not None and query.transaction == transaction_of(payload):
            return self._handle_seen(query, payload, now)
        self._handle_other_untrusted(source, payload, now)
        return self._settle(now)

    def handle_timeout(self, now: Instant) -> bool:
        """Returns True where an address was forgotten or `nat` has changed."""
        changed = False
        if self._look_at <= now:
            self.doubt(now)
            self._begin_look(now)
        for query in self._queries.values():
            if query.next_at <= now:
                changed |= self._ask(query, now)
        for probe in self._probes:
            probe.handle_timeout(now)
        self._lifetime.handle_timeout(now)
        if self._unheard_at <= now:
            self._unheard_at = NEVER
            self._carries_udp, changed = self._is_heard, changed or not self._is_heard
        return self._settle(now) or changed

    def next_timeout(self) -> Instant | None:
        if not self._queries:
            return None
        soonest = min(self._look_at, self._unheard_at)
        for query in self._queries.values():
            soonest = min(soonest, query.next_at)
        for part in (self._probe_4, self._probe_6, self._lifetime):
            if (at := part.next_timeout()) is not None:
                soonest = min(soonest, at)
        return soonest

    def poll_transmit(self) -> Transmit | None:
        if self._transmits:
            return self._transmits.popleft()
        return self._probe_4.poll_transmit() or self._probe_6.poll_transmit() or self._lifetime.poll_transmit()

    # within

    @property
    def _probes(self) -> tuple[NatProbe, NatProbe]:
        return self._probe_4, self._probe_6

    def _behaviour(self, probe: NatProbe) -> NatBehaviour:
        if not self._queries:
            return UNKNOWN_NAT
        return NatBehaviour(probe.mapping, probe.filtering, probe.stride, self._carries_udp)

    def _probe_of(self, address: Address) -> NatProbe:
        return self._probe_6 if address.is_ipv6 else self._probe_4

    def _listen_anew(self, now: Instant) -> None:
        self._is_heard = False
        self._unheard_at = now + PATIENCE_S if self._queries else NEVER

    def _begin_look_soon(self, now: Instant) -> None:
        """At once, unless servers have been exchanged too often for that."""
        if self._looks.try_take(now) or not self._queries:
            self._begin_look(now)
            return
        for probe in self._probes:
            probe.forget()
        self._look_at = now + LOOK_PAUSE_S

    def _begin_look(self, now: Instant) -> None:
        self._looked_at, self._look_at = now, now + LOOK_AGAIN_S
        self._lifetime.stop()
        for probe in self._probes:
            servers = [server for server in self._queries if self._probe_of(server) is probe]
            if servers:
                probe.look(servers, now)
            else:
                probe.forget()

    def _handle_seen(self, query: _Query, payload: bytes, now: Instant) -> bool:
        success = decode_binding_success(payload)
        if success.address.is_ipv6 != query.server.is_ipv6:
            raise DecodeError("an address of another family")
        if not may_be_seen(success.address.ip, query.server.ip):
            raise DecodeError("an address that peers could not be told of")
        changed = query.reflexive != success.address
        if changed and query.reflexive is not None:
            self._lifetime.forget()  # perhaps it was let alone for too long
            self._look_at = min(self._look_at, max(now, self._looked_at + LOOK_PAUSE_S))
        query.reflexive = success.address
        query.heard = now
        query.transaction = None
        query.is_strange = False
        query.tries = 0
        query.next_at = now + self.interval_s
        changed |= not self._carries_udp
        self._is_heard, self._carries_udp, self._unheard_at = True, True, NEVER
        probe = self._probe_of(query.server)
        if probe.has_heard_nothing:
            self._begin_look(now)
        probe.handle_answered(query.server, success.address, success.other, now)
        return self._settle(now) or changed

    def _handle_other_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        try:
            self._probe_of(source).handle_datagram_untrusted(source, payload, now)
        except DecodeError:
            self._lifetime.handle_datagram_untrusted(source, payload, now)

    def _settle(self, now: Instant) -> bool:
        was_settled = self.is_settled
        changed = self._probe_4.settle(now) | self._probe_6.settle(now)
        if self.is_settled and not was_settled:
            self._handle_look_over(now)
        return changed

    def _handle_look_over(self, now: Instant) -> None:
        server = self._probe_4.server or self._probe_6.server
        if server is not None:
            self._lifetime.begin(server, now)
        if any(probe.has_found_too_little for probe in self._probes):
            self._look_at = min(self._look_at, now + self._pause_s)
            self._pause_s = min(2 * self._pause_s, LOOK_AGAIN_S)

    def _ask(self, query: _Query, now: Instant) -> bool:
        forgotten = False
        if query.tries >= len(RETRIES_S):
            forgotten = query.reflexive is not None
            query.reflexive = None
            query.next_at = now + self._pause_behind(query)
        else:
            query.next_at = now + RETRIES_S[query.tries]
        query.tries += 1
        if not query.is_strange or self._calls.try_take(now):
            query.transaction = query.transaction or self._draw(TRANSACTION_BYTES)
            self._transmits.append(Transmit(query.server, binding_request(query.transaction)))
        return forgotten

    def _pause_behind(self, query: _Query) -> float:
        """Returns how long to wait behind a try in vain."""
        if not query.is_strange:
            return self._least_interval_s
        doublings = min(query.tries - len(RETRIES_S), 10)
        return max(self._least_interval_s, min(self._least_interval_s * 2.0**doublings, STRANGE_INTERVAL_S))
