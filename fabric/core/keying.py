"""The keys shared with one peer: has a session, or gets one, and renews it before it is old.

What moves the pair's root on is stored before the session is live: `handle_stored` says when that is so.

A session is *suspect* when its path was lost, or the peer asked for us by way of the service: then it still opens
and seals (the peer may be there all the same), but a new one is wanted, and its silence proves nothing.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fabric.core.entanglement import Entangle
from fabric.core.gate import Freshness
from fabric.core.handshake import CheckPeer, Party
from fabric.core.machine import Instant, drain
from fabric.core.negotiation import Abandoned, Agreed, Collided, Outgoing, Rebuffed, RecordDue
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.core.one_path import Path
from fabric.core.pair import PROVEN_STEPS, Holder, Pair, Steps
from fabric.core.session import IDLE_FACTOR, Session, Sessions
from fabric.core.surroundings import Surroundings
from fabric.core.timers import Timers
from fabric.dataplane.contract import Port, Traffic
from fabric.identity.certificate import Certificate
from fabric.wire.address import Address

FIRST_CALL_S = 0.3
CALL_INTERVAL_S = 1.0
"""At most one call a second (protocol.md section 5)."""

REKEY_GRACE_S = 10.0
"""The server of the pair asks for a re-key only when the client is late by this much."""


FAILURES_TO_DOUBT = 2
"""One attempt fails by mere loss easily: five datagrams must all arrive."""


@dataclass(frozen=True, slots=True)
class Met:
    """The peer has proven itself by `certificate`; `source` is where it spoke from, and `is_proven` whether it was
    spoken to there. `is_full`: it was shown the own certificate as well."""

    certificate: Certificate
    source: Address
    is_proven: bool
    is_full: bool


@dataclass(frozen=True, slots=True)
class BecameLive:
    """A new session seals from now on."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The last session came to the end of its life."""


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """Attempt after attempt on the primary gets no answer, so the primary is in doubt."""


@dataclass(frozen=True, slots=True)
class CallDue:
    """Ask the client of the pair for a HELLO."""

    to: Address


KeyingEvent = Met | BecameLive | SessionEnded | AttemptFailed | CallDue | Collided | Rebuffed


class _Timer(enum.Enum):
    BEGIN = enum.auto()
    CALL = enum.auto()
    REKEY = enum.auto()


