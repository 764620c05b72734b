"""Faults to plant in the rules, each one a looser reading of section 6: a walk that misses one proves nothing.

`is_ordered` off leaves the check of the order in which things are stored aside, to see what comes of a wrong one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from fabric.core import entanglement
from fabric.core.entanglement import (
    Encounter,
    Entangle,
    Entangled,
    Known,
    Matches,
    Proceed,
    Refuse,
    confirmed_as_client,
    judge_answer,
    judge_finish,
    moved_as_server,
    speak,
)
from fabric.core.gate import Freshness
from fabric.core.handshake import Established
from fabric.core.keying import Keying
from fabric.core.machine import drain
from fabric.core.negotiation import Agreed, Rebuffed
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.core.pair import Pair
from fabric.crypto.schedule import FIRST_ROOT, RootKeys
from fabric.errors import AuthenticationError
from fabric.wire.address import Address
from fabric.wire.handshake import ProofKind
from tests.explore.end import End
from tests.explore.modes import Mode
from tests.explore.symbolic import SymbolicServer, name_of

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`shows` is in the sentence that the walk ends with; `is_deep` where that takes more than a thousand states."""

    name: str
    plant: Plant
    mode: Mode
    shows: str
    is_ordered: bool = True
    is_deep: bool = False


HONEST = Mode("no adversary", room=2)
TICKETS = Mode("no adversary", has_tickets=True, room=2)
OLD_SERVER = Mode("the server is rolled back", copies=(1,), restores=True, room=1)
COPIED_SERVER = Mode("the server is copied", copies=(1,), room=1)
KEY_OF_CLIENT = Mode("a liar has the client's key", lies=0, room=1)
ALARMED = "both hold the alarm"
TWO_CLIENTS = Mode("two copies of the client, from the start", copies=(0, 0), begins_copied=True)
TWO_SERVERS = Mode("two copies of the server, from the start", copies=(1, 1), begins_copied=True)
LENIENT_CLIENT = Mode(
    "the client is rolled back", copies=(0,), restores=True, entangle=(Entangle.OFF, Entangle.ENFORCE)
)
LENIENT_SERVER = Mode("the server is copied", copies=(1,), entangle=(Entangle.ENFORCE, Entangle.OFF))
ALERTING_SERVER = Mode("the client is copied", copies=(0,), entangle=(Entangle.ENFORCE, Entangle.ALERT))
LIAR_AS_CLIENT = Mode("a liar has the client's key and disk", lies=0, copies=(0,), room=1)


def sends_before_it_stores(patch: pytest.MonkeyPatch) -> None:
    def drive(self: End) -> None:
        self.send_all()
        self.store_all()
        self.send_all()

    patch.setattr(End, "_drive", drive)


def is_live_before_it_stores(patch: pytest.MonkeyPatch) -> None:
    def handle_agreed(self: Keying, agreed: Agreed, now: float) -> None:
        proper(self, agreed, now)
        if not agreed.awaiting:
            self.handle_stored(now)

    proper = Keying._handle_agreed
    patch.setattr(Keying, "_handle_agreed", handle_agreed)


def server_keeps_the_old_root(patch: pytest.MonkeyPatch) -> None:
    """It proves by the older one, and takes a proof by either."""

    def moved(held: Entangled, following: bytes, met: Encounter) -> Entangled:
        return replace(held, roots=(*held.roots[-1:], following), met=met)

    _break(patch, moved_as_server, moved)
    _break(patch, judge_finish, _takes_any_root)


def server_still_takes_the_old_root(patch: pytest.MonkeyPatch) -> None:
    """It proves by the newer one, and takes a proof by either."""

    def moved(held: Entangled, following: bytes, met: Encounter) -> Entangled:
        return replace(held, roots=(following, *held.roots[:1]), met=met)

    _break(patch, moved_as_server, moved)
    _break(patch, judge_finish, _takes_any_root)


