"""A relay: forwards datagrams between the two sides of a pair that hold a grant, and understands nothing of them.

    BIND (zeros) -> CHALLENGE      nothing is kept: the cookie is made of the source, and proves it when it comes back
    BIND (signed) -> BOUND         cookie, limit of the source, grant, signature of the holder; the cheapest first
    RELAYED                        channel -> binding -> the binding of the other side that fits best;
                                   GATED, with which any two begin, goes to every binding of the other side

A side may be bound in up to four ways at a time. Binding again in the same way (transport, and place of the relay)
moves it: that is roaming. What a stranger sends changes a counter, and gets at most an answer shorter than itself.

What is bound, and which grants are void, is lost with the process: endpoints bind again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from discovery.core.binding import Allowance, Binding, Pair, Place, Source, best_of
from discovery.core.limits import Rate, SourceBuckets, TokenBucket
from discovery.core.settings import DAY_S
from fabric.core.machine import NEVER, Calendar, Draw, Instant, Transmit
from fabric.crypto.digest import equal, join, mac_128
from fabric.crypto.signature import LABEL_RELAY, verify
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.grant import Grant, grant_id, open_grant, peek_grant
from fabric.identity.trust import Trust
from fabric.wire.address import Address, Transport
from fabric.wire.datagram import DATA_TYPE, GATED_TYPE
from fabric.wire.relay import (
    NO_COOKIE,
    RELAYED_HEADER,
    RELAYED_HEADER_BYTES,
    RELAYED_TYPE,
    Bind,
    Bound,
    Challenge,
    Refresh,
    Refreshed,
    Refused,
    RefusedReason,
    RelayMessage,
    decode_relay_message,
    encode_relay_message,
)

MAX_RELAYED_BYTES = 9216
"""Jumbo frames, for those who have them."""

MAX_WAYS = 4
"""Of one side: UDP and WebSocket, each at two places."""

_RELAYED_HEAD = bytes((RELAYED_TYPE, 0, 0, 0))
_INNER = frozenset((DATA_TYPE, GATED_TYPE))
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Times in seconds."""

    life_s: int = 120
    """Of a binding without REFRESH: a vanished end is forgotten, and three refreshes at 30 s may be lost."""

    cookie_s: float = 60.0
    """How often the secret of the cookies changes; the last one is still good, so a cookie lives one or two of it."""

    max_bindings: int = 65_536
    """About a kilobyte each."""

    question_rate: float = 5000.0
    """BINDs looked at in all, those without a cookie and those with one apart: their sources can be forged, and each
    costs some thirty microseconds. What is bound is not touched by a flood of them."""

    bind_rate: float = 100.0
    bind_burst: float = 4096.0
    """Proofs checked for one source, at a third of a millisecond each; a restart binds every pair at once."""

    max_sources: int = 16_384
    """Sources remembered for it: only such as have shown a cookie that went there."""

    sweep_s: float = 10.0
    max_void: int = 65_536
    """Withdrawn pairs and revoked keys remembered; each for a day, since no grant lives longer."""


