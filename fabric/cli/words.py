"""What all verbs share: options, the way to the daemon, and how an outcome is said."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import msgspec
import typer

from fabric.errors import FabricError
from fabric.shell.config import DEFAULT_STATE, STATE_VARIABLE, control_path, load_config
from fabric.shell.control_client import ControlClient
from fabric.shell.control_wire import AnyAnswer, AnyQuestion, Failed
from fabric.shell.exit_code import CommandError, ExitCode, exit_code_of, sentence_of
from fabric.shell.program import complain

State = Annotated[Path, typer.Option(envvar=STATE_VARIABLE, help="The state directory of the daemon.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
OnlyPeer = Annotated[str | None, typer.Argument(metavar="[PEER]", help="Only this peer, with everything about it.")]
Peer = Annotated[str, typer.Argument(metavar="PEER", help="A peer: web-1 or web-1.NETWORK.")]
STATE = DEFAULT_STATE

P = ParamSpec("P")


def verb(act: Callable[P, int | None]) -> Callable[P, int]:
    """Makes a verb of a function: what it raises becomes an exit code and one sentence, or with --json an object."""

    @functools.wraps(act)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return act(*args, **kwargs) or ExitCode.DONE
        except (FabricError, OSError) as error:
            code, sentence = exit_code_of(error), sentence_of(error)
            if kwargs.get("json"):
                print_json({"error": {"code": int(code), "why": sentence}})
            complain("fabric", sentence)
            return code

    return told


def connect(state: Path) -> ControlClient:
    """Raises `NoDaemonError`, `CommandError`, `ConfigurationError`."""
    return ControlClient(control_path(state, load_config(state, os.environ)))


def ask(client: ControlClient, question: AnyQuestion, within_s: float = 10.0) -> AnyAnswer:
    """Returns an answer that is no failure. Raises `CommandError`."""
    answer = client.ask(question, within_s)
    if isinstance(answer, Failed):
        raise CommandError(ExitCode(answer.code), answer.why)
    return answer


def print_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def unexpected(answer: AnyAnswer) -> NoReturn:
    raise CommandError(ExitCode.NOT_SO, f"the daemon answered {type(answer).__name__}: is it of another version?")
