"""`fabric metrics`."""

from __future__ import annotations

import sys
from pathlib import Path

from fabric.cli.metrics_text import metrics_text, up_text
from fabric.cli.words import STATE, State, ask, connect, unexpected, verb
from fabric.shell.control_wire import AskStatus, AskTrust, Status, Trusts
from fabric.shell.exit_code import CommandError, ExitCode


@verb
def metrics(state: State = STATE) -> None:
    """Print what a monitoring system wants to know, in Prometheus' text format, for node_exporter to pick up."""
    try:
        text = _ask_for_all(state)
    except CommandError as error:
        if error.code is ExitCode.UNREACHABLE:
            _print(up_text(str(state.absolute()), is_up=False))
        raise
    _print(text)


def _ask_for_all(state: Path) -> str:
    with connect(state) as client:
        status, trust = ask(client, AskStatus()), ask(client, AskTrust())
    if not isinstance(status, Status):
        unexpected(status)
    if not isinstance(trust, Trusts):
        unexpected(trust)
    return metrics_text(str(state.absolute()), status.report, trust.peers)


def _print(text: str) -> None:
    """Writes UTF-8 whatever the locale, as the format demands."""
    sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()
