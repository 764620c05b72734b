"""When a path to a peer is asked next: while it is punched, looked for, kept open for later, and doubted.

punching --> patience, while there is no path at all --> search, ever more rarely
in use --> a question after each silence --> PATIENCE unanswered: lost
"""

from __future__ import annotations

from fabric.core.machine import NEVER
from fabric.core.one_path import Path
from fabric.core.reach import BEST_RANK

PUNCH_INTERVALS_S = (0.05, 0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.5, 0.5, 0.5, 1, 1, 1, 2, 2, 3, 5)
"""Both sides start within one round trip of each other; a NAT opens on the second crossing probe."""

AGAIN_TRY = 6
AGAIN_DOOR_TRY = 3
"""For another look, half of the rhythm is enough: nothing has changed that is known of."""

PATIENT_INTERVAL_S = 15.0
"""While there is no path: often enough that a hole towards the peer's last address stays open (30 s mappings)."""

PATIENT_TRIES = 60
SEARCH_INTERVALS_S = (60.0, 120.0, 300.0)
"""While there is one (or after a quarter of an hour without): looked for without hurry, and ever less."""

DOOR_INTERVALS_S = (8.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
"""A connection is tried for some seconds each time; in the end as rarely as everything else."""

DOOR_DELAY_S = 2.0
"""UDP is the better path and has had its chance by then; traffic flows over the relay meanwhile."""

SPARE_INTERVAL_S = 25.0
"""A valid path that is not primary is kept open, for when the primary dies: the best of them inside the shortest UDP
mappings seen (30 s), all of them together no more often."""

RELAY_SPARE_INTERVAL_S = 60.0
"""The way to a relay is kept open for all peers together."""

RETRY_S = 0.5
MAX_RETRY_S = 1.5
"""Between questions on a slow line. One of five seconds is still answered before it counts as dead; and a host that
slept, which made its line look as slow, is not waited for any longer than that."""
HUSH_S = 3.0
"""A conversation has stopped: it is over, or the path is dead."""

BUSY_SILENCE_S = 0.5
"""Data was sent and nothing came back for this long: ask."""

PATIENCE = 4
"""Unanswered probes until a path counts as dead: 2.5 s under traffic, 9 s idle."""


def search_pause_s(path: Path, primary: Path | None) -> float:
    """Of one that has not answered; `NEVER` where it would be no better than the primary."""
    if primary is not None and not path.is_relayed and (primary.rank == BEST_RANK or path.rank > primary.rank):
        return NEVER
    if path.tries < len(PUNCH_INTERVALS_S):
        return PUNCH_INTERVALS_S[path.tries]
    if primary is None and path.tries < PATIENT_TRIES:
        return PATIENT_INTERVAL_S
    rested = path.tries - len(PUNCH_INTERVALS_S)
    return SEARCH_INTERVALS_S[0 if primary is None else min(rested, len(SEARCH_INTERVALS_S) - 1)]


def door_pause_s(door: Path) -> float:
    return DOOR_INTERVALS_S[min(door.tries, len(DOOR_INTERVALS_S) - 1)]


def spare_pause_s(path: Path, spares: int, hole_interval_s: float) -> float:
    """Of one of so many that answer and are not in use."""
    interval_s = RELAY_SPARE_INTERVAL_S if path.is_relayed else max(SPARE_INTERVAL_S, hole_interval_s)
    return max(1, spares) * interval_s


def question_pause_s(path: Path) -> float:
    """Between the questions to one that has answered and now doesn't."""
    return min(max(RETRY_S, 1.25 * (path.rtt_s or 0.0)), MAX_RETRY_S)
