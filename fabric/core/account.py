"""What there is to see of a peer: its state, why it is in it (one sentence for a person), and the figures."""

from __future__ import annotations

from fabric.core.acquaintance import Acquaintance
from fabric.core.explain import Case, Here, explain
from fabric.core.keying import Keying
from fabric.core.machine import Instant
from fabric.core.one_path import Path
from fabric.core.path import PUNCH_INTERVALS_S, PathAgent
from fabric.core.status import Attempt, Outcome, PathStatus, PeerState, PeerStatus
from fabric.dataplane.contract import PeerCounters
from fabric.wire.nat import UNKNOWN_NAT


def state_of(papers: Acquaintance, keying: Keying, paths: PathAgent) -> PeerState:
    if not papers.record.enabled:
        return PeerState.DISABLED
    if keying.live is not None and paths.primary is not None:
        return PeerState.CONNECTED
    if papers.certificate is None or papers.void:
        return PeerState.PENDING
    return PeerState.INTRODUCED if papers.offer is None else PeerState.CONNECTING


def describe(
    papers: Acquaintance,
    keying: Keying,
    paths: PathAgent,
    counters: PeerCounters,
    *,
    why: str,
    last_seen_s: float | None,
    guesses: int,
    now: Instant,
) -> PeerStatus:
    state, certificate, live = state_of(papers, keying, paths), papers.certificate, keying.live
    return PeerStatus(
        name=papers.name,
        state=state,
        why=why,
        path=_path_status(paths) if state is PeerState.CONNECTED else None,
        cipher=live.suite.label if live is not None else None,
        addresses=tuple(str(a) for a in certificate.addresses) if certificate is not None else (),
        mac=certificate.mac.hex(":") if certificate is not None else None,
        verified=papers.record.fingerprint is not None,
        last_seen_s=last_seen_s,
        rx_bytes=counters.rx_bytes,
        tx_bytes=counters.tx_bytes,
        drops={drop.value: count for drop, count in counters.drops.items() if count},
        attempts=attempts_of(paths, now),
        nat=papers.offer.nat if papers.offer is not None else None,
        guesses=guesses,
    )


def explain_state(
    state: PeerState,
    papers: Acquaintance,
    paths: PathAgent,
    here: Here,
    *,
    guesses: int,
    is_guessing: bool,
    now: Instant,
) -> str:
    """Says what happened and what would have to change."""
    name = papers.name
    match state:
        case PeerState.DISABLED:
            return f"disabled here; `fabric enable {name}` takes it up again"
        case PeerState.PENDING:
            return _why_pending(name, here)
        case PeerState.INTRODUCED:
            return f"introduced; {name} has not told where it can be reached, it may be off"
        case PeerState.CONNECTING if paths.primary is not None:
            return "a path is open, the handshake is under way"
        case PeerState.CONNECTING | PeerState.CONNECTED:
            return explain(case_of(papers, paths, here, guesses=guesses, is_guessing=is_guessing, now=now))
        case PeerState.QUARANTINED:
            return f"the state shared with {name} does not match: one of the two was copied or restored"


def case_of(
    papers: Acquaintance, paths: PathAgent, here: Here, *, guesses: int, is_guessing: bool, now: Instant
) -> Case:
    """Returns what there is to explain of a peer."""
    primary = paths.primary
    return Case(
        peer=papers.name,
        here=here,
        theirs=papers.offer.nat if papers.offer is not None else UNKNOWN_NAT,
        path=primary.kind if primary is not None else None,
        remote=primary.address if primary is not None else None,
        attempts=attempts_of(paths, now),
        guesses=guesses,
        is_guessing=is_guessing,
        relays_granted=len(papers.record.relays),
        relays_bound=sum(1 for path in paths.paths if path.is_relayed),
    )


def attempts_of(paths: PathAgent, now: Instant) -> tuple[Attempt, ...]:
    """Returns what was tried, the best class first."""
    return tuple(_attempt(path, now) for path in sorted(paths.paths, key=lambda path: path.rank))


def _why_pending(name: str, here: Here) -> str:
    if not here.is_service_up:
        return "there is no connection to the discovery service, and only it can introduce the two of you"
    return f"{name} has not stated the intent to meet this endpoint, or is not known by that name"


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
