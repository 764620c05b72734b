"""Whether somebody else binds this endpoint's channel at a relay: by how often the relay says that it was moved.

A channel moves where the key of its side is shown from another address, and BOUND tells how often it did. One question
moves it once at most. What it moved beyond the questions of this endpoint was done by another that holds its key: a
copy. It matters not why this endpoint asked, nor how often its NAT gave it another address.

    told 4   asked   asked   told 6      its own: an answer was lost, perhaps, and the NAT mapping is another
    told 6   asked           told 8      one too many: somebody else was bound in between

It is the relay that says so, and over UDP whoever can forge its answers: a hint for a person, and proof of nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from fabric.core.machine import Instant
from fabric.wire.address import Address
from fabric.wire.rendezvous import RelayPlace

TAKINGS = 3
"""So many in a row are no accident: an answer that overtook another may make one look so."""
TAKINGS_WITHIN_S = 600.0
"""Whose channel is taken again and again asks for it once a minute in the end."""
TOLD_AGAIN_S = 3600.0
"""Between two lines of the log."""


class Moves:
    """Of the channel to one peer at one relay. `channel` is the one that the relay told of last."""

    def __init__(self) -> None:
        self.channel: Address | None = None
        self._moves = 0
        self._asked = 0
        self._taken: deque[Instant] = deque(maxlen=TAKINGS)

    def note_asked(self) -> None:
        """A signed BIND was sent."""
        self._asked += 1

    def note_told(self, channel: Address, moves: int, now: Instant) -> None:
        """`moves` is what BOUND tells, 0 where it tells nothing. Another channel is counted anew: the last one has
        ended, or the relay began anew, or this is another way to it."""
        is_counted = channel == self.channel and 0 < self._moves < moves
        if is_counted and moves - self._moves > self._asked:
            self._taken.append(now)
        self.channel, self._moves, self._asked = channel, moves, 0

    def is_contested(self, now: Instant) -> bool:
        """Whether the channel was taken again and again, and not long ago."""
        return len(self._taken) == TAKINGS and now - self._taken[0] <= TAKINGS_WITHIN_S


def first_contested(moves: Mapping[RelayPlace, Moves | None], now: Instant) -> RelayPlace | None:
    """Returns the first relay at which somebody else binds the channel to one peer, again and again; None for none.

    Two names may lead to one relay, and behind a proxy to one place there: then this endpoint takes the channel from
    itself, and is told of the same one under both names.
    """
    told = Counter(known.channel.via for known in moves.values() if known is not None and known.channel is not None)
    for place, known in moves.items():
        if known is not None and known.channel is not None and told[known.channel.via] == 1 and known.is_contested(now):
            return place
    return None


def explain_rival(place: RelayPlace) -> str:
    """Returns what is to be said of it in a peer's `why`."""
    return (
        f"the relay {place.host} says that somebody else binds there with this endpoint's key, again and again: "
        "a copy of this endpoint may be in use, or the relay is wrong"
    )
