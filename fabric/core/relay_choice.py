"""Which of the granted relays serve one peer.

Both ends have the same list in the same order and judge by what each reaches itself, so the choice needs no word
between them: every place up to and including the second that serves. Two ends that reach the same two places therefore
use both, and those that are not reached stay in use too, to be seen when they are back.

    granted     1       2       3       4
    reached             yes             yes
    in use      x       x       x       x           nothing beyond the second that serves

That fails where two ends have no place in common so: one reaches 1 and 2, the other 3 and 4. An end that finds no way
through what it has widens its choice: then only a place that carries to this peer counts as one that serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from fabric.wire.rendezvous import RelayPlace

RELAYS_A_PEER = 2
"""As many as a datagram is sent through at once (`relay_copies`)."""
MAX_GRANTED = 4
"""Beyond these two more that may stand in for them: both ends look at no others, however many are granted."""


@dataclass(slots=True)
class PeerRelays:
    """`places` are those granted that may be used, `used` those that are, in the same order."""

    places: tuple[RelayPlace, ...]
    used: tuple[RelayPlace, ...] = ()
    carried: frozenset[RelayPlace] = field(default=frozenset())
    is_wide: bool = False

    def wanted(self, serves: Callable[[RelayPlace], bool], admits: Callable[[RelayPlace], bool]) -> list[RelayPlace]:
        """Returns what should be used: `serves` tells whether this end has use of a place, `admits` whether it may
        be used at all."""
        admitted = [place for place in self.places if admits(place)]
        narrow = _up_to_second(admitted, serves)
        if self.is_wide and self.carried.isdisjoint(narrow):
            return _up_to_second(admitted, lambda place: place in self.carried and serves(place))
        return narrow


def usable_places(places: Iterable[RelayPlace]) -> tuple[RelayPlace, ...]:
    """Returns those of a grant that count, each once: all that both ends have to agree upon."""
    return tuple(place for place in dict.fromkeys(places) if place.udp_port or place.tls_port)[:MAX_GRANTED]


def _up_to_second(places: Iterable[RelayPlace], serves: Callable[[RelayPlace], bool]) -> list[RelayPlace]:
    chosen: list[RelayPlace] = []
    serving = 0
    for place in places:
        if serving == RELAYS_A_PEER:
            break
        chosen.append(place)
        serving += serves(place)
    return chosen
