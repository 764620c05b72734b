"""Bounds on what anyone can make the service do: buckets of tokens by source, and counts of what is open."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from fabric.core.machine import Instant

MAX_SOURCES = 65_536
"""Buckets remembered; who comes back after being forgotten starts with a full one."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` tokens at once, `per_second` more as time goes by."""

    per_second: float
    burst: float


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