def client_keeps_the_old_root(patch: pytest.MonkeyPatch) -> None:
    def confirmed(held: Entangled, met: Encounter | None) -> Entangled:
        return replace(held, roots=held.roots[::-1], confirmed=True, met=met or held.met)

    _break(patch, confirmed_as_client, confirmed)


def a_timer_drops_the_old_root(patch: pytest.MonkeyPatch) -> None:
    def handle_timeout(self: ClientNegotiation, now: float) -> bool:
        has_failed, pair = proper(self, now), self._pair
        if has_failed:
            pair.holder.hold(replace(pair.held, roots=pair.held.roots[-1:]))
        return has_failed

    proper = ClientNegotiation.handle_timeout
    patch.setattr(ClientNegotiation, "handle_timeout", handle_timeout)


def server_takes_first_while_it_holds_a_root(patch: pytest.MonkeyPatch) -> None:
    def judge(held: Entangled, said: ProofKind, matches: Matches, mode: Entangle) -> Proceed | Refuse:
        if said is ProofKind.FIRST and held.alarm is None:
            return Proceed(ProofKind.FIRST, FIRST_ROOT, is_forced=False)
        return judge_finish(held, said, matches, mode)

    def establish(self: SymbolicServer, root: RootKeys, *, anew: bool = False) -> Established:
        return proper(self, root, anew=True)

    proper = SymbolicServer.establish
    _break(patch, judge_finish, judge)
    patch.setattr(SymbolicServer, "establish", establish)


def client_takes_two_answers(patch: pytest.MonkeyPatch) -> None:
    def handle_answer(self: ClientNegotiation, *rest: Any) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.handshake is not None:
            attempt.finish = None
            attempt.handshake._is_done = False  # type: ignore[attr-defined]
        proper(self, *rest)

    proper = ClientNegotiation._handle_answer
    patch.setattr(ClientNegotiation, "_handle_answer", handle_answer)


def an_alarm_is_only_in_memory(patch: pytest.MonkeyPatch) -> None:
    def keep(self: End, entangled: Entangled) -> None:
        proper(self, replace(entangled, alarm=None))

    proper = End.keep
    patch.setattr(End, "keep", keep)


def a_mismatch_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """The client is alarmed and says nothing of it: the other end goes on."""

    def poll(self: ClientNegotiation) -> Any:
        for outgoing in drain(lambda: proper(self)):
            if outgoing.message[:2] != b"\x03\x01" or not _refuses(outgoing.message):
                return outgoing
        return None

    proper = ClientNegotiation.poll_outgoing
    patch.setattr(ClientNegotiation, "poll_outgoing", poll)


def a_stale_ticket_is_a_collision(patch: pytest.MonkeyPatch) -> None:
    def handle_resume(
        self: ServerNegotiation, source: Address, message: bytes, freshness: Freshness, now: float
    ) -> None:
        try:
            proper(self, source, message, freshness, now)
        except AuthenticationError:
            self._handle_collision(source, here=True, now=now)

    proper = ServerNegotiation._handle_resume
    patch.setattr(ServerNegotiation, "_handle_resume", handle_resume)


def a_hello_cancels_no_resume(patch: pytest.MonkeyPatch) -> None:
    def handle_hello(self: ServerNegotiation, *rest: Any) -> None:
        resumed, self._resumed = self._resumed, None
        proper(self, *rest)
        self._resumed = resumed

    proper = ServerNegotiation._handle_hello
    patch.setattr(ServerNegotiation, "_handle_hello", handle_hello)


def a_ticket_leaves_the_root(patch: pytest.MonkeyPatch) -> None:
    """The server goes live by a ticket, and is where it was."""

    def confirm(self: ServerNegotiation, local_index: int, now: float) -> Address | None:
        before = self._pair.held
        reply_to = proper(self, local_index, now)
        if reply_to is not None:
            self._pair.holder.hold(replace(before, confirmed=not before.confirmed))
        return reply_to

    proper = ServerNegotiation.confirm
    patch.setattr(ServerNegotiation, "confirm", confirm)


