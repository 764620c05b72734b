"""What every peer of one node shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fabric.core.identity import Identity
from fabric.core.machine import Calendar, Draw
from fabric.core.settings import Settings
from fabric.dataplane.contract import Lane
from fabric.identity.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`check_address` (raises `CertificateError`) and `allocate_index` see all peers of the node."""

    identity: Identity
    lane: Lane
    calendar: Calendar
    draw: Draw
    settings: Settings
    allocate_index: Callable[[], int]
    check_address: Callable[[Certificate], None]
