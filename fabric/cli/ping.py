"""`fabric ping PEER [-c N]`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fabric.cli.words import STATE, Json, Peer, State, connect, print_json, unexpected, verb
from fabric.shell.control_client import ControlClient
from fabric.shell.control_wire import AskPing, Failed, Pinged
from fabric.shell.exit_code import CommandError, ExitCode

INTERVAL_S = 1.0
ANSWER_S = 2.0

Count = Annotated[
    int, typer.Option("-c", "--count", metavar="N", min=1, help="How many times.", envvar="FABRIC_PING_COUNT")
]


@verb
def ping(peer: Peer, count: Count = 4, state: State = STATE, json: Json = False) -> None:
    """Measure the round trip to PEER inside the session, and show the path that it took."""
    answers: list[Pinged] = []
    why = ""
    with connect(state) as client:
        for sequence in range(1, count + 1):
            if sequence > 1:
                time.sleep(INTERVAL_S)
            match _ask(client, peer):
                case Pinged() as answer:
                    answers.append(answer)
                    if not json:
                        trip = f"{answer.rtt_ms:.2f} ms"
                        print(
                            f"{answer.peer}: {trip} over {answer.kind} {answer.remote}, {sequence} of {count}",
                            flush=True,
                        )
                case Failed(why=why):
                    if not json:
                        print(f"{why}, {sequence} of {count}", flush=True)
    if not answers:
        raise CommandError(ExitCode.NOT_SO, why)
    if json:
        print_json({"peer": answers[0].peer, "sent": count, "answered": len(answers), "answers": answers})


def _ask(client: ControlClient, peer: str) -> Pinged | Failed:
    """Returns the outcome of one exchange. Raises `CommandError` for what no repetition will change."""
    answer = client.ask(AskPing(peer, ANSWER_S), ANSWER_S + 5)
    if isinstance(answer, Failed) and answer.code != ExitCode.NOT_SO:
        raise CommandError(ExitCode(answer.code), answer.why)
    if not isinstance(answer, Pinged | Failed):
        unexpected(answer)
    return answer
