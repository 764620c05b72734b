"""Attempts at a handshake with one peer: when to send what again, and when to begin anew.

The endpoint with the lower name is the client and alone sends HELLO (protocol.md section 5); each attempt of it
is a fresh one. The server answers every fresh HELLO, at most one of them is pending, and the newest replaces it.

    client   idle --begin--> HELLO sent --ANSWER--> FINISH sent --first record--> idle
                                 ^  | deadline           | deadline, after RESENDS
                                 +--+<-------------------+
    server   idle --HELLO--> ANSWER sent --FINISH--> idle, remembers the FINISH to answer a repeated one

Nothing here believes an address: messages go to where the attempt began, or back to where they came from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fabric.core.gate import Freshness
from fabric.core.handshake import CheckPeer, ClientHandshake, Established, Party, ServerHandshake
from fabric.core.machine import Calendar, Draw, Instant
from fabric.crypto.digest import blake2b_256
from fabric.crypto.schedule import FIRST_ROOT, root_keys
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.address import Address
from fabric.wire.handshake import MessageKind, decode_hello, kind_of

FIRST_DEADLINE_S = 0.5
LONGEST_DEADLINE_S = 2.0
"""An attempt is begun only where probes pass, so a lost message is the likely reason, not a dead peer."""

RESEND_S = 0.25
RESENDS = 4
PENDING_LIFE_S = 10.0
"""A server forgets an ANSWER whose FINISH does not come; longer than any client waits for it."""

HELLO_BURST = 8
HELLO_INTERVAL_S = 0.25
"""Token bucket of HELLOs from one peer: an ANSWER costs about a millisecond of one core."""

FIRST = root_keys(FIRST_ROOT)
"""Until entanglement keeps a root per pair, every handshake is keyed as a first meeting is."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A whole handshake message for `to`; the parent splits and gates it."""

    to: Address
    message: bytes


@dataclass(frozen=True, slots=True)
class Agreed:
    """A handshake is complete here. `awaiting`: the peer's first record must open before anything is sealed.

    `remote` is where our message went that the peer has answered; `source` is where its answer came from. Only where
    the two are one has that address been proven: whoever copies an answer can send it from anywhere.
    """

    established: Established
    remote: Address
    source: Address
    awaiting: bool


@dataclass(frozen=True, slots=True)
class FinishRepeated:
    """The peer has not heard the record that confirms `local_index`: send another to `remote`."""

    local_index: int
    remote: Address


@dataclass(slots=True)
class _Attempt:
    handshake: ClientHandshake
    to: Address
    deadline: Instant
    established: Established | None = None
    resends: int = 0


@dataclass(slots=True)
class _Pending:
    handshake: ServerHandshake
    to: Address
    deadline: Instant


@dataclass(frozen=True, slots=True)
class _Finished:
    digest: bytes
    local_index: int
    remote: Address
    deadline: Instant


