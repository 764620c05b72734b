"""Walks every interleaving of what may happen to a pair, breadth first, and checks each state that it comes to.

What is on its way is a set: a letter that is delivered may be taken out of it or stay (a duplicate), may be lost, and
any of them may be next. More than `room` letters are too many, and each choice of those that are lost is walked.
Dropped at once is what nobody will ever take: an ANSWER to an attempt that is over, a FINISH to an ANSWER that was
replaced, a record under keys that are wiped.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator

from tests.explore import liar
from tests.explore.fair import Fair
from tests.explore.letters import ONCE, is_to_server
from tests.explore.modes import Mode
from tests.explore.promises import Account, Promises, ViolationError
from tests.explore.shapes import Local, Names
from tests.explore.stage import CLIENT, SERVER, Rules
from tests.explore.states import FIRST_COPY, WHO, End, How, Sent, State, alive, canonical, opens
from tests.explore.steps import LocalSteps, Outcome

Move = tuple[How, State]


class Walk:
    def __init__(self, mode: Mode, steps: LocalSteps | None = None) -> None:
        self.mode = mode
        self.steps = steps or LocalSteps(Rules(mode.entangle, mode.has_tickets))
        self.fair = Fair(self.steps, mode.enforces)
        self.account = Account(mode.name, mode.room)
        self._shapes = self.steps.shapes.all
        self._promises = Promises(mode, self._shapes, self.fair, self.account)
        self._counted = FIRST_COPY if len(mode.copies) < 2 else FIRST_COPY + len(mode.copies)
        self._parents: dict[State, tuple[State, How] | None] = {}

    def run(self, max_depth: int = 10**6, max_states: int = 10**9, max_seconds: float = 1e9) -> Account:
        """Raises `ViolationError` at the first state where a promise does not hold, by one of the shortest ways."""
        gc.disable()  # a million tuples that all stay: looking through them for cycles took half of the time
        try:
            return self._run(max_depth, max_states, max_seconds)
        finally:
            gc.enable()

    def _run(self, max_depth: int, max_states: int, max_seconds: float) -> Account:
        began, account, parents = time.process_time(), self.account, self._parents
        layer = [self._first()]
        while layer and account.depth < max_depth:
            following: list[State] = []
            for state in layer:
                for how, after in self._moves(state):
                    if after not in parents:
                        parents[after] = (state, how)
                        self._check(after)
                        following.append(after)
                if len(parents) > max_states or time.process_time() - began > max_seconds:
                    return self._sum_up(began)
            account.depth += bool(following)
            account.is_complete, layer = not following, following
        return self._sum_up(began)

    def trace(self, state: State, *more: str) -> list[str]:
        lines = list(more)
        parent = self._parents[state]
        while parent is not None:
            lines.insert(0, str(parent[1]))
            parent = self._parents[parent[0]]
        return lines

    def _sum_up(self, began: float) -> Account:
        account = self.account
        account.states, account.shapes, account.pairs = len(self._parents), len(self._shapes), len(self.fair.known)
        account.seconds = time.process_time() - began
        return account

    # what may happen

    def _first(self) -> State:
        state = self._apart()
        self._parents[state] = None
        self._check(state)
        if self.mode.begins_copied:
            for how, after in self._opening(state):
                self._parents[after] = (state, how)
                self._check(after)
                state = after
        return state

    def _opening(self, state: State) -> Iterator[Move]:
        """The one way to where the pair is live, and all of its copies run."""
        while not all(self._shapes[number].live is not None for number, _ in state.ends):
            how, state = next(self._carry(state, state.net[0]))
            yield how, state
        for whose in self.mode.copies:
            how, state = self._copy(state, whose)
            yield how, state
            how, state = next(self._wake(state))
            yield how, state

    def _apart(self) -> State:
        ends: list[End] = []
        net: list[Sent] = []
        for who, name in enumerate((CLIENT, SERVER)):
            (outcome,) = self.steps.take(self.steps.make(name)[0], "restart")
            end, sent = self._applied(who, outcome, (0,), sum(len(names) for _, names in ends))
            ends.append(end)
            net += sent
        whose = self.mode.lies if self.mode.lies is not None and not self.mode.copies else self.mode.key_alone
        if whose is not None:
            ends.append((self.steps.make((CLIENT, SERVER)[whose])[0].number, ()))
        return canonical(ends, net, ((),) * self._counted, False, self.mode.copies)

    def _moves(self, state: State) -> Iterator[Move]:
        for who, (number, _) in enumerate(state.ends):
            local = self._shapes[number]
            if local.is_up:
                for verb in self._verbs(who, local):
                    yield from self._act(state, who, verb)
        for sent in state.net:
            yield from self._carry(state, sent)
        for whose in dict.fromkeys(state.left):
            yield self._copy(state, whose)
        if len(state.ends) > FIRST_COPY:
            yield from self._wake(state) if self.mode.lies is None else self._lie(state, self.mode.lies)

    def _verbs(self, who: int, local: Local) -> Iterator[str]:
        if local.is_waiting:
            yield "wait"
        if local.end.is_client and local.asks is None:
            yield "renew"
        if who >= FIRST_COPY:
            return
        yield "restart"
        if local.live is not None:
            yield "age"
            if self.mode.talks:
                yield "talk"
        if self.mode.resets:
            yield "reset"

    def _carry(self, state: State, sent: Sent) -> Iterator[Move]:
        source, head, names = sent
        without = tuple([one for one in state.net if one is not sent])
        to_server = is_to_server(head)
        for who, (number, known) in enumerate(state.ends):
            local = self._shapes[number]
            if not local.is_up or who == source or to_server is local.end.is_client:
                continue
            if head not in ONCE:
                yield from self._act(state, who, "deliver", sent, without)
                yield from self._act(state, who, "duplicate", sent, state.net)
            elif opens(local, known, names):
                yield from self._act(state, who, "deliver", sent, without)
        self.account.moves["lose"] += 1
        yield (
            How("lost:", sent, self._who(state, source)),
            canonical(list(state.ends), list(without), state.spent, state.is_used, state.left),
        )

    def _act(
        self, state: State, who: int, verb: str, sent: Sent | None = None, net: tuple[Sent, ...] | None = None
    ) -> Iterator[Move]:
        number, names = state.ends[who]
        local = self._shapes[number]
        brought = [0, *names]
        source, head = 0, ""
        places: Names = ()
        if sent is not None:
            source, head, spelled = sent
            for name in spelled:
                if name not in brought:
                    brought.append(name)
            places = tuple([brought.index(name) for name in spelled])
        does = "deliver" if verb == "duplicate" else verb
        for outcome in self.steps.take(local, does, min(source, FIRST_COPY), (head, places)):
            self.account.moves[outcome.crash or verb] += 1
            if outcome.local is local and not outcome.sent and verb == "duplicate":
                continue
            sender = self._who(state, source) if sent is not None else ""
            how = _tell(self._who(state, who), verb, sent, sender, outcome)
            if outcome.breach:
                raise ViolationError(outcome.breach, [*self.trace(state), str(how)])
            end, out = self._applied(who, outcome, tuple(brought), state.highest)
            ends = list(state.ends)
            ends[who] = end
            took = [brought[p] if p >= 0 else state.highest - p for p in outcome.took]
            breach = self._promises.step_breach(state, who, verb, outcome, how)
            if breach:
                raise ViolationError(breach, [*self.trace(state), str(how)])
            is_used = (state.is_used and verb != "reset") or (
                bool(took) and who < FIRST_COPY <= source and self._promises.is_knowable(ends)
            )
            if self.mode.counts_mute and who == 0 and source == 2 and head == "RESUMED" and "RECORD" in how.leaves:
                is_used = True
            if self.mode.lies == 1 and source == 2 and who == 0 and sent is not None:
                knows, out = liar.hears(ends[2][1], sent, out)
                ends[2] = (ends[2][0], knows)
            spent = state.spent
            if who < self._counted and (took or verb == "reset"):
                spent = self._spend(state, who, verb, took, how)
            for after in self._settled(ends, [*(state.net if net is None else net), *out], spent, is_used, state.left):
                yield how, after

    def _who(self, state: State, who: int) -> str:
        if who < FIRST_COPY or self._counted == FIRST_COPY:
            return WHO[who]
        return "client's copy" if self._shapes[state.ends[who][0]].end.is_client else "server's copy"

    @staticmethod
    def _applied(who: int, outcome: Outcome, brought: tuple[int, ...], highest: int) -> tuple[End, list[Sent]]:
        """Returns the end, and what it sends, in the names of the state that the step was taken in."""
        names = tuple([brought[p] if p >= 0 else highest - p for p in outcome.names])
        sent = [
            (who, head, tuple([brought[p] if p >= 0 else highest - p for p in places]))
            for head, places in outcome.sent
        ]  # fmt: skip
        return (outcome.local.number, names), sent

    def _spend(self, state: State, who: int, verb: str, took: list[int], how: How) -> tuple[Names, ...]:
        """No end makes two sessions from one root."""
        spent = set() if verb == "reset" else set(state.spent[who])
        if spent & set(took):
            raise ViolationError("a root made two sessions at the same end", [*self.trace(state), str(how)])
        names = tuple(sorted((spent | set(took)) - {0}))
        return (*state.spent[:who], names, *state.spent[who + 1 :])

    def _copy(self, state: State, of: int) -> Move:
        number, names = state.ends[of]
        local, places = self.steps.make((CLIENT, SERVER)[of], self._shapes[number])
        self.account.moves["copy"] += 1
        ends = [*state.ends, (local.number, tuple(names[p - 1] for p in places))]
        if self.mode.lies is not None:
            roots = tuple(names[p] for p in self._shapes[number].roots)
            ends = [*state.ends, (self.steps.make(CLIENT)[0].number, roots)]
        left = list(state.left)
        left.remove(of)
        how = How(f"the disk of the {WHO[of]} is copied")
        return how, canonical(ends, list(state.net), state.spent, state.is_used, tuple(left))

    def _wake(self, state: State) -> Iterator[Move]:
        """A copy starts; or takes the place of the end that it was made of, which is then what it was."""
        for who, (number, names) in enumerate(state.ends):
            if who < FIRST_COPY or self._shapes[number].is_up:
                continue
            (outcome,) = self.steps.take(self._shapes[number], "restart")
            of = self.mode.copies[0] if self.mode.restores else who
            end, out = self._applied(of, outcome, (0, *names), state.highest)
            ends, spent = list(state.ends), list(state.spent)
            how = How(f"the {self._who(state, who)} starts", leaves=tuple(head for _, head, _ in out))
            if self.mode.restores:
                del ends[who]
                spent[of] = ()
                how = How(f"the disk of the {WHO[of]} is put back as it was", leaves=how.leaves)
            ends[of] = end
            self.account.moves["wake"] += 1
            for after in self._settled(ends, [*state.net, *out], tuple(spent), state.is_used, state.left):
                yield how, after

    def _lie(self, state: State, as_server: int) -> Iterator[Move]:
        number, known = state.ends[2]
        said: list[tuple[End, Sent, Names]] = []
        if as_server:
            local, names = self._shapes[state.ends[0][0]], state.ends[0][1]
            if local.asks is not None:
                answers = liar.answers(names[local.asks], known, state.highest + 1)
                said = [(state.ends[1], sent, known) for sent in answers]
        else:
            server, heard = self._ask(state, "HELLO")
            for _, head, spelled in heard:
                if head.startswith("ANSWER"):
                    said += [(server, *one) for one in liar.finishes(spelled, known, state.highest + 20)]
            for root in known if self.mode.has_tickets else ():
                server, heard = self._ask(state, "RESUME", root)
                said += [(server, *liar.continues(spelled, known)) for _, head, spelled in heard if head == "RESUMED"]
        self.account.moves["lie"] += len(said)
        for server, sent, knows in said:
            ends = [state.ends[0], server, (number, knows)]
            how = How(f"the liar says {sent[1]}")
            for after in self._settled(ends, [*state.net, sent], state.spent, state.is_used, state.left):
                yield how, after

    def _ask(self, state: State, head: str, *names: int) -> tuple[End, list[Sent]]:
        """The liar begins as a client, and the server takes it at once."""
        number, known = state.ends[1]
        brought = list(dict.fromkeys((0, *known, *names, state.highest + 1)))
        places = tuple(brought.index(name) for name in (state.highest + 1, *names))
        outcome = self.steps.take(self._shapes[number], "deliver", 2, (head, places))[0]
        return self._applied(1, outcome, tuple(brought), state.highest + 1)

    def _settled(
        self, ends: list[End], net: list[Sent], spent: tuple[Names, ...], is_used: bool, left: tuple[int, ...]
    ) -> Iterator[State]:
        net = alive(net, ends, self._shapes)
        if len(net) <= self.mode.room:
            yield canonical(ends, net, spent, is_used, left)
            return
        for kept in itertools.combinations(net, self.mode.room):
            yield canonical(ends, list(kept), spent, is_used, left)

    def _check(self, state: State) -> None:
        breach = self._promises.breach(state)
        if breach is not None:
            raise ViolationError(breach[0], self.trace(state, *breach[1]))


_VERBS = {
    "deliver": "takes",
    "duplicate": "takes a duplicate:",
    "wait": "waits",
    "renew": "wants a new handshake",
    "restart": "crashes, starts again",
    "age": "has its session end of old age",
    "talk": "says something",
    "reset": "is reset by a person",
}


def _tell(who: str, verb: str, sent: Sent | None, sender: str, outcome: Outcome) -> How:
    leaves = tuple([head for head, _ in outcome.sent])
    return How(
        f"{who} {_VERBS[verb]}", sent, sender, outcome.crash, leaves, outcome.local.is_alarmed, bool(outcome.took)
    )  # fmt: skip
