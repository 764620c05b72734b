"""Bounds on what anyone can make the service do: buckets of tokens by source, and counts of what is open."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from fabric.core.machine import Instant

MAX_SOURCES = 65_536
"""Buckets remembered; who comes back after being forgotten starts with a full one."""

FREE_TRIES = 3
"""Wrong ones of a source, before it has to pause: a slip of the hand is caught by the key's checksum already."""

MAX_PAUSE_S = 3600.0
FORGET_S = 2 * MAX_PAUSE_S
"""After its last wrong try a source begins anew."""

TOLD_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` tokens at once, `per_second` more as time goes by."""

    per_second: float
    burst: float


TRIES_IN_ALL = Rate(per_second=100 / 3600, burst=100)
"""Wrong tries at one key by all sources together, before each of them gets the longest pause at once."""


class TokenBucket:
    """Tokens that come back with time."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: Instant) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, now: Instant, tokens: float = 1.0) -> bool:
        """Returns whether there were enough; takes nothing where there were not."""
        self._refill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def owe(self, now: Instant, tokens: float = 1.0) -> float:
        """Takes tokens even where too few are left; returns for how many seconds the taker is to pause."""
        self._refill(now)
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate.per_second)

    def _refill(self, now: Instant) -> None:
        self._tokens = min(self._rate.burst, self._tokens + max(0.0, now - self._at) * self._rate.per_second)
        self._at = max(self._at, now)


class SourceBuckets:
    """A bucket for each source; the one unused for longest is forgotten for a new one."""

    __slots__ = ("_buckets", "_limit", "_rate")

    def __init__(self, rate: Rate, limit: int = MAX_SOURCES) -> None:
        self._rate = rate
        self._limit = limit
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def take(self, ip: str, now: Instant) -> bool:
        source = source_of(ip)
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                self._buckets.popitem(last=False)
            bucket = self._buckets[source] = TokenBucket(self._rate, now)
        self._buckets.move_to_end(source)
        return bucket.take(now)


@dataclass(slots=True)
class _Wrong:
    count: int
    last: Instant
    until: Instant


@dataclass(slots=True)
class _InAll:
    bucket: TokenBucket
    told_until: Instant


class WrongTries:
    """Who guessed wrong pauses, twice as long each time; who never did is not held up by those who do.

    Tries are counted by source and by what was tried: a key's id, as it was claimed, whether there is such a key or
    not. What many sources guess at together has a bound of its own: beyond it, one wrong try earns the longest pause.
    """

    __slots__ = ("_by_source", "_in_all", "_limit")

    def __init__(self, limit: int = MAX_SOURCES) -> None:
        self._limit = limit
        self._by_source: OrderedDict[tuple[str, str], _Wrong] = OrderedDict()
        self._in_all: OrderedDict[str, _InAll] = OrderedDict()

    def allows(self, ip: str, tried: str, now: Instant) -> bool:
        """Returns whether a try of this source is to be looked at now."""
        wrong = self._by_source.get((source_of(ip), tried))
        return wrong is None or now >= wrong.until

    def note(self, ip: str, tried: str, now: Instant) -> bool:
        """A try was wrong. Returns whether the many are beyond their bound and that is to be told: once an hour."""
        in_all = self._of_all(tried, now)
        is_beyond = not in_all.bucket.take(now)
        key = source_of(ip), tried
        before = self._by_source.pop(key, None)
        count = 1 + (before.count if before is not None and now < before.last + FORGET_S else 0)
        self._by_source[key] = _Wrong(count, now, now + (MAX_PAUSE_S if is_beyond else _pause_s(count)))
        if len(self._by_source) > self._limit:
            self._by_source.popitem(last=False)
        if not is_beyond or now < in_all.told_until:
            return False
        in_all.told_until = now + TOLD_AGAIN_S
        return True

    def _of_all(self, tried: str, now: Instant) -> _InAll:
        found = self._in_all.pop(tried, None) or _InAll(TokenBucket(TRIES_IN_ALL, now), now)
        self._in_all[tried] = found
        if len(self._in_all) > self._limit:
            self._in_all.popitem(last=False)
        return found


def _pause_s(count: int) -> float:
    over = count - FREE_TRIES
    return min(MAX_PAUSE_S, 2.0 ** min(over, 32)) if over > 0 else 0.0


class OpenCount:
    """How many of something are open, per source and overall."""

    __slots__ = ("_by_source", "_overall", "_per_source", "total")

    def __init__(self, *, per_source: int, overall: int) -> None:
        self._per_source = per_source
        self._overall = overall
        self._by_source: dict[str, int] = {}
        self.total = 0

    def enter(self, ip: str) -> bool:
        """Returns whether one more is allowed; only then `leave` is to follow."""
        source = source_of(ip)
        count = self._by_source.get(source, 0)
        if count >= self._per_source or self.total >= self._overall:
            return False
        self._by_source[source] = count + 1
        self.total += 1
        return True

    def leave(self, ip: str) -> None:
        source = source_of(ip)
        self.total -= 1
        if self._by_source[source] == 1:
            del self._by_source[source]
        else:
            self._by_source[source] -= 1


def source_of(ip: str) -> str:
    """Returns what one host can't choose freely of its address: an IPv4 address whole, of an IPv6 address the /64."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return address.packed[:8].hex()
    return str(address)