def client_says_again_what_it_prepared(patch: pytest.MonkeyPatch) -> None:
    """An attempt after one whose end is not known goes on to the same next root: no two handshakes, says the client."""

    def finish(self: ClientNegotiation, attempt: Any, handshake: Any, verdict: Proceed, *rest: Any) -> None:
        roots = self._pair.held.roots
        if len(roots) == 2 and roots[0] == verdict.root:
            handshake._draw = partial(_name_again, roots[1])
        proper(self, attempt, handshake, verdict, *rest)

    proper = ClientNegotiation._finish
    patch.setattr(ClientNegotiation, "_finish", finish)


def two_against_one(patch: pytest.MonkeyPatch) -> None:
    """The server leaves it to the majority: one client that holds another root is not believed, but where a second
    one, from elsewhere, says the same, then the last session was the thief's, and the root before it counts again.
    """

    def moved(held: Entangled, following: bytes, met: Encounter) -> Entangled:
        return replace(held, roots=(following, *held.roots[:1]), met=met, confirmed=False)

    def client_collides(self: ClientNegotiation, source: Address, *, here: bool, now: float) -> None:
        if not here or self._pair.held.alarm is not None:
            proper_client(self, source, here=here, now=now)
            return
        self._attempt = None
        self._events.append(Rebuffed())
        self._pair.holder.hold(self._pair.held)

    def server_collides(self: ServerNegotiation, source: Address, *, here: bool, now: float) -> None:
        pair, held = self._pair, self._pair.held
        if not here and held.alarm is None and len(held.roots) == 2:
            self._forget_all()
            self._events.append(Rebuffed())
            if not held.confirmed:
                pair.holder.hold(replace(held, confirmed=True, met=pair.encounter(source, now)))
                return
            if held.met is not None and held.met.remote != str(source):
                pair.holder.hold(replace(held, roots=held.roots[1:], confirmed=False))
                return
        proper_server(self, source, here=here, now=now)

    proper_client, proper_server = ClientNegotiation._handle_collision, ServerNegotiation._handle_collision
    _break(patch, moved_as_server, moved)
    patch.setattr(ClientNegotiation, "_handle_collision", client_collides)
    patch.setattr(ServerNegotiation, "_handle_collision", server_collides)


def who_enforces_takes_the_absence_of_a_proof(patch: pytest.MonkeyPatch) -> None:
    """The client, to whom a server that holds nothing says so."""

    def judge(held: Entangled, said: ProofKind, matches: Matches, mode: Entangle) -> Proceed | Refuse | Known:
        if said is ProofKind.NONE and held.alarm is None:
            return Proceed(ProofKind.FIRST, FIRST_ROOT)
        return judge_answer(held, said, matches, mode)

    _break(patch, judge_answer, judge)


def who_is_alarmed_does_not_say_so(patch: pytest.MonkeyPatch) -> None:
    """The server, which completes nothing all the same."""
    _break(patch, speak, lambda held, mode: ProofKind.PROOF if held.roots else ProofKind.NONE)


def who_alerts_tells_nothing(patch: pytest.MonkeyPatch) -> None:
    def latch(self: Pair, *rest: Any, **more: Any) -> None:
        if self.mode is Entangle.ENFORCE:
            proper(self, *rest, **more)

    proper = Pair._latch
    patch.setattr(Pair, "_latch", latch)


def _break(patch: pytest.MonkeyPatch, rule: Callable[..., Any], otherwise: Callable[..., Any]) -> None:
    """Whoever in the core goes by `rule` goes by `otherwise`."""
    users = [one for name, one in sys.modules.items() if name.startswith("fabric.core.") and one is not entanglement]
    users = [one for one in users if getattr(one, rule.__name__, None) is rule]
    assert users
    for user in users:
        patch.setattr(user, rule.__name__, otherwise)


