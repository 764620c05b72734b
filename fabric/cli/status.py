"""`fabric status [--json] [PEER]`."""

from __future__ import annotations

from fabric.cli.words import STATE, Json, OnlyPeer, State, ask, connect, print_json, unexpected, verb
from fabric.shell.control_wire import AskStatus, EndpointReport, PeerReport, Status, StatusReport


@verb
def status(peer: OnlyPeer = None, state: State = STATE, json: Json = False) -> None:
    """Show this endpoint and its peers: who is connected, over which path, and if not, why."""
    with connect(state) as client:
        answer = ask(client, AskStatus(peer))
    if not isinstance(answer, Status):
        unexpected(answer)
    if json:
        print_json(answer.report)
    else:
        _print(answer.report, is_detailed=peer is not None)


def _print(report: StatusReport, *, is_detailed: bool) -> None:
    from rich.console import Console

    from fabric.cli.status_view import endpoint_view, peer_view, peers_view, reasons_view

    console = Console(highlight=False, markup=False, emoji=False)
    if is_detailed:
        console.print(peer_view(_only(report)))
        return
    console.print(endpoint_view(report.endpoint))
    console.print()
    if not report.peers:
        console.print(_advice(report.endpoint))
        return
    console.print(peers_view(report.peers))
    console.print(reasons_view(report.peers))


def _only(report: StatusReport) -> PeerReport:
    (peer,) = report.peers
    return peer


def _advice(endpoint: EndpointReport) -> str:
    return f"No peers yet: `fabric add PEER` here, and `fabric add {endpoint.name}` there."
