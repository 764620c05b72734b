"""The table of `fabric trust list` for a person."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from fabric.cli.status_view import KEYS_IN_WORDS, alarm_text
from fabric.shell.control_wire import TrustReport


def trust_view(peers: Sequence[TrustReport]) -> Table | str:
    """Returns a few lines for each peer."""
    if not peers:
        return "No peer was met yet."
    table = Table.grid(padding=(0, 2))
    for peer in peers:
        table.add_row(Text(peer.name, "bold"), KEYS_IN_WORDS[peer.key] + (", removed" if peer.removed else ""))
        if peer.fingerprint is not None:
            table.add_row("  fingerprint", peer.fingerprint)
        if peer.safety_number is not None:
            table.add_row("  safety number", peer.safety_number)
        table.add_row("  shared state", "yes" if peer.entangled else "none yet")
        if peer.alarm is not None:
            table.add_row("  alarm", Text(alarm_text(peer.alarm), "bold red"))
    return table
