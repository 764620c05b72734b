"""Finding peers on the local network without anybody's help: a gated probe for each, to everybody there.

A beacon is an ordinary probe under the peer's gate, sent to a multicast group. To its peer it says "here I am", and
the two probe each other from then on; to all others it is as good as noise.
"""

from __future__ import annotations

import heapq

from fabric.core.machine import Instant
from fabric.wire.address import Address
from fabric.wire.beacon import GROUP_4, PORT

BEACON_GROUP = Address(GROUP_4, PORT)
"""Whoever sends it knows the links of this host, and the group of the other family."""

INTERVALS_S = (0.0, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0)
"""A peer that arrives later says so itself; these are for the beacons that got lost."""

SPACING_S = 0.05
"""Twenty small datagrams a second, however many peers there are."""


class Beacons:
    """Whose beacon is due. The parent makes them, and leaves out who needs none."""

    def __init__(self) -> None:
        self._due: list[tuple[Instant, str]] = []
        self._at: dict[str, Instant] = {}
        self._sent: dict[str, int] = {}
        self._free_at: Instant = 0.0

    def handle_moved(self, now: Instant) -> None:
        """The own network is another: everybody may be there."""
        for peer in self._sent:
            self._plan(peer, 0, now)

    def knows(self, peer: str) -> bool:
        return peer in self._sent

    def add(self, peer: str, now: Instant) -> None:
        """A peer that may be there; one that is known already begins anew."""
        self._plan(peer, 0, now)

    def forget(self, peer: str) -> None:
        self._sent.pop(peer, None)
        self._at.pop(peer, None)

    def take_due(self, now: Instant) -> str | None:
        """Returns a peer whose beacon may go now."""
        self._skip()
        if not self._due or self._due[0][0] > now or self._free_at > now:
            return None
        _, peer = heapq.heappop(self._due)
        sent = self._sent[peer] + 1
        self._plan(peer, sent, now + INTERVALS_S[min(sent, len(INTERVALS_S) - 1)])
        self._free_at = now + SPACING_S
        return peer

    def next_timeout(self) -> Instant | None:
        self._skip()
        return max(self._due[0][0], self._free_at) if self._due else None

    def _plan(self, peer: str, sent: int, at: Instant) -> None:
        self._sent[peer], self._at[peer] = sent, at
        heapq.heappush(self._due, (at, peer))

    def _skip(self) -> None:
        """Entries that a later plan has replaced."""
        while self._due and self._at.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
