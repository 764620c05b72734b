"""What a walk promises of each state and of each move, and what it has seen.

Who enforces is held to all of it; of who does not, only what the pair as a whole is to have: that it comes to an end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.explore.fair import ALARMED, KEPT_OUT, LIVE, REFUSED, TURNED_AWAY, Fair, Verdict
from tests.explore.modes import Mode
from tests.explore.shapes import Local
from tests.explore.states import FIRST_COPY, End, How, State
from tests.explore.steps import Outcome

ENDS = (LIVE, ALARMED, REFUSED, KEPT_OUT, TURNED_AWAY)
"""What a pair may come to where somebody was copied, lied to, put back or reset."""

Breach = tuple[str, tuple[str, ...]]
"""What does not hold, and how it would have gone on."""


class ViolationError(AssertionError):
    """What was promised, and the way to where it does not hold."""

    def __init__(self, what: str, trace: list[str]) -> None:
        super().__init__(what + "".join(f"\n  {number:2} {line}" for number, line in enumerate(trace, 1)))
        self.what, self.trace = what, trace


@dataclass(slots=True)
class Account:
    """What a walk has seen. `depth` is the deepest one that was walked in full; `is_complete`: nothing is left.

    `seconds` of CPU time; `shapes` of single ends, `pairs` of them; of `moves`, how many were of which kind; states
    where a copy was `used`; `met`: pairs with a copy in them that were left to themselves.
    """

    mode: str
    room: int
    states: int = 0
    depth: int = 0
    is_complete: bool = False
    shapes: int = 0
    pairs: int = 0
    used: int = 0
    met: int = 0
    seconds: float = 0.0
    moves: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)


class Promises:
    def __init__(self, mode: Mode, shapes: list[Local], fair: Fair, account: Account) -> None:
        self._mode, self._shapes, self._fair, self._account = mode, shapes, fair, account
        self._enforces, self._alerts = mode.enforces, mode.alerts
        self._is_enforced = True in mode.enforces
        self._has_two = len(mode.copies) > 1

    def is_knowable(self, ends: Sequence[End]) -> bool:
        """Whether a copy that has a session with one end now leaves a trace with who enforces: an end that has not met
        the other yet meets it for the first time, whatever the other has let pass before."""
        return not self._is_enforced or any(
            self._enforces[who] and bool(self._shapes[ends[who][0]].roots) for who in (0, 1)
        )

    def step_breach(self, state: State, who: int, verb: str, outcome: Outcome, how: How) -> str:
        """Returns what the move of one end breaks, or nothing."""
        before = self._shapes[state.ends[who][0]]
        if before.is_alarmed and not outcome.local.is_alarmed and verb != "reset":
            return "an alarm is gone, and no person took it back"
        if self._is_first_again(before, outcome, how):
            return "a first meeting with somebody who was met before"
        is_apart = state.is_used and who < FIRST_COPY and how.sent is not None and how.sent[0] < FIRST_COPY
        if is_apart and outcome.took and self._enforces[who]:
            return "a copy was used, and then the real ones had a session"
        return ""

    def breach(self, state: State) -> Breach | None:
        client, server = (self._shapes[number] for number, _ in state.ends[:2])
        if self._mode.is_honest and (client.is_alarmed or server.is_alarmed or client.is_refused or server.is_refused):
            return "an alarm, and nobody did anything wrong", ()
        if any(
            self._enforces[who] and one.is_alarmed and (one.live is not None or one.opens)
            for who, one in enumerate((client, server))
        ):
            return "a session of a pair in quarantine", ()
        pairs = [(0, 1), *(self._pairs_with_copies(state) if self._has_two else ())]
        for pair in pairs:
            parted = self._session_breach(state, *pair)
            if parted:
                return parted, ()
        verdict = self._fair.judge(state.ends[0], state.ends[1])
        self._account.verdicts[verdict.name] += 1
        return (
            self._verdict_breach(verdict) or self._use_breach(state, verdict) or self._copies_breach(state, pairs[1:])
        )

    def _verdict_breach(self, verdict: Verdict) -> Breach | None:
        if verdict.breach:
            return verdict.breach, verdict.lines
        if verdict.name not in ((LIVE,) if self._mode.is_honest else ENDS):
            return f"bricked: all is delivered, and {verdict.name}", verdict.lines
        if verdict.after_reset != LIVE:
            return f"both are reset, and then {verdict.after_reset}", verdict.lines
        return None

    def _use_breach(self, state: State, verdict: Verdict) -> Breach | None:
        """Who enforces has no session any more, and who alerts has told it, where it had anything to compare by."""
        if not state.is_used:
            return None
        self._account.used += 1
        if self._is_enforced and verdict.name == LIVE:
            return "a copy was used, and the next contact shows nothing", verdict.lines
        for who in (0, 1):
            if self._alerts[who] and self._shapes[state.ends[who][0]].roots and not verdict.alarmed[who]:
                return "a copy was used, and who alerts does not tell it", verdict.lines
        return None

    def _copies_breach(self, state: State, pairs: Sequence[tuple[int, int]]) -> Breach | None:
        """Copies among themselves, and each with the real ones: they come to an end too, and to no session without a
        root in common."""
        for client, server in pairs:
            self._account.met += 1
            breach = self._verdict_breach(self._fair.judge(state.ends[client], state.ends[server]))
            if breach is not None:
                return breach
        return None

    def _pairs_with_copies(self, state: State) -> Iterator[tuple[int, int]]:
        """The places of a client and of a server that run, one of them a copy, or both."""
        ends = [self._shapes[number] for number, _ in state.ends]
        for at, one in enumerate(ends):
            for other in range(max(at + 1, FIRST_COPY), len(ends)):
                if one.is_up and ends[other].is_up and one.end.is_client != ends[other].end.is_client:
                    yield (at, other) if one.end.is_client else (other, at)

    def _is_first_again(self, before: Local, outcome: Outcome, how: How) -> bool:
        """Who has met the peer meets nobody for the first time under its name, whoever has its key (rules 3 and 4)."""
        is_client = before.end.is_client
        if not before.roots or not self._enforces[0 if is_client else 1]:
            return False
        return before.is_confirmed and "FINISH FIRST" in how.leaves if is_client else 0 in outcome.took

    def _session_breach(self, state: State, at_client: int, at_server: int) -> str:
        """Of two ends that are live in one session."""
        (client, ours), (server, theirs) = state.ends[at_client], state.ends[at_server]
        one, other = self._shapes[client], self._shapes[server]
        if one.live is None or other.live is None:
            return ""
        (own, peer, key), (at, of, same) = one.live, other.live
        if (ours[own], ours[peer]) != (theirs[of], theirs[at]):
            return ""
        if ours[key] != theirs[same]:
            return "two live sessions of the pair disagree"
        is_alone = self._mode.lies is None and not any(self._shapes[at].is_up for at, _ in state.ends[FIRST_COPY:])
        if is_alone and {theirs[p] for p in other.roots} - {ours[p] for p in one.roots}:
            return "both are live in one session, and their roots have parted"
        return ""
