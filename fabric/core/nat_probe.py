"""What stands between this host and the servers, in one address family (RFC 5780 section 4).

    main socket   each server, and each server's other addresses      mapping
    socket 1      the first server, never its other address           filtering, see `filter_probe`
    socket 2      the first server, and its other address             more mappings made in a row, for the stride

A look takes two round trips and, for the filtering, about 0.8 s. It is the servers' word, so it is taken for what it
is: a server that lies makes this host guess where it need not, or not where it should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fabric.core.binding_query import BindingQueries, BindingQuery
from fabric.core.filter_probe import FilterProbe
from fabric.core.machine import Draw, Instant, Transmit
from fabric.core.nat_verdict import STEPS_TO_TRUST, mapping_of, other_of, stride_of
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.nat import Filtering, Mapping

FILTERING_SOCKET = 1
SPARE_SOCKET = 2

PATIENCE_S = 2.0
"""For servers that don't answer: a look ends without them."""

REMEMBERED_S = 900.0
"""Longer than NATs remember whom an idle socket has sent to, most of them."""


class NatProbe:
    """`mapping`, `filtering` and `stride` are those of the last look; `server` can do RFC 5780, if any can."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._queries = BindingQueries(draw)
        self._hosts: frozenset[str] = frozenset()
        self._touched: dict[Address, Instant] = {}
        self._patience_at: Instant | None = None
        self._filter: FilterProbe | None = None
        self.forget()

    def forget(self) -> None:
        """The network is another one: nothing holds any more, and no look goes on."""
        self._begin((), None)
        self._ports: dict[Address, int] = {}
        self._newest: tuple[Instant, int] | None = None
        self._refreshing: BindingQuery | None = None
        self.is_looking = False
        self.server: Address | None = None
        self.mapping = Mapping.UNKNOWN
        self.filtering = Filtering.UNKNOWN
        self.stride = 0

    @property
    def has_heard_nothing(self) -> bool:
        """Whether a look is over in which no server answered."""
        return bool(self._servers) and not self.is_looking and not self._seen

    @property
    def has_found_too_little(self) -> bool:
        """Whether a server can tell more than was found out: loss was in the way."""
        return self.server is not None and 0 in (self.mapping, self.filtering)

    def port(self, now: Instant, within_s: float) -> int | None:
        """Returns the outside port of the mapping made last, if it was made in the last `within_s`."""
        if self._newest is None or now - self._newest[0] > within_s:
            return None
        return self._newest[1]

    def handle_hosts(self, hosts: frozenset[str]) -> None:
        """Takes the host's own IPs."""
        self._hosts = hosts

    def look(self, servers: Sequence[Address], now: Instant) -> None:
        """Begins anew; what was found is kept until something else is. The servers are asked by the caller."""
        self._begin(servers, now + PATIENCE_S)
        self.is_looking = True

    def handle_answered(self, server: Address, seen: Address, other: Address | None, now: Instant) -> None:
        """The main socket was told by `server` what it saw, and perhaps its other address."""
        if server not in self._servers:
            return
        self._note(server, seen.port, self._servers.index(server), now)
        if not self.is_looking or server in self._seen:
            return
        self._seen[server] = seen
        if (other := other_of(server, other)) is not None:
            self._able[server] = other
            for to in (other, replace(other, port=server.port)):  # the first tells IP and port apart from the second
                if to not in self._servers and to not in self._alternates:
                    self._alternates[to] = self._ask(to, now)

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        """Raises `DecodeError` for what is no answer to a question of this look."""
        try:
            query = self._queries.handle_datagram_untrusted(source, payload)
        except DecodeError:
            if self._filter is None:
                raise
            self._filter.handle_datagram_untrusted(source, payload, now)
            return
        if query.seen is None:
            return
        if query is self._refreshing:
            self._handle_refreshed(query.to, query.seen.port, now)
        elif query in self._asked:
            self._note(query.to, query.seen.port, len(self._servers) + self._asked.index(query), now)

    def refresh(self, now: Instant, via: int) -> None:
        """Asks what the outside port of a mapping is that is made now: for that, `via` must be a socket that has sent
        nothing to the servers for as long as mappings live."""
        if self.server is not None:
            self._refreshing = self._queries.ask(replace(self.server, via=via), now)

    def handle_timeout(self, now: Instant) -> None:
        self._queries.handle_timeout(now)
        if self._filter is not None:
            self._filter.handle_timeout(now)

    def settle(self, now: Instant) -> bool:
        """To be called when answers and the time were handed on. Returns whether something else was found."""
        if not self.is_looking:
            return False
        if self._patience_at is not None and now >= self._patience_at:
            self._patience_at = None
        before = (self.mapping, self.filtering, self.stride)
        self._begin_burst_if_due(now)
        is_mapping_known = not self._waits_for_servers and not any(query.is_open for query in self._asked)
        if is_mapping_known:
            self._conclude_mapping()
        is_filter_known = self._filter is None or self._filter.result is not None
        if self._filter is not None and self._filter.result not in (None, Filtering.UNKNOWN):
            self.filtering = self._filter.result
        if is_mapping_known and is_filter_known:
            self.is_looking, self._filter = False, None
        return before != (self.mapping, self.filtering, self.stride)

    def next_timeout(self) -> Instant | None:
        if not self.is_looking:
            return self._queries.next_timeout()
        ats = [self._queries.next_timeout()]
        if self._filter is not None:
            ats.append(self._filter.next_timeout())
        if self._waits_for_servers:
            ats.append(self._patience_at)
        return min((at for at in ats if at is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        transmit = self._queries.poll_transmit()
        if transmit is None and self._filter is not None:
            transmit = self._filter.poll_transmit()
        return transmit

    # within

    def _begin(self, servers: Sequence[Address], patience_at: Instant | None) -> None:
        self._queries.forget_all()
        self._servers = tuple(servers)
        self._patience_at = patience_at
        self._filter = None
        self._able: dict[Address, Address] = {}
        self._seen: dict[Address, Address] = {}
        self._alternates: dict[Address, BindingQuery] = {}
        self._asked: list[BindingQuery] = []
        self._has_burst = False
        self._fresh: dict[int, int] = {}

    @property
    def _waits_for_servers(self) -> bool:
        return self.is_looking and self._patience_at is not None and len(self._seen) < len(self._servers)

    def _ask(self, to: Address, now: Instant) -> BindingQuery:
        query = self._queries.ask(to, now)
        self._asked.append(query)
        return query

    def _begin_burst_if_due(self, now: Instant) -> None:
        """Once; with the server of last time if it answers, as what socket 1 sent may still hold filters open."""
        if self._has_burst or not self._able:
            return
        if self.server in self._able:
            self._begin_burst(self.server, now)
        elif self.server not in self._servers or not self._waits_for_servers:
            self._begin_burst(next(iter(self._able)), now)

    def _begin_burst(self, server: Address, now: Instant) -> None:
        """Makes mappings in a row. Socket 1 asks here what opens the filter towards the first server alone."""
        self._has_burst = True
        self.server, other = server, self._able[server]
        self._ask(replace(server, via=FILTERING_SOCKET), now)
        self._ask(replace(server, via=SPARE_SOCKET), now)
        self._ask(replace(other, via=SPARE_SOCKET), now)
        self._touched = {at: when for at, when in self._touched.items() if now - when < REMEMBERED_S}
        if other.ip != server.ip and any(touched.ip == other.ip for touched in self._touched):
            other = replace(other, ip=server.ip)
        if other != server and replace(server, port=other.port) not in (self._touched.keys() - {server}):
            wanted_from = replace(other, via=FILTERING_SOCKET)
            self._filter = FilterProbe(replace(server, via=FILTERING_SOCKET), wanted_from, self._draw, now)
        self._touched[server] = now

    def _handle_refreshed(self, to: Address, port: int, now: Instant) -> None:
        """Of the sockets that stay, the port of last time is that of an old mapping."""
        if self._ports.get(to) != port:
            self._newest = (now, port)
        if to.via in (FILTERING_SOCKET, SPARE_SOCKET):
            self._ports[to] = port

    def _note(self, to: Address, port: int, order: int, now: Instant) -> None:
        """A port that is not the one of last time belongs to a mapping that is new."""
        if self._ports.get(to) == port:
            return
        self._ports[to] = self._fresh[order] = port
        self._newest = (now, self._fresh[max(self._fresh)] if self.is_looking else port)

    def _conclude_mapping(self) -> None:
        seen = dict(self._seen)
        seen.update({to: query.seen for to, query in self._alternates.items() if query.seen is not None})
        if (mapping := mapping_of(seen, self._hosts)) is not Mapping.UNKNOWN:
            self.mapping = mapping
        if not self.mapping.is_dependent:
            self.stride = 0
        elif len(self._fresh) > STEPS_TO_TRUST:
            self.stride = stride_of([self._fresh[order] for order in sorted(self._fresh)])