def _name_again(root: bytes, count: int) -> bytes:
    return ((name_of(root) or 0).to_bytes(4) * (count // 4 + 1))[:count]


def _refuses(message: bytes) -> bool:
    return int.from_bytes(message[4:8]) in (ProofKind.MISMATCH, ProofKind.ALARM)


def _takes_any_root(held: Entangled, said: ProofKind, matches: Matches, mode: Entangle) -> Proceed | Refuse:
    for root in held.roots:
        if held.alarm is None and said is ProofKind.PROOF and matches(root):
            return Proceed(ProofKind.PROOF, root)
    return judge_finish(held, said, matches, mode)


FAULTS = (
    Fault("a message leaves before the store", sends_before_it_stores, HONEST, "leaves before"),
    Fault("... and what comes of it", sends_before_it_stores, HONEST, "is refused", False),
    Fault("a session is live before the store", is_live_before_it_stores, HONEST, "live before"),
    Fault("the server keeps the old root too", server_keeps_the_old_root, HONEST, "live before"),
    Fault("... and what comes of it", server_keeps_the_old_root, HONEST, ALARMED, False),
    Fault(
        "the server still takes the old root",
        server_still_takes_the_old_root,
        LIAR_AS_CLIENT,
        "made two sessions",
        False,
    ),
    Fault("the client keeps the old root", client_keeps_the_old_root, HONEST, "live before"),
    Fault("... and what comes of it", client_keeps_the_old_root, OLD_SERVER, "made two sessions", False, is_deep=True),
    Fault(
        "... and what a copy makes of it",
        client_keeps_the_old_root,
        COPIED_SERVER,
        "shows nothing",
        False,
        is_deep=True,
    ),
    Fault("a timer drops the old root", a_timer_drops_the_old_root, HONEST, ALARMED),
    Fault(
        "`first` is taken while a root is held", server_takes_first_while_it_holds_a_root, KEY_OF_CLIENT, "met before"
    ),
    Fault("the client takes two ANSWERs", client_takes_two_answers, HONEST, ALARMED),
    Fault("an alarm is only in memory", an_alarm_is_only_in_memory, OLD_SERVER, "leaves before"),
    Fault("... and what comes of it", an_alarm_is_only_in_memory, OLD_SERVER, "an alarm is gone", False, is_deep=True),
    Fault("a mismatch is not told", a_mismatch_is_not_told, OLD_SERVER, "bricked"),
    Fault(
        "a stale ticket is a collision",
        a_stale_ticket_is_a_collision,
        TICKETS,
        "nobody did anything wrong",
        is_deep=True,
    ),
    Fault("a HELLO cancels no resume", a_hello_cancels_no_resume, TICKETS, ALARMED, is_deep=True),
    Fault("a ticket leaves the root", a_ticket_leaves_the_root, TICKETS, "live before"),
    Fault("... and what comes of it", a_ticket_leaves_the_root, TICKETS, ALARMED, False),
    Fault(
        "the client says again what it prepared",
        client_says_again_what_it_prepared,
        TWO_SERVERS,
        "shows nothing",
        False,
        is_deep=True,
    ),
    Fault("two against one", two_against_one, TWO_CLIENTS, "shows nothing", False, is_deep=True),
    Fault(
        "`first` is taken from who enforces nothing",
        server_takes_first_while_it_holds_a_root,
        LENIENT_CLIENT,
        "no root in common",
    ),
    Fault(
        "the absence of a proof is taken",
        who_enforces_takes_the_absence_of_a_proof,
        LENIENT_SERVER,
        "no root in common",
    ),
    Fault("who is alarmed does not say so", who_is_alarmed_does_not_say_so, LENIENT_CLIENT, "bricked"),
    Fault("who alerts tells nothing", who_alerts_tells_nothing, ALERTING_SERVER, "does not tell it"),
)
