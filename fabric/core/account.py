"""What there is to see of a peer: its state, why it is in it (one sentence for a person), and the figures."""

from __future__ import annotations

from collections.abc import Iterator

from fabric.core.acquaintance import Acquaintance
from fabric.core.events import PeerChanged, TrustAlarm
from fabric.core.explain import Case, explain
from fabric.core.keying import Keying
from fabric.core.machine import Instant
from fabric.core.one_path import Path
from fabric.core.opener import Opener
from fabric.core.path import PathAgent
from fabric.core.path_rhythm import PUNCH_INTERVALS_S
from fabric.core.status import Attempt, Outcome, PathStatus, PeerState, PeerStatus
from fabric.core.surroundings import Surroundings
from fabric.core.trusting import explain_alarm, explain_fault, explain_rebuff, trust_of
from fabric.errors import CertificateError
from fabric.wire.nat import UNKNOWN_NAT


class Account:
    """Tells of one peer what has changed: its state, and each alarm once, over restarts too.

    `trouble` is a sentence on what keeps the two apart where no state says it, or empty. `last_seen` is when a record
    of the peer was opened last.
    """

    def __init__(
        self, around: Surroundings, papers: Acquaintance, keying: Keying, paths: PathAgent, opener: Opener
    ) -> None:
        self._around = around
        self._papers = papers
        self._keying = keying
        self._paths = paths
        self._opener = opener
        self.trouble = ""
        self.last_seen: Instant | None = None
        told = papers.entangled.alarm
        self._told_alarm = told.at if told is not None else None
        self._told: tuple[object, ...] | None = None

    @property
    def state(self) -> PeerState:
        return state_of(self._papers, self._keying, self._paths)

    def note_fault(self, error: CertificateError) -> None:
        """A certificate of the peer was refused."""
        self.trouble = explain_fault(self._papers.name, error)

    def note_rebuff(self) -> None:
        """Who lets collisions pass, or holds no root, is quarantined by nobody but the other end."""
        is_entangled = bool(self._papers.entangled.roots)
        is_quarantined = self._keying.is_quarantined
        self.trouble = "" if is_quarantined else explain_rebuff(self._papers.name, is_entangled=is_entangled)

    def note_end(self, now: Instant) -> None:
        """The last session came to the end of its life, maybe with a certificate."""
        certificate, unix = self._papers.certificate, self._around.calendar.unix(now)
        if self._around.identity.certificate.not_after <= unix:
            self.trouble = "the own certificate has expired"
        elif certificate is not None and certificate.not_after <= unix:
            self.trouble = f"the certificate of {self._papers.name} has expired"

    def news(self, now: Instant, *, is_service_up: bool) -> Iterator[TrustAlarm | PeerChanged]:
        """Yields what was not told yet. The sentence is made only where it is: it looks at every attempt."""
        name, alarm = self._papers.name, self._papers.entangled.alarm
        if alarm is not None and alarm.at != self._told_alarm:
            yield TrustAlarm(name, alarm)
        self._told_alarm = alarm.at if alarm is not None else None
        state, primary = self.state, self._paths.primary
        kind = primary.kind if primary is not None else None
        told = (state, kind, *(() if state is PeerState.CONNECTED else (self.trouble, is_service_up)))
        if told != self._told:
            self._told = told
            yield PeerChanged(name, state, self._why(state, now))

    def status(self, now: Instant) -> PeerStatus:
        """Returns all of it; `last_seen_s` counts from the last record that opened."""
        papers, paths = self._papers, self._paths
        state, certificate, live = self.state, papers.certificate, self._keying.live
        counters = self._around.lane.counters(papers.name)
        return PeerStatus(
            name=papers.name,
            state=state,
            why=self._why(state, now),
            path=_path_status(paths) if state is PeerState.CONNECTED else None,
            cipher=live.suite.label if live is not None else None,
            addresses=tuple(str(a) for a in certificate.addresses) if certificate is not None else (),
            mac=certificate.mac.hex(":") if certificate is not None else None,
            verified=papers.record.fingerprint is not None,
            last_seen_s=_ago(self.last_seen, now),
            rx_bytes=counters.rx_bytes,
            tx_bytes=counters.tx_bytes,
            drops={drop.value: count for drop, count in counters.drops.items() if count},
            attempts=attempts_of(paths, now),
            nat=papers.offer.nat if papers.offer is not None else None,
            guesses=self._opener.spent,
            trust=trust_of(papers.record, papers.network, self._around.identity.signer.public_key),
        )

    def _why(self, state: PeerState, now: Instant) -> str:
        """Says what happened and what would have to change."""
        # Whatever else is said of a peer that is quarantined, maybe by a service that lies, must not hide the reason.
        trouble = "" if state in (PeerState.CONNECTED, PeerState.QUARANTINED) else self.trouble
        return trouble or self._explain(state, now)

    def _explain(self, state: PeerState, now: Instant) -> str:
        name = self._papers.name
        match state:
            case PeerState.DISABLED:
                return f"disabled here; `fabric enable {name}` takes it up again"
            case PeerState.PENDING:
                return self._explain_pending()
            case PeerState.INTRODUCED:
                return f"introduced; {name} has not told where it can be reached, it may be off"
            case PeerState.CONNECTING if self._paths.primary is not None:
                return "a path is open, the handshake is under way"
            case PeerState.CONNECTING | PeerState.CONNECTED:
                return explain(self._case(now))
            case PeerState.QUARANTINED:
                return explain_alarm(name, self._papers.entangled.alarm)

    def _explain_pending(self) -> str:
        if not self._around.here().is_service_up:
            return "there is no connection to the discovery service, and only it can introduce the two of you"
        return f"{self._papers.name} has not stated the intent to meet this endpoint, or is not known by that name"

    def _case(self, now: Instant) -> Case:
        """Returns what there is to explain of a way to the peer."""
        papers, paths, primary = self._papers, self._paths, self._paths.primary
        return Case(
            peer=papers.name,
            here=self._around.here(),
            theirs=papers.offer.nat if papers.offer is not None else UNKNOWN_NAT,
            path=primary.kind if primary is not None else None,
            remote=primary.address if primary is not None else None,
            attempts=attempts_of(paths, now),
            guesses=self._opener.spent,
            is_guessing=self._opener.is_guessing,
            relays_granted=len(papers.record.relays),
            relays_bound=sum(1 for path in paths.paths if path.is_relayed),
        )


