"""How our programs end: an exit code that scripts may rely on, and one sentence for a person."""

from __future__ import annotations

import sys

import typer

from fabric.errors import FabricError
from fabric.shell.exit_code import ExitCode, exit_code_of, sentence_of


def run_program(app: typer.Typer, name: str, arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code; a command may return one, or nothing for 0."""
    try:
        returned = app(arguments, prog_name=name, standalone_mode=False)
    except typer.Exit as ended:
        return ended.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return ExitCode.NOT_SO
    except typer.TyperException as mistaken:
        complain(name, f"{_one_line(mistaken.format_message())} (see {name} --help)")
        return ExitCode.WRONG_USAGE
    except (FabricError, OSError) as error:
        complain(name, sentence_of(error))
        return exit_code_of(error)
    return returned if isinstance(returned, int) else ExitCode.DONE


def complain(name: str, sentence: str) -> None:
    """Tells a person on stderr what did not work."""
    print(f"{name}: {sentence}", file=sys.stderr)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
