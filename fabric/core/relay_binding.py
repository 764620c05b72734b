"""What an endpoint asks one relay for: a channel to each peer, asked for at a pace."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from fabric.core.machine import NEVER, Instant
from fabric.core.pace import Pace
from fabric.core.relay_rival import Moves
from fabric.wire.address import Address

BINDS_PER_S = 50.0
BINDS_AT_ONCE = 50
"""A thousand peers are bound in 20 s, and a relay that comes back is not drowned by those who wait for it."""
PAUSE_S = 2.0
PAUSE_LIMIT_S = 60.0
LASTING_S = 60.0
ANEW_AT_ONCE = 6
ANEW_S = 60.0
"""A host on the move, or behind a router that begins anew, loses a few channels in a row. A relay that takes back one
after the other is asked for more at this pace, not at its own."""


@dataclass(slots=True, eq=False)
class Binding:
    """The channel to one peer at one relay. `channels` begins with the newest; behind it is one over another way that
    still stands, for whoever uses it until the new one has proved itself. `asked_on` is the way that a question under
    way went, `cookie` what the relay wants to see in it."""

    peer: str
    grant: bytes = field(repr=False)
    grant_id: bytes = field(repr=False)
    channels: tuple[Address, ...] = ()
    asked_on: Address | None = None
    cookie: bytes | None = field(default=None, repr=False)
    first_asked: Instant = NEVER
    due: Instant = NEVER
    tries: int = 0
    challenges: int = 0
    pause_s: float = 0.0
    bound_at: Instant = -NEVER
    anew: Pace = field(default_factory=lambda: Pace(ANEW_S, ANEW_AT_ONCE))
    moves: Moves = field(default_factory=Moves)
    is_dead: bool = False
    """The relay doesn't take this grant, and won't."""
    is_vain: bool = False
    """The relay was asked, and gave no channel: refused it, or said nothing to the point."""

    def rest(self) -> None:
        """No question is under way, and none is planned."""
        self.asked_on = self.cookie = None
        self.due = NEVER
        self.tries = self.challenges = 0

    def back_off(self) -> float:
        """Returns how long to wait behind a question in vain: each time twice as long, nothing at first."""
        pause_s = self.pause_s
        self.pause_s = min(max(PAUSE_S, 2 * pause_s), PAUSE_LIMIT_S)
        return pause_s

    def begin_anew(self, now: Instant) -> float:
        """The channel, if there was one, is gone. Returns how long to wait until it is asked for again."""
        if now - self.bound_at >= LASTING_S:
            self.pause_s = 0.0
        pause_s = max(0.0, self.anew.free_at - now)
        self.anew.take(now + pause_s)
        return pause_s


class Bindings:
    """All of one relay, by peer, by grant and by channel; `on_channel` hears of each peer whose channel changes."""

    def __init__(self, on_channel: Callable[[str], None]) -> None:
        self._on_channel = on_channel
        self._by_peer: dict[str, Binding] = {}
        self._by_grant: dict[bytes, Binding] = {}
        self._by_way: dict[Address, dict[int, Binding]] = {}
        """By the relay's address and the number of the channel there."""
        self._living: dict[str, Binding] = {}

    def __len__(self) -> int:
        return len(self._by_peer)

    def __iter__(self) -> Iterator[Binding]:
        return iter(self._by_peer.values())

    @property
    def peers(self) -> Collection[str]:
        return self._by_peer.keys()

    def of_peer(self, peer: str) -> Binding | None:
        return self._by_peer.get(peer)

    def of_grant(self, grant_id: bytes) -> Binding | None:
        return self._by_grant.get(grant_id)

    def of_channel(self, channel: Address) -> Binding | None:
        return self._by_way.get(_way(channel), {}).get(channel.via)

    def living(self) -> Binding | None:
        """Returns any whose grant the relay has not refused."""
        return next(iter(self._living.values()), None)

    def bury(self, binding: Binding) -> None:
        """The relay has refused this grant for good."""
        binding.is_dead = True
        self._living.pop(binding.peer, None)

    def add(self, peer: str, grant: bytes, grant_id: bytes) -> Binding | None:
        """Returns the binding to ask for; None where it is known, or another peer's grant. A channel that stands
        under an older grant stays."""
        known, holder = self._by_peer.get(peer), self._by_grant.get(grant_id)
        if holder is not None and (holder is not known or not known.is_dead):
            return None
        binding = Binding(peer, grant, grant_id)
        if known is not None:
            del self._by_grant[known.grant_id]
            known.rest()
            binding.channels, binding.bound_at = known.channels, known.bound_at
            binding.pause_s, binding.anew, binding.moves = known.pause_s, known.anew, known.moves
        self._by_peer[peer] = self._by_grant[grant_id] = self._living[peer] = binding
        for channel in binding.channels:
            self._file(binding, channel)
        return binding

    def remove(self, peer: str) -> None:
        binding = self._by_peer.pop(peer, None)
        if binding is not None:
            del self._by_grant[binding.grant_id]
            self._living.pop(peer, None)
            binding.rest()
            self._set(binding, ())

    def add_channel(self, binding: Binding, channel: Address) -> None:
        """Of each way there is one at most, and two in all."""
        beside = (old for old in binding.channels if _way(old) != _way(channel))
        self._set(binding, (channel, *islice(beside, 1)))

    def drop_channel(self, binding: Binding, channel: Address) -> None:
        self._set(binding, tuple(other for other in binding.channels if other != channel))

    def drop_channels(self, relay: Address) -> None:
        """All that stand over this way."""
        for number, binding in self.standing(relay).items():
            self.drop_channel(binding, replace(relay, via=number))

    def standing(self, relay: Address) -> dict[int, Binding]:
        """Returns, by the number of the channel, those that have one over this way."""
        return dict(self._by_way.get(relay, {}))

    def count(self, relay: Address) -> int:
        return len(self._by_way.get(relay, {}))

    def _set(self, binding: Binding, channels: tuple[Address, ...]) -> None:
        if binding.channels == channels:
            return
        for old in binding.channels:
            self._unfile(old)
        binding.channels = channels
        for new in channels:
            self._file(binding, new)
        self._on_channel(binding.peer)

    def _file(self, binding: Binding, channel: Address) -> None:
        self._by_way.setdefault(_way(channel), {})[channel.via] = binding

    def _unfile(self, channel: Address) -> None:
        relay = _way(channel)
        del self._by_way[relay][channel.via]
        if not self._by_way[relay]:
            del self._by_way[relay]


def _way(channel: Address) -> Address:
    return replace(channel, via=0)


class BindQueue:
    """Bindings by the time at which they are asked for; `due` of a binding is what counts."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int, Binding]] = []
        self._count = 0
        self._full_at: Instant = -NEVER
        """When the allowance is whole again: the generic cell rate algorithm of ITU-T I.371."""

    def put(self, binding: Binding, due: Instant) -> None:
        binding.due = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, binding))

    def take_due(self, now: Instant) -> Binding | None:
        """Returns the next binding whose time has come, as far as the pace allows, and counts it."""
        at = self.next()
        if at is None or at > now:
            return None
        self._full_at = max(self._full_at, now) + 1 / BINDS_PER_S
        return heapq.heappop(self._heap)[2]

    def next(self) -> Instant | None:
        while self._heap and self._heap[0][0] != self._heap[0][2].due:
            heapq.heappop(self._heap)  # put again with another time, or at rest
        allowed_at = self._full_at - (BINDS_AT_ONCE - 1) / BINDS_PER_S
        return max(self._heap[0][0], allowed_at) if self._heap else None
