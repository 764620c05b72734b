"""How long a packet one path carries: found by probes, since ICMP may be filtered or forged (RFC 8899).

    begin --> search: base and ceiling, then every size between --rounds over--> settled
                 ^                                                                 |  |
                 +--- under traffic MISSES probes of the size in use lost ---------+  |
                 +--- now and then, for a path that has become wider -----------------+

Data starts at the base, which nearly every path carries, and never uses a size that has not been answered. Sizes
are whole outer packets in bytes, IP header included.
"""

from __future__ import annotations

from fabric.core.machine import NEVER, Instant
from fabric.core.talk import Talk

BASE_BYTES = 1280
"""Every IPv6 path carries it (RFC 8200 section 5), and what is built for IPv4 today does too."""

LEAST_BYTES = 576
"""Where not even the base gets through: what every IPv4 host must take (RFC 1122 section 3.3.2)."""

COMMON_BYTES = (1024, BASE_BYTES, 1380, 1420, 1452, 1480, 1492, 1500)
"""Tunnels in tunnels, WireGuard (1420), PPPoE with 6in4 (1472) and without (1492), 6in4 (1480), Ethernet."""

ROUND_S = 0.3
ROUNDS = 4
RAISE_S = 600.0
"""RFC 8899 section 5.1.1, PMTU_RAISE_TIMER."""

FIRST_RAISE_S = 30.0
"""The first search may have met a burst of loss."""

CONFIRM_S = 1.0
"""Under traffic the size in use is asked after this often: a path that became narrower shows within 3 s."""

MISSES = 5
"""With every third packet lost, one of 30 such series means nothing."""


class PathMtu:
    """`limit` is what data may use; `is_settled` says that the first search is over.

    `longest` is the longest packet that is ever tried. `since` is when the search began: what was answered to probes
    from before says nothing of the path as it is now.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._ceiling = longest
        self._best = 0
        self._round = ROUNDS
        self._misses = 0
        self._raised = False
        self._talk = Talk()
        self._confirm_at: Instant = NEVER
        self._next: Instant = NEVER
        self.since: Instant = -NEVER
        self.limit = min(BASE_BYTES, longest)

    @property
    def is_stopped(self) -> bool:
        """Whether nobody has asked what the path carries."""
        return self._next == NEVER

    @property
    def is_settled(self) -> bool:
        return self._round >= ROUNDS and self._next != NEVER

    @property
    def confirmed(self) -> int | None:
        """The longest packet that is known to have got through."""
        return self._best or None

    def begin(self, now: Instant) -> None:
        """The path is in use, and proven: find out what it carries."""
        self._best = 0
        self._raised = False
        self.limit = min(BASE_BYTES, self._ceiling)
        self._search(now)

    def handle_moved(self) -> None:
        """The path may lead through another device now: whatever that one refused, this one may take."""
        self._ceiling = self._longest

    def stop(self) -> None:
        """The path is not in use: nothing is asked until the next `begin`."""
        self._round, self._next, self._confirm_at = ROUNDS, NEVER, NEVER

    def handle_sealed(self, records: int, now: Instant) -> None:
        """So many records with data were sent on this path."""
        if self._talk.note(records, now) and self.is_settled and self._confirm_at == NEVER:
            self._confirm_at = now + CONFIRM_S
            self._talk.reset()

    def handle_answer(self, size: int, now: Instant) -> None:
        """A probe of `size` bytes got through."""
        self._best = max(self._best, size)
        if size >= self.limit:
            self.limit = size
            self._misses = 0
            if self.is_settled:
                self._confirm_at = NEVER
        if self._best >= self._ceiling and not self.is_settled:
            self._settle(now)

    def handle_too_long(self, size: int, now: Instant) -> None:
        """The own device does not take `size` bytes."""
        self._ceiling = max(LEAST_BYTES, min(self._ceiling, size - 1))
        if self.limit > self._ceiling:
            self._best = 0
            self.limit = min(BASE_BYTES, self._ceiling)
            self._search(now)

    def take_due(self, now: Instant) -> tuple[int, ...]:
        """Returns the sizes to be probed now."""
        if self._next <= now:
            return self._take_search(now)
        if self._confirm_at <= now:
            return self._take_confirmation(now)
        return ()

    def next_timeout(self) -> Instant:
        return min(self._next, self._confirm_at)

    def _search(self, now: Instant) -> None:
        self.since = now
        self._round, self._misses = 0, 0
        self._confirm_at, self._next = NEVER, now

    def _take_search(self, now: Instant) -> tuple[int, ...]:
        if self.is_settled:
            self._raised = True
            self._round = 0
            self._ceiling = self._longest  # the device may be another, or have believed a forged ICMP message
        if self._round >= ROUNDS - 1:
            if self._best < self.limit:
                self.limit = LEAST_BYTES  # nothing was answered: go below the base, and look again later
            self._settle(now)
            return ()
        self._round += 1
        self._next = now + ROUND_S
        sizes = self._sizes_above()
        return (*sizes[:1], *sizes[-1:]) if self._round == 1 and len(sizes) > 1 else sizes

    def _sizes_above(self) -> tuple[int, ...]:
        """What has not been answered yet; the base first, as long as it is only believed in."""
        wanted = {size for size in (*COMMON_BYTES, self._ceiling) if self._best < size <= self._ceiling}
        if self.limit >= BASE_BYTES:
            wanted -= {size for size in wanted if size < BASE_BYTES}
        return tuple(sorted(wanted))

    def _take_confirmation(self, now: Instant) -> tuple[int, ...]:
        self._misses += 1
        if self._misses > MISSES:
            self._best = 0
            self.limit = min(BASE_BYTES, self._ceiling)
            self._search(now)
            return self._take_search(now)
        self._confirm_at = now + ROUND_S
        return (self.limit,)

    def _settle(self, now: Instant) -> None:
        self._round = ROUNDS
        self._next = now + (RAISE_S if self._raised or self._best >= self._ceiling else FIRST_RAISE_S)
