"""The `fabric` command: steers the daemon of this host."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fabric import __version__
from fabric.cli.add import add
from fabric.cli.custody import custody
from fabric.cli.disable import disable
from fabric.cli.doctor import doctor
from fabric.cli.enable import enable
from fabric.cli.enrol import enrol
from fabric.cli.metrics import metrics
from fabric.cli.ping import ping
from fabric.cli.remove import remove
from fabric.cli.rotate import rotate
from fabric.cli.status import status
from fabric.cli.trust import trust
from fabric.cli.wait import wait
from fabric.shell.exit_code import ExitCode
from fabric.shell.program import run_program

app = typer.Typer(
    help="A virtual LAN between hosts that both want it; nobody in the middle can read it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for each in (enrol, add, remove, enable, disable, status, wait, ping, doctor, rotate, metrics):
    app.command()(each)
app.add_typer(trust, name="trust")
app.add_typer(custody, name="custody")


@app.command()
def demo(keep: Annotated[bool, typer.Option("--keep", help="Leave it standing, to play on.")] = False) -> int:
    """Show the whole thing on this machine: an internet of namespaces, three hosts behind NATs, one LAN."""
    from fabric.cli.demo import demo as show

    return show(keep)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fabric {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(ExitCode.WRONG_USAGE)


def main() -> None:
    sys.exit(run_program(app, "fabric"))
