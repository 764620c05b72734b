"""The client's attempts: a HELLO or a ticket, what is sent again, and when the next one may begin."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from fabric.core.entanglement import (
    Known,
    Proceed,
    Refuse,
    confirmed_as_client,
    judge_answer,
    moved_as_client,
    resumable,
)
from fabric.core.gate import Freshness
from fabric.core.handshake import ClientHandshake
from fabric.core.machine import NEVER, Instant
from fabric.core.negotiation import HELLO_INTERVAL_S, PENDING_LIFE_S, Agreed, NegotiationEvent, Outgoing, RecordDue
from fabric.core.pair import Pair
from fabric.core.resume import ClientResume
from fabric.crypto.schedule import RootKeys, next_root, root_keys
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.address import Address
from fabric.wire.handshake import MessageKind, ProofKind, kind_of

FIRST_DEADLINE_S = 0.5
LONGEST_DEADLINE_S = 2.0
"""An attempt is begun only where probes pass, so a lost message is the likely reason, not a dead peer."""

RESEND_S = 0.25
RESENDS = 4

FIRST_REFUSAL_S = 2.0
LAST_REFUSAL = 5
"""An alarmed client goes on telling until it is heard, ever more rarely: at last every 64 s."""


@dataclass(slots=True)
class _Attempt:
    """A handshake, or a ticket. `finish` is what was said last, empty where that was a record."""

    to: Address
    deadline: Instant
    local_index: int
    handshake: ClientHandshake | None = None
    resume: ClientResume | None = None
    finish: bytes | None = None
    resends: int = 0


class ClientNegotiation:
    """Has at most one attempt under way. `may_begin_at` is when the next is allowed."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self.may_begin_at: Instant = 0.0
        self._begun_at: Instant = -NEVER
        self._attempt: _Attempt | None = None
        self._spent_ticket: bytes | None = None
        self._failures = 0
        self._refusals = 0
        self._server_at: Address | None = None
        self._outgoing: deque[Outgoing] = deque()
        self._events: deque[NegotiationEvent] = deque()

    @property
    def is_busy(self) -> bool:
        """Whether an answer, or the first record, is awaited."""
        return self._attempt is not None

    @property
    def has_shown(self) -> bool:
        """Whether a handshake is under way, for which the own certificate may have been chosen already."""
        return self._attempt is not None

    def begin(self, to: Address, rtt_s: float | None, now: Instant, *, may_resume: bool = False) -> None:
        """Sends a fresh HELLO to `to`, or a ticket; an attempt under way is abandoned with its keys.

        Not to be called before `may_begin_at`: the pace that the server allows.
        """
        self._begun_at, self.may_begin_at = now, now + HELLO_INTERVAL_S
        patience = FIRST_DEADLINE_S * 2 ** min(self._failures, 4)
        deadline = now + max(min(patience, LONGEST_DEADLINE_S), min(3 * (rtt_s or 0.0), PENDING_LIFE_S))
        pair, steps = self._pair, self._pair.steps
        unix_ms = int(pair.calendar.unix(now) * 1000)
        index, me = pair.allocate_index(), pair.party()
        root = self._take_ticket() if may_resume else None
        if root is not None:
            resume = steps.resume(me, pair.peer, root, index, unix_ms, pair.draw)
            self._attempt = _Attempt(to, deadline, index, resume=resume)
            self._outgoing.append(Outgoing(to, resume.message))
            return
        handshake = steps.client(me, pair.peer, pair.check, index, unix_ms, pair.draw)
        self._attempt = _Attempt(to, deadline, index, handshake)
        self._outgoing.append(Outgoing(to, handshake.hello))

    def abandon(self) -> None:
        """Forgets the attempt, with its keys."""
        self._attempt = None
        self._failures = self._refusals = 0
        self.may_begin_at = min(self.may_begin_at, self._begun_at + HELLO_INTERVAL_S)
        self._outgoing.clear()

    def handle_called(self) -> None:
        """The server asks for a handshake: one that refuses does not, so it may have been reset since."""
        if self._pair.held.alarm is None:
            self.may_begin_at = min(self.may_begin_at, self._begun_at + FIRST_REFUSAL_S)

    def confirm(self, local_index: int, now: Instant) -> Address | None:
        """The first record of the newest session opened: the server has moved on, and so does this end.

        Returns None: there is nothing left that the server has to hear.
        """
        met = self._pair.encounter(self._server_at, now) if self._server_at is not None else None
        self._pair.holder.hold(confirmed_as_client(self._pair.held, met))
        if self._attempt is not None and self._attempt.local_index == local_index:
            self._attempt = None
        self._failures = self._refusals = 0
        return None

    def handle_message_untrusted(self, source: Address, message: bytes, _freshness: Freshness, now: Instant) -> None:
        """A whole message that passed the gate. Raises `DecodeError` or `AuthenticationError`, state untouched.

        An answer names the attempt that it belongs to: it needs no date to be fresh.
        """
        match kind_of(message):
            case MessageKind.ANSWER:
                self._handle_answer(source, message, now)
            case MessageKind.RESUMED:
                self._handle_resumed(source, message, now)
            case kind:
                raise DecodeError(f"{kind.name} from an endpoint that never sends it")

    def handle_timeout(self, now: Instant) -> bool:
        """Returns True where the attempt has failed and a new one should begin."""
        attempt = self._attempt
        if attempt is None or attempt.deadline > now:
            return False
        if attempt.finish is not None and attempt.resends < RESENDS:
            attempt.resends += 1
            attempt.deadline = now + RESEND_S * 2**attempt.resends
            if attempt.finish:
                self._outgoing.append(Outgoing(attempt.to, attempt.finish))
            else:
                self._events.append(RecordDue(attempt.local_index, attempt.to))
            return False
        self._attempt = None
        self._failures += 1
        return True

    def next_timeout(self) -> Instant | None:
        return self._attempt.deadline if self._attempt is not None else None

    def poll_outgoing(self) -> Outgoing | None:
        return self._outgoing.popleft() if self._outgoing else None

    def poll_event(self) -> NegotiationEvent | None:
        return self._events.popleft() if self._events else None

    def _handle_answer(self, source: Address, message: bytes, now: Instant) -> None:
        attempt = self._attempt
        if attempt is None or attempt.handshake is None or attempt.finish is not None:
            raise AuthenticationError("an ANSWER to nothing")
        handshake, pair = attempt.handshake, self._pair
        opened = handshake.handle_answer(message)
        said = opened.proof.kind
        match judge_answer(pair.held, said, lambda root: handshake.proof_matches(root_keys(root)), pair.mode):
            case Proceed() as verdict:
                root = pair.go_on(verdict, source, is_rotated=opened.is_rotated, now=now)
                self._finish(attempt, handshake, verdict, root, source, now)
            case Refuse(kind=kind):
                self._outgoing.append(Outgoing(attempt.to, handshake.refuse(kind)))
                self._handle_collision(source, here=said is not ProofKind.ALARM, now=now)
            case Known():
                self._handle_collision(source, here=False, now=now)

    def _finish(
        self,
        attempt: _Attempt,
        handshake: ClientHandshake,
        verdict: Proceed,
        root: RootKeys,
        source: Address,
        now: Instant,
    ) -> None:
        established = handshake.finish(root, verdict.kind, anew=verdict.is_forced)
        certificate, keys, finish = established.certificate, established.keys, established.finish_message
        agreed = Agreed(certificate, keys, attempt.to, source, awaiting=True, is_full=True)
        self._move_on(attempt, verdict, next_root(root, established.exporter), finish, agreed, now)
        self._outgoing.append(Outgoing(attempt.to, finish))

    def _handle_resumed(self, source: Address, message: bytes, now: Instant) -> None:
        attempt = self._attempt
        if attempt is None or attempt.resume is None or attempt.finish is not None:
            raise AuthenticationError("a resumption of nothing")
        root, certificate = self._pair.continuable()
        continued = attempt.resume.handle_resumed(message)
        agreed = Agreed(certificate, continued.keys, attempt.to, source, awaiting=False, is_full=False)
        self._move_on(attempt, Proceed(ProofKind.PROOF, root), continued.following, b"", agreed, now)

    def _move_on(
        self, attempt: _Attempt, verdict: Proceed, following: bytes, finish: bytes, agreed: Agreed, now: Instant
    ) -> None:
        """Stores what follows before the last word, `finish`, leaves; that is said again until the server is heard."""
        self._pair.holder.hold(moved_as_client(self._pair.held, verdict, following))
        self._server_at = agreed.source
        attempt.finish, attempt.deadline = finish, now + RESEND_S
        self._events.append(agreed)

    def _take_ticket(self) -> bytes | None:
        """Returns the root to continue, once: what was tried in vain is left to a full handshake."""
        pair, root = self._pair, resumable(self._pair.held)
        if root is None or not pair.held.confirmed or root == self._spent_ticket:
            return None
        if pair.remembered_certificate() is None:
            return None
        self._spent_ticket = root
        return root

    def _handle_collision(self, source: Address, *, here: bool, now: Instant) -> None:
        self._attempt = None
        self.may_begin_at = now + FIRST_REFUSAL_S * 2 ** min(self._refusals, LAST_REFUSAL)
        self._refusals += 1
        self._events.append(self._pair.collide(source, here=here, now=now))
