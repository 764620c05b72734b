"""Options that several commands share, and the forms that people type."""

from __future__ import annotations

import re
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated

import typer

from discovery.shell.config import STATE_VARIABLE
from fabric.shell.exit_code import CommandError, ExitCode

StateOption = Annotated[
    Path, typer.Option(envvar=STATE_VARIABLE, help="Directory of the service's state.", show_default=True)
]
RelayStateOption = Annotated[
    Path, typer.Option(envvar=STATE_VARIABLE, help="Directory with relay.pem.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_duration(text: str) -> float:
    """Returns the seconds of e.g. "90", "30m", "24h", "7d". Raises `CommandError` (WRONG_USAGE)."""
    parsed = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", text)
    if parsed is None or int(parsed[1]) == 0:
        raise CommandError(ExitCode.WRONG_USAGE, f'"{text}" is no duration: write e.g. 30m, 24h or 7d')
    return float(int(parsed[1]) * _UNITS_S[parsed[2] or "s"])


def when(unix: float) -> str:
    """Returns a time as people read it, in the zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(unix))


def parse_overlay(text: str) -> IPv4Network:
    """Raises `CommandError` (WRONG_USAGE) for anything but an IPv4 range, e.g. "10.9.0.0/24"."""
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise CommandError(ExitCode.WRONG_USAGE, f'"{text}" is no IPv4 range: {error}') from None
