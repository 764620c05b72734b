"""The tables of `fabric status` for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fabric.shell.control_wire import AlarmReport, EndpointReport, PathReport, PeerReport

STATE_STYLES = {
    "connected": "bold green",
    "connecting": "yellow",
    "introduced": "yellow",
    "pending": "yellow",
    "disabled": "dim",
    "quarantined": "bold red",
}
PATHS_IN_WORDS = {
    "lan": "same LAN",
    "direct-udp": "direct",
    "direct-tcp": "direct, TCP",
    "relay-udp": "relayed",
    "relay-tls": "relayed, TLS",
}
CUSTODY_IN_WORDS = {
    "pkcs11": "inside the PKCS#11 token, which never lets it out",
    "tpm2": "sealed to this machine's TPM: of no use elsewhere",
    "systemd-credential": "sealed with the systemd credential",
    "passphrase-file": "sealed with the passphrase file",
    "key-file": "sealed with a generated key file beside it, as safe as the file's permissions",
}
KEYS_IN_WORDS = {
    "verified": "verified by fingerprint",
    "first-use": "first use: trusted as it was first seen",
    "unmet": "not met yet",
}
_SCALE = ("B", "kB", "MB", "GB", "TB", "PB")


def endpoint_view(endpoint: EndpointReport) -> Table:
    """Returns who this is, in a few lines."""
    table = Table.grid(padding=(0, 2))
    table.add_row("endpoint", Text(endpoint.name, "bold"))
    table.add_row("addresses", f"{', '.join(endpoint.addresses)} on {endpoint.device} ({endpoint.mac})")
    table.add_row("discovery", _discovery(endpoint))
    table.add_row("certificate", f"ends {endpoint.certificate.expires}, {_duration(endpoint.certificate.expires_in_s)}")
    table.add_row("fingerprint", endpoint.fingerprint)
    table.add_row("identity key", CUSTODY_IN_WORDS.get(endpoint.custody, endpoint.custody))
    table.add_row("cipher", f"{endpoint.cipher} preferred, {endpoint.lane} lane, ciphers of {endpoint.cipher_provider}")
    return table


def peers_view(peers: Sequence[PeerReport]) -> Table:
    """Returns a row for each peer, narrow enough for 80 columns; its reason stands below, in `reasons_view`."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in ("peer", "state", "path", "round trip", "traffic"):
        table.add_column(heading, no_wrap=True)
    for peer in peers:
        table.add_row(
            "\n".join((peer.name, *peer.addresses[:1])),
            _state(peer),
            PATHS_IN_WORDS.get(peer.path.kind, peer.path.kind) if peer.path else "",
            _trip(peer.path),
            f"{_bytes(peer.rx_bytes)} in\n{_bytes(peer.tx_bytes)} out",
        )
    return table


def reasons_view(peers: Sequence[PeerReport]) -> Table:
    """Returns why each peer stands as it does: a sentence that may be as long as a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for peer in peers:
        table.add_row(Text(peer.name, "bold"), peer.why)
    return table


def peer_view(peer: PeerReport) -> Table:
    """Returns everything about one peer."""
    table = Table.grid(padding=(0, 2))
    table.add_row("peer", Text(peer.name, "bold"))
    table.add_row("state", _state(peer))
    table.add_row("why", peer.why)
    for row in _trust_rows(peer):
        table.add_row(*row)
    if peer.path is not None:
        table.add_row("path", f"{PATHS_IN_WORDS.get(peer.path.kind, peer.path.kind)}, {peer.path.remote}")
        table.add_row("round trip", _trip(peer.path))
    if peer.cipher:
        table.add_row("cipher", peer.cipher)
    if peer.addresses:
        table.add_row("addresses", f"{', '.join(peer.addresses)} ({peer.mac})")
    if peer.last_seen_s is not None:
        table.add_row("last seen", f"{peer.last_seen_s:.1f} s ago")
    table.add_row("traffic", f"{_bytes(peer.rx_bytes)} received, {_bytes(peer.tx_bytes)} sent")
    if peer.drops:
        table.add_row("dropped", ", ".join(f"{reason} {count}" for reason, count in peer.drops.items()))
    return table


def _trust_rows(peer: PeerReport) -> list[tuple[str, str | Text]]:
    trust = peer.trust
    if trust is None:
        return []
    rows: list[tuple[str, str | Text]] = [("key", KEYS_IN_WORDS[trust.key])]
    if trust.safety_number is not None:
        rows.append(("safety number", f"{trust.safety_number}: the same at {peer.name}, or somebody is in between"))
    if trust.alarm is not None:
        rows.append(("alarm", Text(alarm_text(trust.alarm), "bold red")))
    return rows


def alarm_text(alarm: AlarmReport) -> str:
    """Returns the two handshakes of which one was with a copy."""
    before = f"; the last one that fitted: {alarm.before.time}, {alarm.before.remote}" if alarm.before else ""
    seen = "" if alarm.seen == "here" else ", as the peer says"
    return f"a handshake did not fit: {alarm.at.time}, {alarm.at.remote}{seen}{before}"


def _discovery(endpoint: EndpointReport) -> Text:
    if endpoint.discovery == "connected":
        return Text("connected", "green")
    why = f": {endpoint.discovery_why}" if endpoint.discovery_why else ""
    return Text(f"unreachable{why}; peers that were met before connect without it", "yellow")


def _state(peer: PeerReport) -> Text:
    return Text(peer.state, STATE_STYLES.get(peer.state, ""))


def _trip(path: PathReport | None) -> str:
    return "" if path is None or path.rtt_ms is None else f"{path.rtt_ms:.1f} ms"


def _bytes(count: int) -> str:
    """Returns at most four digits and a unit."""
    value, power = float(count), 0
    while value >= 1000 and power < len(_SCALE) - 1:
        value, power = value / 1000, power + 1
    return f"{count} B" if power == 0 else f"{value:.1f} {_SCALE[power]}"


def _duration(seconds: float) -> str:
    if seconds <= 0:
        return "it is over: enrol again"
    days, hours = int(seconds // 86_400), int(seconds // 3600)
    return f"in {days} days" if days >= 2 else f"in {hours} hours" if hours >= 2 else f"in {int(seconds // 60)} minutes"
