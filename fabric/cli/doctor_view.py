"""The tables of `fabric doctor` for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fabric.cli.status_view import PATHS_IN_WORDS, STATE_STYLES
from fabric.shell.control_wire import AttemptReport, CheckReport, HereReport, NatReport, PeerExamination

VERDICT_STYLES = {"ok": "green", "limited": "yellow", "failed": "bold red", "unknown": "dim"}
NAMES_IN_WORDS = {
    "udp": "UDP out",
    "tcp": "TCP out",
    "ipv6": "IPv6 out",
    "nat": "NAT",
    "hairpin": "hairpin",
    "port-mapping": "port mapping",
    "proxy": "proxy",
    "mtu": "packet length",
    "dns": "names",
    "clock": "clock",
    "discovery": "discovery",
    "relay": "relays",
}
OUTCOME_STYLES = {"answers": "green", "trying": "yellow", "lost": "red", "refused": "red"}


def checks_view(checks: Sequence[CheckReport]) -> Table:
    """Returns a line for each check: what, how it stands, and a sentence."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        name = NAMES_IN_WORDS.get(check.name, check.name)
        table.add_row(name, Text(check.verdict, VERDICT_STYLES[check.verdict]), check.text)
    return table


def examination_view(examination: PeerExamination) -> Table:
    """Returns how a peer stands, why, what to do, and what each side is behind."""
    peer, here = examination.peer, examination.here
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("peer", Text(peer.name, "bold"))
    table.add_row("state", Text(peer.state, STATE_STYLES.get(peer.state, "")))
    table.add_row("why", examination.why)
    for number, fix in enumerate(examination.fixes):
        table.add_row("" if number else "to do", f"or {fix}" if number else fix)
    if peer.path is not None:
        table.add_row("path", f"{PATHS_IN_WORDS.get(peer.path.kind, peer.path.kind)}, {peer.path.remote}")
    table.add_row("NAT here", _nat(here.nat))
    table.add_row("NAT there", _nat(examination.their_nat) if examination.their_nat else "not told yet")
    table.add_row("told of here", _candidates(here) or "nothing yet")
    table.add_row("relays", _relays(here) or "none named yet")
    if examination.guesses:
        table.add_row("ports guessed", str(examination.guesses))
    return table


def attempts_view(attempts: Sequence[AttemptReport]) -> Table:
    """Returns a row for each address of the peer."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("address", overflow="fold", min_width=21)
    for heading in ("path", "outcome"):
        table.add_column(heading)
    for heading in ("tries", "ago", "round trip", "mtu"):
        table.add_column(heading, justify="right", no_wrap=True)
    for attempt in attempts:
        outcome = Text(attempt.outcome, OUTCOME_STYLES.get(attempt.outcome, ""))
        table.add_row(
            f"{attempt.remote}\n{attempt.candidate}",
            PATHS_IN_WORDS.get(attempt.kind, attempt.kind),
            outcome + (f"\n{attempt.why}" if attempt.why else ""),
            str(attempt.tries),
            _ago(attempt.last_tried_s),
            "" if attempt.rtt_ms is None else f"{attempt.rtt_ms:.1f} ms",
            "" if attempt.mtu is None else str(attempt.mtu),
        )
    return table


def _nat(nat: NatReport) -> str:
    if not nat.carries_udp:
        return "no UDP gets out"
    if nat.mapping == "none":
        return f"none, filtering {nat.filtering}"
    stride = f", ports {nat.stride} apart" if nat.stride else ""
    return f"mapping {nat.mapping}, filtering {nat.filtering}{stride}"


def _candidates(here: HereReport) -> str:
    return "\n".join(f"{c.address} {c.transport} {c.kind}" for c in here.candidates)


def _relays(here: HereReport) -> str:
    return "\n".join(
        f"{relay.address} {'TLS' if relay.transport == 'relay-tls' else 'UDP'}, "
        + (f"{relay.channels} bound" if relay.channels else relay.why or "not bound")
        + (f", {relay.rtt_ms:.1f} ms" if relay.rtt_ms is not None else "")
        for relay in here.relays
    )


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
