"""What there is to tell a person of a peer's key, of the root shared with it, and of an alarm."""

from __future__ import annotations

from datetime import UTC, datetime

from fabric.core.entanglement import Alarm, Encounter
from fabric.core.records import PeerRecord
from fabric.core.status import TrustStatus
from fabric.errors import CertificateError
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.fingerprint import fingerprint_of, safety_number


def trust_of(record: PeerRecord, network: str, own_key: bytes) -> TrustStatus:
    """Returns what is known of who the peer is, and of the state that the two share."""
    key = record.pinned_key
    return TrustStatus(
        name=record.name,
        fingerprint=fingerprint_of(key) if key is not None else record.fingerprint,
        safety_number=safety_number(network, own_key, key) if key is not None else None,
        is_verified=record.fingerprint is not None,
        is_entangled=bool(record.entangled.roots),
        alarm=record.entangled.alarm,
        is_past=not record.is_wanted,
    )


def explain_alarm(name: str, alarm: Alarm | None) -> str:
    """Says what was seen, what it means, and which command fits, in one sentence each."""
    if alarm is None:
        return f"{name} refuses this endpoint: it shares a state with it that is not known here"
    who = "a handshake" if alarm.here else f"{name} says that a handshake"
    before = f"; the last one that fitted was {_when(alarm.before)}" if alarm.before is not None else ""
    return (
        f"{who} of {_when(alarm.at)} does not continue the state that the two share{before}. "
        f"One of the two was copied, or restored from a backup. If you know why, run `fabric trust reset {name}` here "
        f"and `fabric trust reset` for this endpoint there; if a key may be in other hands, revoke that endpoint, "
        f"enrol it anew, and reset with `--new-key`"
    )


def explain_fault(name: str, error: CertificateError) -> str:
    """Says why a certificate was refused; where it has another key, also what to do once that is known to be right."""
    if isinstance(error, CertificateFaultError) and error.reason is Fault.WRONG_KEY:
        return (
            f"{error}; if whoever runs {name} says that it was enrolled anew, compare fingerprints, then run "
            f"`fabric trust reset {name} --new-key`"
        )
    return str(error)


def alarm_fields(alarm: Alarm) -> dict[str, str]:
    """Returns both handshakes for a log line: the one that did not fit, and the last that did."""
    before = {"fitted_at": _time(alarm.before), "fitted_from": alarm.before.remote} if alarm.before is not None else {}
    return {"at": _time(alarm.at), "remote": alarm.at.remote, "seen": "here" if alarm.here else "there", **before}


def explain_rebuff(name: str, *, is_entangled: bool) -> str:
    """For an end that is not alarmed: it holds no root, or lets collisions pass where the other end does not."""
    if is_entangled:
        return (
            f"{name} refuses this endpoint: the two do not hold the same state; run `fabric trust reset {name}` here, "
            f"and `fabric trust reset` for this endpoint there"
        )
    return (
        f"{name} refuses this endpoint: it shares a state with it that is not known here, as after a reset on one side "
        f"only; run `fabric trust reset` for this endpoint there"
    )


def _when(encounter: Encounter) -> str:
    return f"{_time(encounter)} with {encounter.remote}"


def _time(encounter: Encounter) -> str:
    return datetime.fromtimestamp(encounter.unix, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
