"""How our programs end: an exit code that scripts may rely on, and one sentence for a person."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from fabric.errors import FabricError
from fabric.shell.exit_code import CommandError, ExitCode, exit_code_of, sentence_of

if TYPE_CHECKING:
    import typer


def run_program(app: typer.Typer, name: str, arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code; a command may return one, or nothing for 0."""
    import typer  # here, because `fabricd` has no use for it, and starts sooner without

    def command() -> object:
        try:
            return app(arguments, prog_name=name, standalone_mode=False)
        except typer.Exit as ended:
            return ended.exit_code
        except typer.Abort:
            return ExitCode.NOT_SO
        except typer.TyperException as mistaken:
            raise mistaken_use(name, mistaken.format_message()) from None

    return run_command(command, name)


def run_command(command: Callable[[], object], name: str) -> int:
    """Runs one command and returns its exit code; see `run_program`."""
    try:
        returned = command()
    except KeyboardInterrupt:
        return ExitCode.NOT_SO
    except (FabricError, OSError) as error:
        complain(name, sentence_of(error))
        return exit_code_of(error)
    return returned if isinstance(returned, int) else ExitCode.DONE


def mistaken_use(name: str, why: str) -> CommandError:
    """Returns what a program says of a command line that it does not understand."""
    return CommandError(ExitCode.WRONG_USAGE, f"{_one_line(why)} (see {name} --help)")


def complain(name: str, sentence: str) -> None:
    """Tells a person on stderr what did not work."""
    print(f"{name}: {sentence}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
