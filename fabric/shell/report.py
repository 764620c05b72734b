"""What `fabric status` tells, put together from node, lane and configuration."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime

from fabric.core.entanglement import Alarm, Encounter
from fabric.core.status import Attempt, PathStatus, PeerStatus, TrustStatus
from fabric.identity.certificate import Certificate
from fabric.shell.control_wire import (
    AlarmReport,
    AttemptReport,
    CertificateReport,
    EncounterReport,
    NatReport,
    PathReport,
    PeerReport,
    TrustReport,
)
from fabric.wire.nat import NatBehaviour


def report_peer(peer: PeerStatus) -> PeerReport:
    return PeerReport(
        name=peer.name,
        state=peer.state.value,
        why=peer.why,
        path=report_path(peer.path),
        cipher=peer.cipher,
        addresses=peer.addresses,
        mac=peer.mac,
        verified=peer.verified,
        last_seen_s=None if peer.last_seen_s is None else round(peer.last_seen_s, 3),
        rx_bytes=peer.rx_bytes,
        tx_bytes=peer.tx_bytes,
        drops=counted(peer.drops),
        trust=report_trust(peer.trust) if peer.trust is not None else None,
    )


def report_trust(trust: TrustStatus) -> TrustReport:
    return TrustReport(
        name=trust.name,
        key="verified" if trust.is_verified else "first-use" if trust.safety_number is not None else "unmet",
        fingerprint=trust.fingerprint,
        safety_number=trust.safety_number,
        entangled=trust.is_entangled,
        removed=trust.is_past,
        alarm=_report_alarm(trust.alarm) if trust.alarm is not None else None,
    )


def _report_alarm(alarm: Alarm) -> AlarmReport:
    return AlarmReport(
        at=_report_encounter(alarm.at),
        seen="here" if alarm.here else "there",
        before=_report_encounter(alarm.before) if alarm.before is not None else None,
        is_known_there=alarm.is_known,
    )


def _report_encounter(encounter: Encounter) -> EncounterReport:
    return EncounterReport(rfc3339(encounter.unix), encounter.remote)


def report_path(path: PathStatus | None) -> PathReport | None:
    if path is None:
        return None
    return PathReport(
        kind=path.kind.value,
        remote=str(path.remote),
        rtt_ms=None if path.rtt_s is None else milliseconds(path.rtt_s),
        mtu=path.mtu,
    )


def report_attempt(attempt: Attempt) -> AttemptReport:
    return AttemptReport(
        remote=str(attempt.remote),
        transport=enum_words(attempt.remote.transport),
        candidate=enum_words(attempt.candidate),
        kind=attempt.kind.value,
        outcome=attempt.outcome.value,
        tries=attempt.tries,
        first_tried_s=_rounded(attempt.first_tried_s),
        last_tried_s=_rounded(attempt.last_tried_s),
        last_answer_s=_rounded(attempt.last_answer_s),
        rtt_ms=None if attempt.rtt_s is None else milliseconds(attempt.rtt_s),
        mtu=attempt.mtu,
        why=attempt.why,
    )


def report_nat(nat: NatBehaviour) -> NatReport:
    return NatReport(enum_words(nat.mapping), enum_words(nat.filtering), nat.stride, nat.carries_udp)


def report_certificate(certificate: Certificate, unix: float) -> CertificateReport:
    return CertificateReport(rfc3339(certificate.not_after), round(certificate.not_after - unix, 1))


def rfc3339(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def counted(drops: Mapping[str, int]) -> dict[str, int]:
    """Returns the reasons that occurred at all."""
    return {reason: count for reason, count in sorted(drops.items()) if count}


def enum_words(member: enum.Enum) -> str:
    """Returns the name of a member as it stands in JSON: `PEER_REFLEXIVE` is "peer-reflexive"."""
    return member.name.lower().replace("_", "-")


def milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def mac_text(mac: bytes) -> str:
    return mac.hex(":")