class Keying:
    """Steers the lane: admits the peer, installs, promotes and retires its sessions."""

    def __init__(
        self,
        around: Surroundings,
        peer: str,
        check: CheckPeer,
        holder: Holder,
        remembered: Callable[[], bytes | None] = lambda: None,
        *,
        steps: Steps = PROVEN_STEPS,
    ) -> None:
        self._around = around
        self._holder = holder
        self._peer = peer
        self._sessions = Sessions(around.lane, around.settings)
        pair = Pair(
            self._party,
            peer,
            check,
            around.calendar,
            around.draw,
            around.allocate_index,
            holder,
            around.settings.entangle,
            steps,
            remembered,
        )
        self._negotiation = ClientNegotiation(pair) if pair.is_client else ServerNegotiation(pair)
        self._timers: Timers[_Timer] = Timers()
        self._is_wanted = False
        self._is_wanted_again = False
        self._failures = 0
        self._agreed: Agreed | None = None
        self._confirmed: tuple[int, Address | None] | None = None
        self._unproven: int | None = None
        self._events: deque[KeyingEvent] = deque()
        self.is_suspect = False

    @property
    def live(self) -> Session | None:
        return self._sessions.live

    @property
    def is_quarantined(self) -> bool:
        """Whether an alarm keeps the pair apart until a person resets it."""
        return self._holder.entangled.alarm is not None and self._around.settings.entangle is Entangle.ENFORCE

    def holds(self, local_index: int) -> bool:
        return self._sessions.holds(local_index)

    def want(self) -> None:
        """A handshake is wanted although nothing is wrong: the peer called. It may have another certificate to show,
        so this is a full one."""
        self._is_wanted = True
        if isinstance(self._negotiation, ClientNegotiation):
            self._negotiation.handle_called()

    def renew(self) -> None:
        """The own certificate is new; a handshake that is under way may still show the old one."""
        self._is_wanted = True
        self._is_wanted_again = self._negotiation.has_shown

    def is_left(self, local_index: int) -> bool:
        """Whether the peer was heard on a newer session: what comes in this one now was sealed before that."""
        live = self.live
        return live is not None and live.local_index != local_index and live.is_heard

    def doubt(self) -> None:
        self.is_suspect = self.live is not None

    def bound(self, certificate: Certificate) -> None:
        """No session outlives the peer's certificate, or the own."""
        self._sessions.bound(self._ends(certificate))

    def handle_message_untrusted(self, source: Address, message: bytes, freshness: Freshness, now: Instant) -> None:
        """A whole handshake message. Raises `DecodeError` or `AuthenticationError`, and nothing has changed."""
        self._negotiation.handle_message_untrusted(source, message, freshness, now)
        self._drain_negotiation(now)

    def handle_stored(self, now: Instant) -> None:
        """All that this peer had to store is on stable storage: what was to wait for that happens now."""
        agreed, self._agreed = self._agreed, None
        if agreed is not None:
            self._install(agreed, now)
            self._around.lane.send_control(agreed.keys.local_index, b"", agreed.remote)
            self._handle_live(now)
        if self._confirmed is None:
            return
        (index, reply_to), self._confirmed = self._confirmed, None
        if self._sessions.confirm(index, now):
            self._handle_live(now)
        if self.live is not None and self.live.local_index == index:
            self.live.is_heard = True
            if reply_to is not None:
                self._around.lane.send_control(index, b"", reply_to)

    def handle_opened(self, traffic: Traffic, now: Instant) -> bool:
        """Records of a session opened; True where it is the live one, which is thereby above suspicion."""
        index = traffic.local_index
        if self._confirmed is None and (self._sessions.awaits(index) or self._unproven == index):
            self._unproven = None
            self._confirmed = (index, self._negotiation.confirm(index, now))
        if self.live is None or self.live.local_index != traffic.local_index:
            return False
        self.is_suspect = False
        self.live.is_heard = True
        return True

    def handle_sealed(self, traffic: Traffic, now: Instant) -> None:
        if traffic.sealed:
            self._sessions.note_used(traffic.local_index, traffic.sealed, now)
        if self.live is not None and self.live.local_index == traffic.local_index:
            self.live.highest_counter = max(self.live.highest_counter, traffic.highest_sealed_counter)

    def pursue(self, primary: Path | None, now: Instant) -> bool:
        """Sees to it that there is, or will be, a session: the client sends HELLO, the server asks for one.

        Returns whether a handshake was begun on `primary`.
        """
        negotiation = self._negotiation
        if primary is None or not self._is_handshake_due(now):
            self._timers.cancel(_Timer.CALL)
        elif isinstance(negotiation, ServerNegotiation):
            self._timers.set_if_unset(_Timer.CALL, now + FIRST_CALL_S)
        elif negotiation.is_busy:
            pass
        elif now < negotiation.may_begin_at:
            self._timers.set(_Timer.BEGIN, negotiation.may_begin_at)
        else:
            may_resume = self.live is None or self.is_suspect
            negotiation.begin(primary.address, primary.rtt_s, now, may_resume=may_resume)
            return True
        return False

    def end_sessions(self) -> None:
        """Wipes every key of this peer; what is to be said of a collision is still said."""
        self._sessions.end()
        self._timers.clear()
        self._agreed = self._confirmed = self._unproven = None
        self.is_suspect = False

    def end(self) -> None:
        """Wipes every key of this peer, and what was about to become one."""
        self.end_sessions()
        self._negotiation.abandon()
        self._is_wanted = self._is_wanted_again = False

    def handle_timeout(self, primary: Path | None, now: Instant) -> None:
        if self._sessions.handle_timeout(now):
            self.end()
            self._events.append(SessionEnded())
        has_failed = self._negotiation.handle_timeout(now)
        self._drain_negotiation(now)
        if has_failed:
            if self._unproven is not None:
                # Nothing was heard from whoever took the ticket: it may be a copy that listens, and moves nothing on.
                self.end_sessions()
                self._events.append(SessionEnded())
            self._failures += 1
            if self._failures % FAILURES_TO_DOUBT == 0:
                self._events.append(AttemptFailed())
        due = self._timers.take_due(now)
        if _Timer.REKEY in due and self.live is not None and not self._is_handshake_due(now):
            idle_s = IDLE_FACTOR * self._around.settings.rekey_after_s
            self._timers.set(_Timer.REKEY, self.live.started + idle_s + self._margin_s)
        if _Timer.CALL in due and primary is not None:
            self._events.append(CallDue(primary.address))
            self._timers.set(_Timer.CALL, now + CALL_INTERVAL_S)

    def next_timeout(self) -> Instant | None:
        nexts = (self._timers.next(), self._negotiation.next_timeout(), self._sessions.next_timeout())
        return min((at for at in nexts if at is not None), default=None)

    def poll_event(self) -> KeyingEvent | None:
        return self._events.popleft() if self._events else None

    def poll_outgoing(self) -> Outgoing | None:
        return self._negotiation.poll_outgoing()

    def _party(self) -> Party:
        identity = self._around.identity
        suites = self._around.settings.suites
        return Party(
            identity.name, identity.network, identity.certificate.der, identity.signer, suites, identity.rotations
        )

    def _drain_negotiation(self, now: Instant) -> None:
        for event in drain(self._negotiation.poll_event):
            match event:
                case Agreed():
                    self._handle_agreed(event, now)
                case Abandoned(local_index=index):
                    self._sessions.abandon(index)
                case RecordDue(local_index=index, remote=remote):
                    if self._sessions.holds(index):
                        self._around.lane.send_control(index, b"", remote)
                case Collided() | Rebuffed():
                    self._is_wanted = self._is_wanted_again = False
                    self._events.append(event)

    def _handle_agreed(self, agreed: Agreed, now: Instant) -> None:
        self._confirmed = self._unproven = None
        if agreed.awaiting:
            self._install(agreed, now)
        else:
            self._agreed = agreed
        if self._is_client and not agreed.awaiting:
            self._unproven = agreed.keys.local_index
        # Nothing was sent to whom a ticket came from: anybody on the way can take it, and send it from anywhere.
        is_answer = agreed.is_full or self._is_client
        is_proven = is_answer and agreed.source == agreed.remote
        self._events.append(Met(agreed.certificate, agreed.source, is_proven, agreed.is_full))

    def _install(self, agreed: Agreed, now: Instant) -> None:
        certificate, keys = agreed.certificate, agreed.keys
        self._around.lane.admit(self._peer, Port(certificate.mac, certificate.addresses))
        self._sessions.install(keys, awaiting=agreed.awaiting, ends=self._ends(certificate), now=now)

    def _handle_live(self, now: Instant) -> None:
        self.is_suspect = False
        self._is_wanted, self._is_wanted_again = self._is_wanted_again, False
        self._failures = 0
        self._timers.clear()
        self._timers.set(_Timer.REKEY, now + self._around.settings.rekey_after_s + self._margin_s)
        self._events.append(BecameLive())

    def _is_handshake_due(self, now: Instant) -> bool:
        alarm = self._holder.entangled.alarm
        if alarm is not None and self.is_quarantined and (alarm.is_known or not self._is_client):
            return self._is_wanted and self._is_client
        if self.live is None or self.is_suspect or self._is_wanted:
            return True
        return self._sessions.is_rekey_due(now, self._margin_s)

    @property
    def _is_client(self) -> bool:
        return isinstance(self._negotiation, ClientNegotiation)

    @property
    def _margin_s(self) -> float:
        return 0.0 if self._is_client else REKEY_GRACE_S

    def _ends(self, certificate: Certificate) -> Instant:
        ends = min(certificate.not_after, self._around.identity.certificate.not_after)
        return self._around.calendar.instant(ends)
