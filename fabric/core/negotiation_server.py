"""The server's answers to one client: to each fresh HELLO or ticket, and what it waits for after the newest."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from fabric.core.entanglement import Proceed, Refuse, judge_finish, moved_as_server, speak
from fabric.core.gate import Freshness
from fabric.core.handshake import ServerHandshake
from fabric.core.machine import Instant
from fabric.core.negotiation import (
    HELLO_BURST,
    HELLO_INTERVAL_S,
    HELLO_SOURCES,
    PENDING_LIFE_S,
    Abandoned,
    Agreed,
    NegotiationEvent,
    Outgoing,
    RecordDue,
)
from fabric.core.pace import PacePerSource
from fabric.core.pair import Pair
from fabric.core.resume import Continued
from fabric.crypto.digest import blake2b_256
from fabric.crypto.schedule import next_root, root_keys
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.address import Address, sender_of
from fabric.wire.handshake import Hello, MessageKind, ProofKind, decode_hello, kind_of
from fabric.wire.ticket import Resume, decode_resume


@dataclass(frozen=True, slots=True)
class _Pending:
    """An ANSWER was sent `to`."""

    handshake: ServerHandshake
    to: Address
    deadline: Instant


@dataclass(frozen=True, slots=True)
class _Resumed:
    """A ticket was answered; its first record moves the root on."""

    continued: Continued
    remote: Address
    deadline: Instant


@dataclass(frozen=True, slots=True)
class _Finished:
    """The FINISH that was taken, by its digest."""

    digest: bytes
    local_index: int
    remote: Address
    deadline: Instant


class ServerNegotiation:
    """Answers, and begins nothing. Either a FINISH is awaited, or the first record after a ticket, or nothing."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._pending: _Pending | None = None
        self._resumed: _Resumed | None = None
        self._finished: _Finished | None = None
        self._pace = PacePerSource(HELLO_INTERVAL_S, HELLO_BURST, HELLO_SOURCES)
        self._outgoing: deque[Outgoing] = deque()
        self._events: deque[NegotiationEvent] = deque()

    @property
    def has_shown(self) -> bool:
        """Whether the own certificate was shown in a handshake that is under way."""
        return self._pending is not None

    def abandon(self) -> None:
        """Forgets every handshake, with its keys."""
        self._forget_all()
        self._outgoing.clear()

    def confirm(self, local_index: int, now: Instant) -> Address | None:
        """The first record of a session by ticket opened: the client has moved on, and so does this end.

        Returns where a record has to go, once that is stored, for the client to know.
        """
        resumed = self._resumed
        if resumed is None or resumed.continued.keys.local_index != local_index:
            return None
        self._resumed = None
        self._move_on(resumed.continued.following, resumed.remote, now)
        return resumed.remote

    def handle_message_untrusted(self, source: Address, message: bytes, freshness: Freshness, now: Instant) -> None:
        """A whole message that passed the gate. Raises `DecodeError` or `AuthenticationError`, state untouched."""
        match kind_of(message):
            case MessageKind.HELLO:
                self._handle_hello(source, message, freshness, now)
            case MessageKind.FINISH:
                self._handle_finish(source, message, now)
            case MessageKind.RESUME:
                self._handle_resume(source, message, freshness, now)
            case kind:
                raise DecodeError(f"{kind.name} from an endpoint that never sends it")

    def handle_timeout(self, now: Instant) -> bool:
        """Returns False: nothing follows from a client that went silent."""
        if self._pending is not None and self._pending.deadline <= now:
            self._pending = None
        if self._resumed is not None and self._resumed.deadline <= now:
            self._drop_resumed()
        return False

    def next_timeout(self) -> Instant | None:
        deadlines = [part.deadline for part in (self._pending, self._resumed) if part is not None]
        return min(deadlines, default=None)

    def poll_outgoing(self) -> Outgoing | None:
        return self._outgoing.popleft() if self._outgoing else None

    def poll_event(self) -> NegotiationEvent | None:
        return self._events.popleft() if self._events else None

    def _handle_hello(self, source: Address, message: bytes, freshness: Freshness, now: Instant) -> None:
        self._check_fresh(decode_hello(message), source, freshness, now)
        pair = self._pair
        handshake = pair.steps.server(pair.party(), pair.peer, pair.check, pair.allocate_index(), pair.draw)
        held = pair.held
        kind = speak(held, pair.mode)
        answer = handshake.handle_hello(message, root_keys(held.roots[0]) if kind is ProofKind.PROOF else None, kind)
        self._drop_resumed()
        self._pending = _Pending(handshake, source, now + PENDING_LIFE_S)
        self._outgoing.append(Outgoing(source, answer))

    def _handle_finish(self, source: Address, message: bytes, now: Instant) -> None:
        digest = blake2b_256(message)
        done, pending, pair = self._finished, self._pending, self._pair
        if done is not None and done.digest == digest and now < done.deadline:
            self._events.append(RecordDue(done.local_index, done.remote))
            return
        if pending is None:
            raise AuthenticationError("a FINISH to nothing")
        handshake = pending.handshake
        opened = handshake.handle_finish(message)
        said = opened.proof.kind
        self._pending = None
        match judge_finish(pair.held, said, lambda root: handshake.proof_matches(root_keys(root)), pair.mode):
            case Proceed() as verdict:
                root = pair.go_on(verdict, source, is_rotated=opened.is_rotated, now=now)
                established = handshake.establish(root, anew=verdict.is_forced)
                self._move_on(next_root(root, established.exporter), source, now)
                certificate, keys = established.certificate, established.keys
                self._finished = _Finished(digest, keys.local_index, pending.to, now + PENDING_LIFE_S)
                self._events.append(Agreed(certificate, keys, pending.to, source, awaiting=False, is_full=True))
            case Refuse():
                is_told = said in (ProofKind.MISMATCH, ProofKind.ALARM)
                self._handle_collision(source, here=not is_told, now=now)

    def _handle_resume(self, source: Address, message: bytes, freshness: Freshness, now: Instant) -> None:
        """A ticket that does not fit is dropped, and nothing is concluded: the client will come with a HELLO."""
        resume, _, _ = decode_resume(message)
        self._check_fresh(resume, source, freshness, now)
        pair = self._pair
        root, certificate = pair.continuable()
        index = pair.allocate_index()
        answer, continued = pair.steps.answer_resume(pair.party(), pair.peer, message, root, index, pair.draw)
        self._drop_resumed()
        self._pending = self._finished = None
        self._resumed = _Resumed(continued, source, now + PENDING_LIFE_S)
        self._events.append(Agreed(certificate, continued.keys, source, source, awaiting=True, is_full=False))
        self._outgoing.append(Outgoing(source, answer))

    def _check_fresh(self, asked: Hello | Resume, source: Address, freshness: Freshness, now: Instant) -> None:
        """Raises `AuthenticationError` where it was seen before, or this sender asks too often."""
        sender = sender_of(source)
        if not freshness.accept(asked.unix_ms, asked.challenge, self._pair.calendar.unix(now), sender):
            raise AuthenticationError("a HELLO or a ticket that is old or was seen before")
        if not self._pace.try_take(sender, now):
            raise AuthenticationError("too many HELLOs and tickets")

    def _move_on(self, following: bytes, source: Address, now: Instant) -> None:
        pair = self._pair
        pair.holder.hold(moved_as_server(pair.held, following, pair.encounter(source, now)))

    def _drop_resumed(self) -> None:
        if self._resumed is not None:
            self._events.append(Abandoned(self._resumed.continued.keys.local_index))
            self._resumed = None

    def _forget_all(self) -> None:
        self._pending = self._resumed = self._finished = None

    def _handle_collision(self, source: Address, *, here: bool, now: Instant) -> None:
        self._forget_all()
        self._events.append(self._pair.collide(source, here=here, now=now))
