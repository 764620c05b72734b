"""Questions to daemons of a laboratory at their control sockets: at once, and without a program to start.

What is timed, or asked while something else is, goes this way: a start of `fabric` costs more processor time than most
of what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from fabric.lab import Endpoint, LabError
from fabric.lab.overlay import describe
from fabric.lab.product import until
from fabric.shell.control_client import ControlClient
from fabric.shell.control_wire import AnyAnswer, AnyQuestion, AskStatus, AskWait, Connected, EndpointReport, Status

Pair = tuple[Endpoint, Endpoint]


def ask(endpoint: Endpoint, question: AnyQuestion, within_s: float = 10.0) -> AnyAnswer:
    with ControlClient(endpoint.state / "control.sock") as client:
        return client.ask(question, within_s)


def report(endpoint: Endpoint) -> EndpointReport:
    """What the daemon says of itself."""
    answer = ask(endpoint, AskStatus())
    if not isinstance(answer, Status):
        raise LabError(f"{endpoint.name} tells no status: {answer}")
    return answer.report.endpoint


def path_kind(here: Endpoint, there: Endpoint) -> str:
    """The kind of path from here to there, e.g. "direct-udp"; "none" where there is none."""
    answer = ask(here, AskWait(there.name, "any", 0.0))
    return answer.path.kind if isinstance(answer, Connected) and answer.path is not None else "none"


def await_paths(pairs: Sequence[Pair], kind: str, within_s: float) -> None:
    """Returns as soon as both ends of all have such a path; LabError, with one pair's views, if not in time."""
    ways = [way for one, other in pairs for way in ((one, other), (other, one))]
    try:
        until(lambda: all(path_kind(*way) == kind for way in ways), f"{kind} everywhere", within_s)
    except LabError as error:
        late = next((way for way in ways if path_kind(*way) != kind), ways[0])
        raise LabError(f"{error}: {describe(*late)}") from None
