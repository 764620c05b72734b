"""States of a walk as values that are cheap to compare, and what is said of the moves between them.

Names are numbers from 1 on in order of first appearance, so that states which differ in names alone are one. 0 is
nobody's name.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.explore.letters import CALL, ONCE, OPENINGS
from tests.explore.shapes import Local, Names

End = tuple[int, Names]
"""The number of its shape, and what it calls things."""

Sent = tuple[int, str, Names]
"""Who sent it (0 the client, 1 the server, from 2 on the copies), its head, its names."""

FIRST_COPY = 2
WHO = ("client", "server", "copy")
_FAR = 1 << 30


class State(NamedTuple):
    """`spent`: the roots that sessions of the client and of the server, and of the copies where there may be two, were
    made from, where anybody has them still; `is_used`: a copy has had a session with one who is none; `left`: whose
    disks may still be copied; `highest` of the names."""

    ends: tuple[End, ...]
    net: tuple[Sent, ...]
    spent: tuple[Names, ...]
    is_used: bool
    left: tuple[int, ...]
    highest: int


class How(NamedTuple):
    """A move; `sent` is the letter that it is about, if any, `sender` who sent it, and `leaves` the heads of what is
    sent. Of two copies of one end it is not told which one acts: they change places with what they are."""

    what: str
    sent: Sent | None = None
    sender: str = ""
    crash: str = ""
    leaves: tuple[str, ...] = ()
    is_alarmed: bool = False
    is_live: bool = False

    def __str__(self) -> str:
        letter = f" {self.sent[1]} of the {self.sender}" if self.sent is not None else ""
        crash = f", crashes {self.crash}, starts again" if self.crash else ""
        leaves = f"  -> {', '.join(self.leaves)}" if self.leaves else ""
        return self.what + letter + crash + leaves + "  [alarm]" * self.is_alarmed + "  [live]" * self.is_live


def is_alive(sent: Sent, ends: list[End], shapes: list[Local]) -> bool:
    """Whether somebody waits for it, or still waits for what comes of it."""
    _, head, names = sent
    return any(_wants(shapes[number], known, head, names) for number, known in ends)


def _wants(local: Local, known: Names, head: str, names: Names) -> bool:
    if head in ("HELLO", "RESUME", "RESUMED") or head.startswith("ANSWER"):
        return local.asks is not None and known[local.asks] == names[0]
    if head in ONCE:
        return opens(local, known, names)
    if head == CALL:
        return False
    return (local.awaits is not None and known[local.awaits] == names[0]) or (
        local.took is not None and names == tuple([known[p] if p >= 0 else 0 for p in local.took])
    )


def alive(net: list[Sent], ends: list[End], shapes: list[Local]) -> list[Sent]:
    """What is on its way without what nobody will take, each once; of attempts that are over one HELLO at most, and
    one ticket, if it is still good anywhere."""
    kept: list[Sent] = []
    stale: set[str] = set()
    for sent in net:
        if sent in kept:
            continue
        if not is_alive(sent, ends, shapes):
            head = sent[1]
            if head not in OPENINGS or head in stale or (head == "RESUME" and not _is_good(sent[2][1], ends, shapes)):
                continue
            stale.add(head)
        kept.append(sent)
    return kept


def _is_good(root: int, ends: list[End], shapes: list[Local]) -> bool:
    """Whether a server has the root that a ticket names."""
    return any(
        not shapes[number].end.is_client and any(known[p] == root for p in shapes[number].roots)
        for number, known in ends
    )


def opens(local: Local, known: Names, names: Names) -> bool:
    """Whether the end has the keys of this record."""
    return any(known[index] == names[0] and known[exporter] == names[1] for index, exporter in local.opens)


def canonical(
    ends: list[End], net: list[Sent], spent: tuple[Names, ...], is_used: bool, left: tuple[int, ...]
) -> State:
    """Returns the state under names, and with copies in an order, that do not depend on how it was come to."""
    if len(ends) - FIRST_COPY < 2 or ends[2][0] < ends[3][0]:
        return _renamed(ends, net, spent, is_used, left)
    swapped = [*ends[:2], ends[3], ends[2]]
    other = _renamed(swapped, [(_SWAPPED[who], head, names) for who, head, names in net], _swap(spent), is_used, left)
    if ends[2][0] > ends[3][0]:
        return other
    return min(_renamed(ends, net, spent, is_used, left), other)


_SWAPPED = (0, 1, 3, 2)


def _swap(spent: tuple[Names, ...]) -> tuple[Names, ...]:
    return tuple(spent[_SWAPPED[who]] for who in range(len(spent)))


def _renamed(ends: list[End], net: list[Sent], spent: tuple[Names, ...], is_used: bool, left: tuple[int, ...]) -> State:
    called: dict[int, int] = {0: 0}
    renamed = []
    for number, names in ends:
        for name in names:
            if name not in called:
                called[name] = len(called)
        renamed.append((number, tuple([called[name] for name in names])))
    if len(net) > 1:
        net = sorted(net, key=lambda sent: (sent[0], sent[1], [called.get(name, _FAR) for name in sent[2]]))
    spelled = []
    for source, head, names in net:
        for name in names:
            if name not in called:
                called[name] = len(called)
        spelled.append((source, head, tuple([called[name] for name in names])))
    kept = tuple([tuple(sorted([called[name] for name in names if name in called])) for names in spent])
    return State(tuple(renamed), tuple(spelled), kept, is_used, left, len(called) - 1)