class Relay:
    """`counters` counts what was forwarded, and by reason what was not. Needs no more than the authority's root.

    A source is an `Address` of transport RELAY_UDP or RELAY_TLS. Its `via` is the place of this relay that was asked
    (a number of the driver's for its own address) for UDP, and the connection for a WebSocket.
    """

    def __init__(
        self, trust: Trust, network: str, draw: Draw, calendar: Calendar, settings: RelaySettings, now: Instant
    ) -> None:
        self._trust = trust
        self._network = network.encode()
        self._draw = draw
        self._calendar = calendar
        self._settings = settings
        self._secrets = (draw(_SECRET_BYTES), draw(_SECRET_BYTES))
        self._secret_ends = now + settings.cookie_s
        self._sources = SourceBuckets(Rate(settings.bind_rate, settings.bind_burst), settings.max_sources)
        questions = Rate(settings.question_rate, settings.question_rate)
        self._first_questions = TokenBucket(questions, now)
        self._second_questions = TokenBucket(questions, now)
        self._bindings: dict[int, Binding] = {}
        self._pairs: dict[bytes, Pair] = {}
        self._by_connection: dict[Source, list[Binding]] = {}
        self._allowances: OrderedDict[tuple[bytes, int], Allowance] = OrderedDict()
        self._void: OrderedDict[bytes, float] = OrderedDict()
        self._transmits: deque[Transmit] = deque()
        self._sweep_at = NEVER
        self.counters: Counter[str] = Counter()

    @property
    def bindings(self) -> int:
        """How many stand."""
        return len(self._bindings)

    def is_bound(self, source: Address) -> bool:
        """Whether anything stands over this WebSocket connection."""
        return _source(source) in self._by_connection

    # datagrams

    def handle_datagram(self, source: Address, payload: bytes, now: Instant, place: int = 0) -> None:
        """`place` is where a WebSocket was opened to, as `via` is for UDP."""
        target = _source(source)
        if payload[:1] == _RELAYED_HEAD[:1]:
            for to, datagram in self.forward(target, payload, now):
                self._transmits.append(Transmit(Address(*to), datagram))
            return
        where = (source.transport, source.via if source.transport is Transport.RELAY_UDP else place)
        answer = self._handle_control_untrusted(target, where, payload, now)
        if answer is not None:
            self._transmits.append(Transmit(source, encode_relay_message(answer)))

    def forward(self, source: Source, payload: bytes, now: Instant) -> Sequence[tuple[Source, bytes]]:
        """Returns where a RELAYED datagram goes on, and as what; nothing where it ends here.

        The hot path of a driver: nothing is queued, and hardly an object but the bytes is made.
        """
        counters = self.counters
        size = len(payload)
        binding = self._bindings.get(int.from_bytes(payload[4:8]))
        if binding is None or binding.source != source or now >= binding.until:
            counters["stranger"] += 1
            return ()
        if not RELAYED_HEADER_BYTES < size <= MAX_RELAYED_BYTES or payload[8] not in _INNER:
            counters["no_datagram"] += 1
            return ()
        binding.heard = now
        others = binding.others
        if len(others) != 1:
            if not others:
                counters["alone"] += 1
                return ()
            other = best_of(others, binding.place)
        else:
            other = others[0]
        if not binding.pair.take(size, now):
            counters["rate"] += 1
            return ()
        allowance = binding.allowance
        if allowance.left < size:
            counters["quota"] += 1
            return ()
        allowance.left -= size
        counters["forwarded"] += 1
        counters["forwarded_bytes"] += size
        first = (other.source, other.head + payload[8:])
        is_for_all = len(others) != 1 and payload[8] == GATED_TYPE
        return (first, *self._copies(binding, other, payload, now)) if is_for_all else (first,)

    def _copies(self, binding: Binding, first: Binding, payload: bytes, now: Instant) -> Iterator[tuple[Source, bytes]]:
        """For each further way of the other side, within the pair's rate. Where an endpoint was copied, the original
        and the copy are one side; the peer finds out as soon as it speaks with both."""
        for other in binding.others:
            if other is not first and binding.pair.take(len(payload), now):
                self.counters["copied"] += 1
                yield other.source, other.head + payload[8:]

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def handle_lost(self, source: Address) -> None:
        """A WebSocket was closed."""
        for binding in list(self._by_connection.get(_source(source), ())):
            self._drop(binding)

    # who may no longer

    def revoke(self, holder: bytes, now: Instant) -> None:
        """Drops the bindings of an identity key at once; grants that it got before are void."""
        self._make_void(holder, now)
        for binding in [binding for binding in self._bindings.values() if binding.holder == holder]:
            self._drop(binding)

    def withdraw(self, key: bytes, now: Instant) -> None:
        """Drops a pair at once; its grants of before are void."""
        self._make_void(key, now)
        pair = self._pairs.get(key)
        if pair is not None:
            for binding in (*pair.ways[0], *pair.ways[1]):
                self._drop(binding)

    # time

    def handle_timeout(self, now: Instant) -> None:
        if now < self._sweep_at:
            return
        for binding in [binding for binding in self._bindings.values() if binding.until <= now]:
            self._drop(binding)
        while self._allowances and next(iter(self._allowances.values())).ends <= now:
            self._allowances.popitem(last=False)
        unix = self._calendar.unix(now)
        while self._void and next(iter(self._void.values())) + DAY_S <= unix:
            self._void.popitem(last=False)
        self._sweep_at = now + self._settings.sweep_s if self._bindings or self._allowances or self._void else NEVER

    def next_timeout(self) -> Instant | None:
        return None if self._sweep_at == NEVER else self._sweep_at

    # control messages

    def _handle_control_untrusted(
        self, source: Source, place: Place, payload: bytes, now: Instant
    ) -> RelayMessage | None:
        try:
            message = decode_relay_message(payload)
            match message:
                case Bind():
                    return self._handle_bind_untrusted(source, place, message, now)
                case Refresh(channels):
                    return self._refresh(source, channels, now)
        except DecodeError:
            pass
        self.counters["undecodable"] += 1
        return None

    def _refresh(self, source: Source, channels: tuple[int, ...], now: Instant) -> Refreshed:
        standing = []
        for channel in channels:
            binding = self._bindings.get(channel)
            if binding is None or binding.source != source or now >= binding.until:
                continue
            self._keep(binding, now)
            standing.append(channel)
        return Refreshed(tuple(standing))

    def _handle_bind_untrusted(self, source: Source, place: Place, bind: Bind, now: Instant) -> RelayMessage | None:
        """Raises `DecodeError`."""
        questions = self._first_questions if bind.cookie == NO_COOKIE else self._second_questions
        if not questions.take(now):
            self.counters["flood"] += 1
            return None
        claimed = peek_grant(bind.grant)
        identifier = grant_id(bind.grant)
        binding = self._find(claimed, source)
        if binding is not None and binding.grant_id == identifier and equal(binding.cookie, bind.cookie):
            self.counters["repeated"] += 1
            return self._bound(binding, now)
        if not self._made(bind.cookie, source, claimed, identifier, now):
            self.counters["challenged" if bind.cookie == NO_COOKIE else "cookie"] += 1
            return Challenge(identifier, self._cookie(self._secrets[0], source, claimed, identifier))
        refusal = self._fault_of(bind, source, identifier, now)
        if refusal is not None:
            self.counters[f"refused_{refusal.name.lower()}"] += 1
            return Refused(identifier, refusal)
        return self._bound(self._bind(source, place, claimed, identifier, bind.cookie, now), now)

    def _fault_of(self, bind: Bind, source: Source, identifier: bytes, now: Instant) -> RefusedReason | None:
        """Returns why a grant with a good cookie is not taken, if so."""
        if not self._sources.take(source[0], now):
            return RefusedReason.FULL
        try:
            grant = open_grant(bind.grant, self._trust, self._calendar.unix(now))
        except (AuthenticationError, DecodeError):
            return RefusedReason.GRANT
        if any(grant.not_before < self._void.get(key, 0.0) for key in (grant.pair, grant.holder)):
            return RefusedReason.GRANT
        try:
            verify(grant.holder, LABEL_RELAY, bind.signature, self._network, bind.cookie, identifier)
        except AuthenticationError:
            return RefusedReason.SIGNATURE
        is_full = len(self._bindings) >= self._settings.max_bindings and self._find(grant, source) is None
        return RefusedReason.FULL if is_full else None

    # bindings

    def _bind(
        self,
        source: Source,
        place: Place,
        grant: Grant,
        identifier: bytes,
        cookie: bytes,
        now: Instant,
    ) -> Binding:
        """Everything is proven: binds, or renews what is bound from this source already."""
        pair = self._pair(grant, now)
        binding = self._find(grant, source)
        if binding is None:
            binding = self._begin(source, place, pair, grant, now)
        binding.grant_id, binding.holder, binding.cookie = identifier, grant.holder, cookie
        binding.grant_ends = self._calendar.instant(grant.expires)
        binding.quota, binding.bound = grant.quota_bytes, now
        self._keep(binding, now)
        pair.rate = float(grant.rate_bytes_s)
        self._sweep_at = min(self._sweep_at, now + self._settings.sweep_s)
        self.counters["bound"] += 1
        return binding

    def _keep(self, binding: Binding, now: Instant) -> None:
        binding.heard = now
        binding.until = min(now + self._settings.life_s, binding.grant_ends)
        binding.allowance = self._allowance((binding.pair.key, binding.side), binding.quota, now)

    def _begin(self, source: Source, place: Place, pair: Pair, grant: Grant, now: Instant) -> Binding:
        ways, others = pair.ways[grant.side], pair.ways[1 - grant.side]
        left = next((binding for binding in ways if binding.place == place), None)
        channel, moves = (left.channel, left.moves) if left is not None else (self._draw_channel(), 0)
        if left is not None:
            self._drop(left)
        if len(ways) >= MAX_WAYS:
            self._drop(min(ways, key=lambda binding: binding.heard))
        self._pairs[pair.key] = pair  # where what was dropped was the last of it
        binding = Binding(
            source=source,
            place=place,
            channel=channel,
            moves=moves + 1,
            head=RELAYED_HEADER.pack(RELAYED_TYPE, channel),
            pair=pair,
            side=grant.side,
            others=others,
            quota=grant.quota_bytes,
            allowance=self._allowance((grant.pair, grant.side), grant.quota_bytes, now),
            grant_id=b"",
            holder=grant.holder,
            grant_ends=now,
            cookie=b"",
            bound=now,
            heard=now,
            until=now,
        )
        ways.append(binding)
        pair.moves[grant.side] += 1
        self._bindings[channel] = binding
        if source[2] is Transport.RELAY_TLS:
            self._by_connection.setdefault(source, []).append(binding)
        return binding

    def _pair(self, grant: Grant, now: Instant) -> Pair:
        rate = float(grant.rate_bytes_s)
        return self._pairs.get(grant.pair) or Pair(grant.pair, rate, rate, now)

    def _allowance(self, key: tuple[bytes, int], quota: int, now: Instant) -> Allowance:
        """Kept for a day also while nothing is bound: binding again does not refill it."""
        allowance = self._allowances.get(key)
        if allowance is None or allowance.ends <= now:
            while len(self._allowances) >= 2 * self._settings.max_bindings:
                self._allowances.popitem(last=False)
            self._allowances.pop(key, None)
            allowance = self._allowances[key] = Allowance(quota, now + DAY_S)
        return allowance

    def _find(self, grant: Grant, source: Source) -> Binding | None:
        pair = self._pairs.get(grant.pair)
        if pair is None:
            return None
        return next((binding for binding in pair.ways[grant.side] if binding.source == source), None)

    def _drop(self, binding: Binding) -> None:
        del self._bindings[binding.channel]
        binding.pair.ways[binding.side].remove(binding)
        if not any(binding.pair.ways):
            self._pairs.pop(binding.pair.key, None)
        over = self._by_connection.get(binding.source)
        if over is not None:
            over.remove(binding)
            if not over:
                del self._by_connection[binding.source]

    def _draw_channel(self) -> int:
        while (channel := int.from_bytes(self._draw(4))) == 0 or channel in self._bindings:
            pass
        return channel

    def _bound(self, binding: Binding, now: Instant) -> Bound:
        return Bound(binding.grant_id, binding.channel, max(0, int(binding.until - now)), binding.moves)

    def _make_void(self, key: bytes, now: Instant) -> None:
        self._void.pop(key, None)
        while len(self._void) >= self._settings.max_void:
            self._void.popitem(last=False)
        # A grant keeps its times to the millisecond: one of the same moment is as new as this.
        self._void[key] = round(self._calendar.unix(now) * 1000) / 1000
        self._sweep_at = min(self._sweep_at, now + self._settings.sweep_s)

    # cookies

    def _made(self, cookie: bytes, source: Source, claimed: Grant, identifier: bytes, now: Instant) -> bool:
        """Returns whether this relay made the cookie for this source lately, and the side has not moved since."""
        if now >= self._secret_ends:
            is_stale = now >= self._secret_ends + self._settings.cookie_s
            self._secrets = (self._draw(_SECRET_BYTES), self._draw(_SECRET_BYTES) if is_stale else self._secrets[0])
            self._secret_ends = now + self._settings.cookie_s
        return any(equal(cookie, self._cookie(secret, source, claimed, identifier)) for secret in self._secrets)

    def _cookie(self, secret: bytes, source: Source, claimed: Grant, identifier: bytes) -> bytes:
        pair = self._pairs.get(claimed.pair)
        moves = 0 if pair is None else pair.moves[claimed.side]
        ip, *rest = source
        numbers = b"".join(int(number).to_bytes(8) for number in (*rest, moves))
        return mac_128(secret, join(ip.encode(), numbers, identifier))


def _source(source: Address) -> Source:
    return (source.ip, source.port, source.transport, source.via)