def state_of(papers: Acquaintance, keying: Keying, paths: PathAgent) -> PeerState:
    if not papers.record.enabled:
        return PeerState.DISABLED
    if keying.is_quarantined:
        return PeerState.QUARANTINED
    if keying.live is not None and paths.primary is not None:
        return PeerState.CONNECTED
    if papers.certificate is None or papers.void:
        return PeerState.PENDING
    return PeerState.INTRODUCED if papers.offer is None else PeerState.CONNECTING


def attempts_of(paths: PathAgent, now: Instant) -> tuple[Attempt, ...]:
    """Returns what was tried, the best class first."""
    return tuple(_attempt(path, now) for path in sorted(paths.paths, key=lambda path: path.rank))


def _path_status(paths: PathAgent) -> PathStatus | None:
    primary = paths.primary
    if primary is None:
        return None
    return PathStatus(primary.kind, primary.address, primary.rtt_s, primary.payload_limit)


def _attempt(path: Path, now: Instant) -> Attempt:
    return Attempt(
        remote=path.address,
        candidate=path.candidate,
        kind=path.kind,
        outcome=_outcome(path),
        tries=path.total_tries,
        first_tried_s=_ago(path.first_tried, now),
        last_tried_s=_ago(path.last_tried, now),
        last_answer_s=_ago(path.last_answer, now),
        rtt_s=path.rtt_s,
        mtu=path.mtu.confirmed,
        why=path.why,
    )


def _outcome(path: Path) -> Outcome:
    if path.valid:
        return Outcome.ANSWERS
    if path.last_answer is not None:
        return Outcome.LOST
    if path.last_tried is None:
        return Outcome.WAITING
    if path.is_door and path.why:
        return Outcome.REFUSED if "refused" in path.why else Outcome.UNANSWERED
    return Outcome.UNANSWERED if path.tries >= len(PUNCH_INTERVALS_S) else Outcome.TRYING


def _ago(at: Instant | None, now: Instant) -> float | None:
    return None if at is None else now - at
