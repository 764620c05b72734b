"""`fabric doctor [PEER] [--json]`."""

from __future__ import annotations

from fabric.cli.words import STATE, Json, OnlyPeer, State, ask, connect, print_json, unexpected, verb
from fabric.shell.control_wire import AskDoctor, CheckReport, Examined, PeerExamined

ANSWER_S = 30.0
"""An examination takes some seconds, and waits for one that is under way."""


@verb
def doctor(peer: OnlyPeer = None, state: State = STATE, json: Json = False) -> None:
    """Show what the network around here allows, or why PEER is reached as it is and what would make it better."""
    with connect(state) as client:
        answer = ask(client, AskDoctor(peer), ANSWER_S)
    match answer:
        case Examined():
            if json:
                print_json({"checks": [_flat(check) for check in answer.checks], "endpoint": answer.endpoint})
            else:
                _print_checks(answer.checks)
        case PeerExamined():
            if json:
                print_json(answer.examination)
            else:
                _print_peer(answer)
        case _:
            unexpected(answer)


def _flat(check: CheckReport) -> dict[str, object]:
    return {**check.figures, "name": check.name, "verdict": check.verdict, "text": check.text}


def _print_checks(checks: tuple[CheckReport, ...]) -> None:
    from rich.console import Console

    from fabric.cli.doctor_view import checks_view

    Console(highlight=False, markup=False, emoji=False).print(checks_view(checks))


def _print_peer(answer: PeerExamined) -> None:
    from rich.console import Console

    from fabric.cli.doctor_view import attempts_view, examination_view

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(examination_view(answer.examination))
    if answer.examination.attempts:
        console.print()
        console.print(attempts_view(answer.examination.attempts))
