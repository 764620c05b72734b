"""What becomes of a pair once all is delivered, each letter once and in order, and nobody else takes part.

Nothing is on its way at the beginning: whatever was is lost. So the verdict follows from the two ends alone, and is
made once for each pair of them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.explore.letters import CALL, is_to_server
from tests.explore.shapes import Local, Names
from tests.explore.stage import BreachError
from tests.explore.steps import LocalSteps

LIVE = "both are live in one session"
ALARMED = "both hold the alarm"
REFUSED = "one holds the alarm, and the other, which has no root, is refused"
KEPT_OUT = "who enforces holds the alarm, and the other, which does not, is refused"
TURNED_AWAY = "who enforces has no root, and each refuses the other"
STUCK = "they come to no end"

ROUNDS = 12
DOUBT_FROM = 2
LETTERS = 60
LINES = 24


@dataclass(frozen=True, slots=True)
class Verdict:
    """`after_reset`: what becomes of them once a person has reset both. `alarmed`: who holds an alarm in the end."""

    name: str
    after_reset: str
    lines: tuple[str, ...]
    breach: str = ""
    alarmed: tuple[bool, bool] = (False, False)


class Fair:
    """`enforces`: with whom an alarm keeps the pair apart; where with neither, they are to be live in spite of it."""

    def __init__(self, steps: LocalSteps, enforces: tuple[bool, bool]) -> None:
        self._steps, self._enforces = steps, enforces
        self.known: dict[tuple[int, int, Names], Verdict] = {}

    def judge(self, client: tuple[int, Names], server: tuple[int, Names]) -> Verdict:
        called: dict[int, int] = {}
        names = tuple([called.setdefault(name, len(called) + 1) for name in (*client[1], *server[1])])
        key = (client[0], server[0], names)
        verdict = self.known.get(key)
        if verdict is None:
            verdict = self.known[key] = self._judge(client[0], server[0], names)
        return verdict

    def _judge(self, client: int, server: int, names: Names) -> Verdict:
        shapes = self._steps.shapes.all
        cut = len(shapes[client].names)
        run = _Run(self._steps, [shapes[client], shapes[server]], [names[:cut], names[cut:]], self._enforces)
        may, must = run.may_be_live(), run.must_be_live()
        try:
            name = run.run()
        except BreachError as breach:
            return Verdict(STUCK, STUCK, run.told(), str(breach))
        lines, alarmed = run.told(), (run.ends[0].is_alarmed, run.ends[1].is_alarmed)
        if name == LIVE:
            return Verdict(name, LIVE, lines, "" if may else "no root in common, and all the same a session", alarmed)
        if must:
            return Verdict(name, STUCK, lines, f"a root in common, no alarm, and {name}", alarmed)
        for who in (0, 1):
            run.act(who, "reset")
        run.carry_all()
        return Verdict(name, run.run(), lines, alarmed=alarmed)


class _Run:
    def __init__(self, steps: LocalSteps, ends: list[Local], names: list[Names], enforces: tuple[bool, bool]) -> None:
        self._steps, self.ends, self.names, self._enforces = steps, ends, names, enforces
        self._highest = max((*names[0], *names[1]), default=0)
        self._net: deque[tuple[int, str, Names]] = deque()
        self.lines: list[str] = ["-- from here on all is delivered --"]

    def run(self) -> str:
        for turn in range(ROUNDS):
            for who in (0, 1):
                goal = self.goal()
                if goal is not None:
                    return goal
                if turn >= DOUBT_FROM:
                    self.act(who, "doubt")
                    self.carry_all()
                if self.ends[who].is_waiting:
                    self.act(who, "wait")
                    self.carry_all()
        return self.goal() or STUCK

    def told(self) -> tuple[str, ...]:
        """The lines of a run that comes to an end; of another, as many as tell why."""
        return tuple(self.lines if len(self.lines) <= LINES else [*self.lines[:LINES], "and so on"])

    def goal(self) -> str | None:
        client, server = self.ends
        if client.live is not None and server.live is not None:
            ours = [self._name(0, p) for p in client.live]
            theirs = [self._name(1, p) for p in server.live]
            is_one = ours[:2] == theirs[1::-1] and ours[2] == theirs[2] and self._roots(0) & self._roots(1)
            return LIVE if is_one else None
        if client.live is None and server.live is None and True in self._enforces:
            if client.is_alarmed and server.is_alarmed:
                return ALARMED
            for one, other in ((client, server), (server, client)):
                if one.is_alarmed and other.is_refused and not other.roots:
                    return REFUSED
        return self._goal_of_one(0) or self._goal_of_one(1)

    def _goal_of_one(self, who: int) -> str | None:
        """Where this end alone enforces: the other may keep what it has, and is told."""
        one, other = self.ends[who], self.ends[1 - who]
        if not self._enforces[who] or self._enforces[1 - who] or one.live is not None:
            return None
        if one.is_alarmed and (other.is_refused or other.is_alarmed):
            return KEPT_OUT
        return TURNED_AWAY if not one.roots and one.is_refused and other.is_refused else None

    def may_be_live(self) -> bool:
        """Whether they have a root in common, or those that enforce may meet the other for the first time."""
        client, server = self.ends
        has_met = client.is_confirmed and bool(client.roots), bool(server.roots)
        is_first = not any(self._enforces[who] and has_met[who] for who in (0, 1))
        return is_first or bool(self._roots(0) & self._roots(1))

    def must_be_live(self) -> bool:
        """Whether the server goes on from a root that the client has, and no alarm forbids it."""
        is_free = not any(self._enforces[who] and self.ends[who].is_alarmed for who in (0, 1))
        return is_free and bool(self._roots(1)) and self._roots(1) <= self._roots(0)

    def _roots(self, who: int) -> set[int]:
        return {self._name(who, place) for place in self.ends[who].roots}

    def act(self, who: int, verb: str, letter: tuple[int, str, Names] = (0, "", ())) -> None:
        local, names = self.ends[who], self.names[who]
        seen = {0: 0} | {name: place for place, name in enumerate(names, 1)}
        brought = list(names)
        places = []
        for name in letter[2]:
            if name not in seen:
                brought.append(name)
                seen[name] = len(brought)
            places.append(seen[name])
        outcome = self._steps.take(local, verb, letter[0], (letter[1], tuple(places)))[0]
        if outcome.breach:
            raise BreachError(outcome.breach)
        spelled = {p for _, more in outcome.sent for p in more}
        table = {0: 0} | dict(enumerate(brought, 1))
        lowest = min((*outcome.names, *spelled), default=0)
        table |= {-n: self._highest + n for n in range(1, -lowest + 1)}
        self._highest += max(0, -lowest)
        self.ends[who] = outcome.local
        self.names[who] = tuple(table[p] for p in outcome.names)
        self._net.extend((who, head, tuple(table[p] for p in more)) for head, more in outcome.sent)
        what = f"takes {letter[1]}" if letter[1] else verb
        said = ", ".join(head for head, _ in outcome.sent)
        self.lines.append(f"{('client', 'server')[who]}: {what}" + (f" -> {said}" if said else "")
                          + (" [alarm]" if outcome.local.is_alarmed else ""))  # fmt: skip

    def carry_all(self) -> None:
        for _ in range(LETTERS):
            if not self._net:
                return
            letter = self._net.popleft()
            if letter[1] == CALL:
                self.act(0, "renew")
                continue
            to_server = is_to_server(letter[1])
            who = 1 - letter[0] if to_server is None else int(to_server)
            self.act(who, "deliver", letter)

    def _name(self, who: int, place: int) -> int:
        return self.names[who][place] if place >= 0 else 0
