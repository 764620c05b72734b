"""Why a peer is in the state that it is in: one sentence for a person."""

from __future__ import annotations

from fabric.core.path import BEST_RANK, PathAgent
from fabric.core.status import PeerState


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
        return "the discovery service is unreachable, and only it can introduce the two of you"
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