class Negotiation:
    """`allocate_index` returns a session index unused on this node; `party` and `check` reflect what is current."""

    def __init__(
        self,
        party: Callable[[], Party],
        peer: str,
        check: CheckPeer,
        calendar: Calendar,
        draw: Draw,
        allocate_index: Callable[[], int],
    ) -> None:
        self._party = party
        self._peer = peer
        self._check = check
        self._calendar = calendar
        self._draw = draw
        self._allocate_index = allocate_index
        self.may_begin_at: Instant = 0.0
        self._attempt: _Attempt | None = None
        self._pending: _Pending | None = None
        self._finished: _Finished | None = None
        self._failures = 0
        self._tokens = float(HELLO_BURST)
        self._tokens_at: Instant = 0.0
        self._outgoing: deque[Outgoing] = deque()
        self._events: deque[Agreed | FinishRepeated] = deque()
        self.is_client = party().name < peer

    @property
    def is_busy(self) -> bool:
        """Whether this client awaits an answer."""
        return self._attempt is not None

    @property
    def has_shown(self) -> bool:
        """Whether a handshake is under way, for which the own certificate may have been chosen already."""
        return self._attempt is not None or self._pending is not None

    def begin(self, to: Address, rtt_s: float | None, now: Instant) -> None:
        """Client only: sends a fresh HELLO to `to`; an attempt under way is abandoned with its keys.

        Not to be called before `may_begin_at`: the pace that the server allows.
        """
        self.may_begin_at = now + HELLO_INTERVAL_S
        patience = FIRST_DEADLINE_S * 2 ** min(self._failures, 4)
        deadline = now + max(min(patience, LONGEST_DEADLINE_S), min(3 * (rtt_s or 0.0), PENDING_LIFE_S))
        unix_ms = int(self._calendar.unix(now) * 1000)
        handshake = ClientHandshake(self._party(), self._peer, self._check, self._allocate_index(), unix_ms, self._draw)
        self._attempt = _Attempt(handshake, to, deadline)
        self._outgoing.append(Outgoing(to, handshake.hello))

    def abandon(self) -> None:
        """Forgets every attempt, with its keys."""
        self._attempt = self._pending = self._finished = None
        self._failures = 0
        self._outgoing.clear()

    def confirm(self, local_index: int) -> None:
        """The first record of the session opened: the client's attempt is over."""
        attempt = self._attempt
        established = attempt.established if attempt is not None else None
        if established is not None and established.keys.local_index == local_index:
            self._attempt = None
            self._failures = 0

    def handle_message_untrusted(self, source: Address, message: bytes, freshness: Freshness, now: Instant) -> None:
        """A whole message that passed the gate. Raises `DecodeError` or `AuthenticationError`, state untouched."""
        match kind_of(message), self.is_client:
            case MessageKind.HELLO, False:
                self._handle_hello(source, message, freshness, now)
            case MessageKind.ANSWER, True:
                self._handle_answer(source, message, now)
            case MessageKind.FINISH, False:
                self._handle_finish(source, message, now)
            case kind, _:
                raise DecodeError(f"{kind.name} from an endpoint that never sends it")

    def handle_timeout(self, now: Instant) -> bool:
        """Returns True where the client's attempt has failed and a new one should begin."""
        if self._pending is not None and self._pending.deadline <= now:
            self._pending = None
        attempt = self._attempt
        if attempt is None or attempt.deadline > now:
            return False
        if attempt.established is not None and attempt.resends < RESENDS:
            attempt.resends += 1
            attempt.deadline = now + RESEND_S * 2**attempt.resends
            self._outgoing.append(Outgoing(attempt.to, attempt.established.finish_message))
            return False
        self._attempt = None
        self._failures += 1
        return True

    def next_timeout(self) -> Instant | None:
        deadlines = [part.deadline for part in (self._attempt, self._pending) if part is not None]
        return min(deadlines, default=None)

    def poll_outgoing(self) -> Outgoing | None:
        return self._outgoing.popleft() if self._outgoing else None

    def poll_event(self) -> Agreed | FinishRepeated | None:
        return self._events.popleft() if self._events else None

    def _handle_hello(self, source: Address, message: bytes, freshness: Freshness, now: Instant) -> None:
        hello = decode_hello(message)
        if not freshness.accept(hello.unix_ms, hello.challenge, self._calendar.unix(now)):
            raise AuthenticationError("a HELLO that is old or was seen before")
        if not self._take_token(now):
            raise AuthenticationError("too many HELLOs")
        handshake = ServerHandshake(self._party(), self._peer, self._check, self._allocate_index(), self._draw)
        answer = handshake.handle_hello(message)
        self._pending = _Pending(handshake, source, now + PENDING_LIFE_S)
        self._outgoing.append(Outgoing(source, answer))

    def _handle_answer(self, source: Address, message: bytes, now: Instant) -> None:
        attempt = self._attempt
        if attempt is None or attempt.established is not None:
            raise AuthenticationError("an ANSWER to nothing")
        attempt.handshake.handle_answer(message)
        attempt.established = attempt.handshake.finish(FIRST)
        attempt.deadline = now + RESEND_S
        self._outgoing.append(Outgoing(attempt.to, attempt.established.finish_message))
        self._events.append(Agreed(attempt.established, attempt.to, source, awaiting=True))

    def _handle_finish(self, source: Address, message: bytes, now: Instant) -> None:
        digest = blake2b_256(message)
        done, pending = self._finished, self._pending
        if done is not None and done.digest == digest and now < done.deadline:
            self._events.append(FinishRepeated(done.local_index, done.remote))
            return
        if pending is None:
            raise AuthenticationError("a FINISH to nothing")
        pending.handshake.handle_finish(message)
        established = pending.handshake.establish(FIRST)
        self._pending = None
        self._finished = _Finished(digest, established.keys.local_index, pending.to, now + PENDING_LIFE_S)
        self._events.append(Agreed(established, pending.to, source, awaiting=False))

    def _take_token(self, now: Instant) -> bool:
        self._tokens = min(HELLO_BURST, self._tokens + (now - self._tokens_at) / HELLO_INTERVAL_S)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
