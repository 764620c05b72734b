"""What there is to see of a peer: its state, why it is in it (one sentence for a person), and the figures."""

from __future__ import annotations

from fabric.core.acquaintance import Acquaintance
from fabric.core.keying import Keying
from fabric.core.path import BEST_RANK, PathAgent, payload_limit
from fabric.core.status import PathStatus, PeerState, PeerStatus
from fabric.dataplane.contract import PeerCounters


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
    path_mtu: int,
) -> PeerStatus:
    state, certificate, live = state_of(papers, keying, paths), papers.certificate, keying.live
    return PeerStatus(
        name=papers.name,
        state=state,
        why=why,
        path=_path_status(paths, path_mtu) if state is PeerState.CONNECTED else None,
        cipher=live.suite.label if live is not None else None,
        addresses=tuple(str(a) for a in certificate.addresses) if certificate is not None else (),
        mac=certificate.mac.hex(":") if certificate is not None else None,
        verified=papers.record.fingerprint is not None,
        last_seen_s=last_seen_s,
        rx_bytes=counters.rx_bytes,
        tx_bytes=counters.tx_bytes,
        drops={drop.value: count for drop, count in counters.drops.items() if count},
    )


def explain(state: PeerState, name: str, paths: PathAgent, *, is_service_up: bool) -> str:
    """Says what happened and what would have to change."""
    match state:
        case PeerState.DISABLED:
            return f"disabled here; `fabric enable {name}` takes it up again"
        case PeerState.PENDING:
            return _why_pending(name, is_service_up)
        case PeerState.INTRODUCED:
            return f"introduced; {name} has not told where it can be reached, it may be off"
        case PeerState.CONNECTING:
            return _why_connecting(name, paths)
        case PeerState.CONNECTED:
            return _why_this_path(paths)
        case PeerState.QUARANTINED:
            return f"the state shared with {name} does not match: one of the two was copied or restored"


def _why_pending(name: str, is_service_up: bool) -> str:
    if not is_service_up:
        return "there is no connection to the discovery service, and only it can introduce the two of you"
    return f"{name} has not stated the intent to meet this endpoint, or is not known by that name"


def _why_connecting(name: str, paths: PathAgent) -> str:
    if paths.primary is None:
        return f"no answer yet on any of the {len(paths.paths)} addresses of {name}"
    return "a path is open, the handshake is under way"


def _why_this_path(paths: PathAgent) -> str:
    primary = paths.primary
    if primary is None:
        return "the path was lost just now"
    return "on the same local network" if primary.rank == BEST_RANK else "directly over UDP"


def _path_status(paths: PathAgent, path_mtu: int) -> PathStatus | None:
    primary = paths.primary
    if primary is None:
        return None
    return PathStatus(primary.kind, primary.address, primary.rtt_s, payload_limit(primary.address, path_mtu))
