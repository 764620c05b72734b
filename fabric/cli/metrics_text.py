"""What `fabric metrics` prints: the daemon's reports in Prometheus' text format, version 0.0.4.

A family of samples is its HELP, its TYPE, and a line for each sample; the last line ends like the others:

    # HELP fabric_peer_receive_bytes_total Bytes of frames that came from the peer.
    # TYPE fabric_peer_receive_bytes_total counter
    fabric_peer_receive_bytes_total{endpoint="ada.home",peer="zoe.home"} 1234

Source: "Exposition formats" and "Metric and label naming" of the Prometheus documentation. Names and labels are a
contract with whoever has made alerts of them: one may be added, none changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fabric.shell.control_wire import (
    AlarmReport,
    EncounterReport,
    EndpointReport,
    PeerReport,
    StatusReport,
    TrustReport,
)

STATES = ("pending", "introduced", "connecting", "connected", "disabled", "quarantined")
"""Those that always have a sample, so that an alert has something to be 0. A state of a newer daemon comes behind."""

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Family:
    """`samples` are labels and value; no two have the same labels. The name of a counter ends in `_total`."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    samples: Sequence[Sample]


def metrics_text(directory: str, report: StatusReport, trust: Sequence[TrustReport]) -> str:
    """Returns everything about a daemon that answers. `directory` is its state directory."""
    families = (*_of_endpoint(report.endpoint), *_of_peers(report.peers), *_of_trust(trust))
    # Several daemons may share a host, and a collector that meets the same labels twice refuses both.
    here = {"endpoint": report.endpoint.name}
    return up_text(directory, is_up=True) + "".join(family_text(family, here) for family in families)


def up_text(directory: str, *, is_up: bool) -> str:
    """Returns the one family that there is without a daemon too; then nobody tells the name of the endpoint."""
    return family_text(_gauge("fabric_up", "Whether the daemon answers.", ({"directory": directory}, is_up)), {})


def family_text(family: Family, common: Labels) -> str:
    """Returns the lines of a family, each sample with the `common` labels as well; nothing where there is no sample."""
    if not family.samples:
        return ""
    head = f"# HELP {family.name} {_escape(family.help)}\n# TYPE {family.name} {family.kind}\n"
    return head + "".join(
        f"{family.name}{_braced({**common, **labels})} {_number(v)}\n" for labels, v in family.samples
    )


def _of_endpoint(endpoint: EndpointReport) -> Iterator[Family]:
    build = {"version": endpoint.version, "lane": endpoint.lane, "cipher_provider": endpoint.cipher_provider}
    yield _gauge("fabric_build_info", "The program: version, lane, and whose ciphers.", (build, 1))
    what = {"network": endpoint.network, "device": endpoint.device, "custody": endpoint.custody}
    yield _gauge("fabric_endpoint_info", "The endpoint: network, device, and who holds its identity key.", (what, 1))
    yield _gauge("fabric_uptime_seconds", "Time since the daemon started.", ({}, endpoint.uptime_s))
    yield _gauge(
        "fabric_certificate_expiry_timestamp_seconds",
        "When the own certificate ends, in unix time.",
        ({}, _unix(endpoint.certificate.expires)),
    )
    is_connected = endpoint.discovery == "connected"
    yield _gauge("fabric_service_connected", "Whether the discovery service is connected.", ({}, is_connected))
    yield _counter(
        "fabric_drops_total",
        "Frames, datagrams and messages that went no further and belong to no peer, by reason.",
        *(({"reason": reason}, count) for reason, count in endpoint.drops.items()),
    )


def _of_peers(peers: Sequence[PeerReport]) -> Iterator[Family]:
    numbers = Counter(peer.state for peer in peers)
    states = (*STATES, *sorted(numbers.keys() - set(STATES)))
    yield _gauge("fabric_peers", "Peers in this state.", *(({"state": state}, numbers[state]) for state in states))
    yield _gauge(
        "fabric_peer_connected",
        "Whether the peer is connected.",
        *(({"peer": peer.name}, peer.state == "connected") for peer in peers),
    )
    yield _gauge(
        "fabric_peer_state",
        "1 for the state that the peer is in, 0 for the others.",
        *(({"peer": peer.name, "state": state}, peer.state == state) for peer in peers for state in states),
    )
    paths = [(peer, peer.path) for peer in peers if peer.path is not None]
    yield _gauge(
        "fabric_peer_path_info",
        "The kind of path to the peer that is in use.",
        *(({"peer": peer.name, "kind": path.kind}, 1) for peer, path in paths),
    )
    yield _gauge(
        "fabric_peer_rtt_seconds",
        "Round trip over the path to the peer that is in use.",
        *(({"peer": peer.name}, round(path.rtt_ms / 1000, 6)) for peer, path in paths if path.rtt_ms is not None),
    )
    yield _counter(
        "fabric_peer_receive_bytes_total",
        "Bytes of frames that came from the peer.",
        *(({"peer": peer.name}, peer.rx_bytes) for peer in peers),
    )
    yield _counter(
        "fabric_peer_transmit_bytes_total",
        "Bytes of frames that went to the peer.",
        *(({"peer": peer.name}, peer.tx_bytes) for peer in peers),
    )
    yield _counter(
        "fabric_peer_drops_total",
        "Frames and datagrams to or from the peer that went no further, by reason.",
        *(({"peer": peer.name, "reason": reason}, n) for peer in peers for reason, n in peer.drops.items()),
    )


def _of_trust(trust: Sequence[TrustReport]) -> Iterator[Family]:
    yield _gauge(
        "fabric_alarm",
        "Whether the state shared with the peer, or with one that was removed, has ceased to fit: one was copied.",
        *(({"peer": each.name}, each.alarm is not None) for each in trust),
    )
    yield _gauge(
        "fabric_alarm_timestamp_seconds",
        "Both handshakes of an alarm, the mismatch and the last match, in unix time: one was with the copy.",
        *(sample for each in trust if each.alarm is not None for sample in _of_alarm(each.name, each.alarm)),
    )


def _of_alarm(peer: str, alarm: AlarmReport) -> Iterator[Sample]:
    def sample(handshake: str, encounter: EncounterReport) -> Sample:
        labels = {"peer": peer, "handshake": handshake, "remote": encounter.remote, "seen": alarm.seen}
        return labels, _unix(encounter.time)

    yield sample("mismatch", alarm.at)
    if alarm.before is not None:
        yield sample("last_match", alarm.before)


def _gauge(name: str, explanation: str, *samples: Sample) -> Family:
    return Family(name, "gauge", explanation, samples)


def _counter(name: str, explanation: str, *samples: Sample) -> Family:
    return Family(name, "counter", explanation, samples)


def _braced(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escape(value, quote=True)}"' for name, value in labels.items()) + "}"


def _escape(text: str, *, quote: bool = False) -> str:
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quote else escaped


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, int) else repr(value)


def _unix(rfc3339: str) -> int:
    return int(datetime.fromisoformat(rfc3339).timestamp())
