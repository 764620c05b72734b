"""Steps of one end, taken by the real machine once for each shape and input, and remembered.

Names are *places* here: 0 is nobody, from 1 on they count what the end and then the letter brought along, and below 0
are those that the step made.
"""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.entanglement import UNMET
from fabric.wire.address import Address
from tests.explore import letters, symbolic
from tests.explore.end import End
from tests.explore.letters import Letter
from tests.explore.shapes import Local, Names, Shapes, clone
from tests.explore.stage import Blow, BreachError, Rules

ADDRESSES = (Address("198.51.100.1", 1), Address("198.51.100.2", 1), Address("203.0.113.66", 666))
"""Where the client, the server, and the copy of either are."""

Which = tuple[Local, Names]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one step. `crash` tells when the power failed, if it did; `took` are the roots of sessions that are
    proven by it."""

    crash: str
    local: Local
    names: tuple[int, ...]
    sent: tuple[Letter, ...]
    took: tuple[int, ...]
    breach: str = ""


class LocalSteps:
    """`shapes` of all ends that were seen. `writes` and `crashes` count what the real machines went through."""

    def __init__(self, rules: Rules) -> None:
        self.shapes = Shapes()
        self.taken = 0
        self._rules = rules
        self._known: dict[tuple[object, ...], tuple[Outcome, ...]] = {}

    def make(self, name: str, copy_of: Local | None = None) -> tuple[Local, tuple[int, ...]]:
        """Returns an end that is not up, with the disk of `copy_of` or an empty one, and where its names are there."""
        disk = UNMET if copy_of is None else copy_of.end.disk
        end = End(name, ADDRESSES[0], disk, self._rules)
        local, names = self.shapes.take(end)
        places = {} if copy_of is None else {name: place for place, name in enumerate(copy_of.names, 1)}
        return local, tuple(places[name] for name in names)

    def take(self, local: Local, verb: str, source: int = 0, letter: Letter = ("", ())) -> tuple[Outcome, ...]:
        """Returns all that may come of it: as it should, then with a crash before and after each write."""
        key = (local.number, verb, source, letter)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = tuple(self._take_all(local, verb, source, letter))
        return known

    def _take_all(self, local: Local, verb: str, source: int, letter: Letter) -> list[Outcome]:
        writes, first = self._take_once(local, verb, source, letter, None)
        outcomes = [first]
        if verb != "restart":
            for at in range(1, writes + 1):
                for is_stored in (False, True):
                    outcomes.append(self._take_once(local, verb, source, letter, Blow(at, is_stored))[1])
        return outcomes

    def _take_once(
        self, local: Local, verb: str, source: int, letter: Letter, blow: Blow | None
    ) -> tuple[int, Outcome]:
        self.taken += 1
        end = clone(local.end)
        places = {name: place for place, name in enumerate(local.names, 1)}
        called = {place: name for name, place in places.items()} | {0: symbolic.NOBODY}
        for place in letter[1]:
            if place not in called:
                called[place] = symbolic.fresh()
                places[called[place]] = place
        crash = "" if blow is None else f"{'after' if blow.is_stored else 'before'} the store"
        try:
            _act(end, verb, ADDRESSES[source], (letter[0], tuple(called[place] for place in letter[1])), blow)
        except BreachError as breach:
            return end.writes, Outcome(crash, local, (), (), (), str(breach))
        sent, took = [letters.read(raw) for raw in end.take_sent()], end.take_took()
        writes, end.writes = end.writes, 0

        def place_of(name: int) -> int:
            if name < symbolic.FIRST_NAME:
                return 0
            if name not in places:
                places[name] = -1 - sum(place < 0 for place in places.values())
            return places[name]

        said = tuple((one[0], tuple(map(place_of, one[1]))) for one in sent)
        roots = tuple(map(place_of, took))
        after, names = self.shapes.take(end)
        return writes, Outcome(crash, after, tuple(map(place_of, names)), said, roots)


def _act(end: End, verb: str, source: Address, letter: Letter, blow: Blow | None) -> None:
    match verb:
        case "deliver":
            end.deliver(letters.write(letter), source, blow)
        case "restart":
            end.start()
        case "wait":
            end.wait(blow)
        case "renew":
            end.renew(blow)
        case "doubt":
            end.doubt(blow)
        case "age":
            end.age(blow)
        case "talk":
            end.talk(blow)
        case "reset":
            end.reset(blow)
        case _:
            raise ValueError(verb)
