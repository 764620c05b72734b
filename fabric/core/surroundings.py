"""What every peer of one node shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fabric.core.explain import Here
from fabric.core.identity import Identity
from fabric.core.machine import Calendar, Draw
from fabric.core.settings import Settings
from fabric.dataplane.contract import Lane
from fabric.identity.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The functions see all peers of the node: indices that none of them uses, whether an IP is one of the overlay's,
    `check_address`, which raises `CertificateError` where an address belongs to somebody else, and whether there is
    another peer to take an offer to the one of this name.
    """

    identity: Identity
    lane: Lane
    calendar: Calendar
    draw: Draw
    settings: Settings
    allocate_index: Callable[[], int]
    allocate_gate_index: Callable[[], int]
    is_overlay: Callable[[str], bool]
    check_address: Callable[[Certificate], None]
    can_pass_on: Callable[[str], bool]
    here: Callable[[], Here]
    hole_interval_s: Callable[[], float]
    """How often a datagram keeps a hole in the own NAT open, by what is known of its mappings' lifetime."""
