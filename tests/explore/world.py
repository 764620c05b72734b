"""A pair that is simply run, with nothing remembered and nothing renamed: the measure for what a walk takes for it.

Letters keep the number under which they were sent, so that one list of moves can be made in two worlds, one with
symbols and one with real keys.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from fabric.core.entanglement import UNMET
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.dataplane.contract import SessionKeys
from fabric.wire.handshake import MessageKind
from tests.explore.end import End
from tests.explore.stage import CLIENT, SERVER, Blow, Raw, Rules
from tests.explore.steps import ADDRESSES

VERBS = ("wait", "renew", "restart", "age", "doubt", "reset")


@dataclass(frozen=True, slots=True)
class Move:
    """`letter` is the number of one that is on its way; it stays there with `keeps`. `who` acts, or is copied."""

    verb: str
    who: int
    letter: int = -1
    keeps: bool = False
    blow: Blow | None = None


class World:
    """`ends`: client, server, and a copy of one of them once there is one. `net`: what is on its way, and from whom."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.ends = [End(name, ADDRESSES[who], UNMET, rules) for who, name in enumerate((CLIENT, SERVER))]
        self.net: dict[int, tuple[int, Raw]] = {}
        self._count = 0
        for who in (0, 1):
            self.ends[who].start()
            self._collect(who)

    def make(self, move: Move) -> list[str]:
        """Returns what was sent, by kind."""
        end = self.ends[move.who]
        match move.verb:
            case "lose":
                del self.net[move.letter]
                return []
            case "copy":
                self.ends.append(End(end.name, ADDRESSES[2], end.disk, self._rules))
                end = self.ends[2]
                end.start()
                return self._collect(2)
            case "deliver":
                source, raw = self.net[move.letter]
                if not move.keeps:
                    del self.net[move.letter]
                end.deliver(raw, ADDRESSES[source], move.blow)
            case "restart":
                end.start()
            case verb:
                getattr(end, verb)(move.blow)
        return self._collect(move.who)

    def summary(self) -> tuple[object, ...]:
        """What may be compared between worlds: all that a walk judges by, and which secrets are equal."""
        roots = [root for end in self.ends for root in end.disk.roots]
        lives = [end.keying.live for end in self.ends]
        keys = [
            end.keys[live.local_index] if live is not None else None for end, live in zip(self.ends, lives, strict=True)
        ]
        return (
            tuple(_known(end) for end in self.ends),
            tuple(roots.index(root) for root in roots),
            tuple(
                a is not None and b is not None and _open_each_other(a, b) for a, b in itertools.combinations(keys, 2)
            ),
        )

    def _collect(self, who: int) -> list[str]:
        kinds = []
        for raw in self.ends[who].take_sent():
            kinds.append(_kind(raw))
            if raw.message or raw.index is not None:
                self.net[self._count] = (who, raw)
                self._count += 1
        return kinds


def moves_of(world: World, source: random.Random, *, copies: bool) -> Move:
    """Draws one of the moves that are possible in this world."""
    who = source.randrange(len(world.ends))
    blow = source.choice((None, None, None, Blow(1, True), Blow(1, False)))
    draw = source.random()
    if world.net and draw < 0.75:
        letter = source.choice(list(world.net))
        sender, raw = world.net[letter]
        takers = [at for at, end in enumerate(world.ends) if end.is_client != world.ends[sender].is_client]
        if draw < 0.07:
            return Move("lose", 0, letter)
        keeps = raw.index is None and source.random() < 0.3
        return Move("deliver", source.choice(takers), letter, keeps, blow)
    if copies and len(world.ends) == 2 and draw < 0.79:
        return Move("copy", source.randrange(2))
    end = world.ends[who]
    verbs = [verb for verb in VERBS if verb != "renew" or end.is_client]
    return Move(
        source.choices(verbs, weights=[6 if verb in ("wait", "renew") else 1 for verb in verbs])[0], who, blow=blow
    )


def _known(end: End) -> tuple[object, ...]:
    held, keying = end.disk, end.keying
    negotiation = keying._negotiation
    return (
        len(held.roots),
        held.confirmed,
        held.alarm is not None and (held.alarm.here, held.alarm.is_known, held.alarm.at.remote),
        end.entangled == held,
        end.is_refused,
        keying.live is not None,
        keying.is_suspect,
        keying._sessions.waiting is not None,
        len(end.keys),
        isinstance(negotiation, ClientNegotiation) and negotiation._attempt is not None,
        isinstance(negotiation, ServerNegotiation) and negotiation._pending is not None,
        isinstance(negotiation, ServerNegotiation) and negotiation._resumed is not None,
    )


def _open_each_other(a: SessionKeys, b: SessionKeys) -> bool:
    return (a.seal_key[:4], a.open_key[:4]) == (b.open_key[:4], b.seal_key[:4])


def _kind(raw: Raw) -> str:
    if raw.index is not None:
        return "CLOSE" if raw.payload else "RECORD"
    return MessageKind(raw.message[0]).name if raw.message else "CALL"
