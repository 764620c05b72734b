"""The keys shared with one peer: has a session, or gets one, and renews it before it is old.

A session is *suspect* when its path was lost, or the peer asked for us by way of the service: then it still opens
and seals (the peer may be there all the same), but a new one is wanted, and its silence proves nothing.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from fabric.core.gate import Freshness
from fabric.core.handshake import CheckPeer, Party
from fabric.core.machine import Instant, drain
from fabric.core.negotiation import Agreed, FinishRepeated, Negotiation, Outgoing
from fabric.core.one_path import Path
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
    spoken to there."""

    certificate: Certificate
    source: Address
    is_proven: bool


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


KeyingEvent = Met | BecameLive | SessionEnded | AttemptFailed | CallDue


class _Timer(enum.Enum):
    BEGIN = enum.auto()
    CALL = enum.auto()
    REKEY = enum.auto()


class Keying:
    """Steers the lane: admits the peer, installs, promotes and retires its sessions."""

    def __init__(self, around: Surroundings, peer: str, check: CheckPeer) -> None:
        self._around = around
        self._peer = peer
        self._sessions = Sessions(around.lane, around.settings)
        self._negotiation = Negotiation(self._party, peer, check, around.calendar, around.draw, around.allocate_index)
        self._timers: Timers[_Timer] = Timers()
        self._is_wanted = False
        self._is_wanted_again = False
        self._failures = 0
        self._events: deque[KeyingEvent] = deque()
        self.is_suspect = False

    @property
    def live(self) -> Session | None:
        return self._sessions.live

    def holds(self, local_index: int) -> bool:
        return self._sessions.holds(local_index)

    def want(self) -> None:
        """A handshake is wanted although nothing is wrong: the peer called."""
        self._is_wanted = True

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
        for event in drain(self._negotiation.poll_event):
            match event:
                case Agreed():
                    self._handle_agreed(event, now)
                case FinishRepeated(local_index=index, remote=remote):
                    self._around.lane.send_control(index, b"", remote)

    def handle_opened(self, traffic: Traffic, now: Instant) -> bool:
        """Records of a session opened; True where it is the live one, which is thereby above suspicion."""
        if self._sessions.confirm(traffic.local_index, now):
            self._negotiation.confirm(traffic.local_index)
            self._handle_live(now)
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

    def pursue(self, primary: Path | None, now: Instant) -> None:
        """Sees to it that there is, or will be, a session: the client sends HELLO, the server asks for one."""
        if primary is None or not self._is_handshake_due(now):
            self._timers.cancel(_Timer.CALL)
        elif not self._negotiation.is_client:
            self._timers.set_if_unset(_Timer.CALL, now + FIRST_CALL_S)
        elif self._negotiation.is_busy:
            return
        elif now < self._negotiation.may_begin_at:
            self._timers.set(_Timer.BEGIN, self._negotiation.may_begin_at)
        else:
            self._negotiation.begin(primary.address, primary.rtt_s, now)

    def end(self) -> None:
        """Wipes every key of this peer, and what was about to become one."""
        self._sessions.end()
        self._negotiation.abandon()
        self._timers.clear()
        self.is_suspect = self._is_wanted = self._is_wanted_again = False

    def handle_timeout(self, primary: Path | None, now: Instant) -> None:
        if self._sessions.handle_timeout(now):
            self.end()
            self._events.append(SessionEnded())
        if self._negotiation.handle_timeout(now):
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
        return Party(identity.name, identity.network, identity.certificate.der, identity.signer, suites)

    def _handle_agreed(self, agreed: Agreed, now: Instant) -> None:
        certificate, keys = agreed.established.certificate, agreed.established.keys
        self._around.lane.admit(self._peer, Port(certificate.mac, certificate.addresses))
        self._sessions.install(keys, awaiting=agreed.awaiting, ends=self._ends(certificate), now=now)
        self._events.append(Met(certificate, agreed.source, agreed.source == agreed.remote))
        if not agreed.awaiting:
            self._around.lane.send_control(keys.local_index, b"", agreed.remote)
            self._handle_live(now)

    def _handle_live(self, now: Instant) -> None:
        self.is_suspect = False
        self._is_wanted, self._is_wanted_again = self._is_wanted_again, False
        self._failures = 0
        self._timers.clear()
        self._timers.set(_Timer.REKEY, now + self._around.settings.rekey_after_s + self._margin_s)
        self._events.append(BecameLive())

    def _is_handshake_due(self, now: Instant) -> bool:
        if self.live is None or self.is_suspect or self._is_wanted:
            return True
        return self._sessions.is_rekey_due(now, self._margin_s)

    @property
    def _margin_s(self) -> float:
        return 0.0 if self._negotiation.is_client else REKEY_GRACE_S

    def _ends(self, certificate: Certificate) -> Instant:
        ends = min(certificate.not_after, self._around.identity.certificate.not_after)
        return self._around.calendar.instant(ends)
