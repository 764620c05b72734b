"""Whether TCP gets out, and to which ports."""

from __future__ import annotations

from collections.abc import Sequence

from fabric.shell.checks.finding import Finding, Verdict
from fabric.shell.checks.network import NetworkView
from fabric.shell.checks.reach import Reached, connect_all, split_all

WEB_PORTS = (80, 443)
MAX_STUN_PLACES = 4


async def check_tcp(network: NetworkView) -> Finding:
    """Connects to the service, and to the port of the STUN servers, which a filter for the web would not let out."""
    places = list(split_all(link.address for link in network.services))
    places += [(server.ip, server.port) for server in network.stun[:MAX_STUN_PLACES]]
    outcomes = await connect_all(places)
    reached = [each for several in outcomes.values() for each in several]
    if not reached:
        return Finding(Verdict.UNKNOWN, "there is no server to connect to")
    return _judge(reached)


def _judge(reached: Sequence[Reached]) -> Finding:
    is_open = sorted({each.port for each in reached if each.tcp_s is not None})
    closed = sorted({each.port for each in reached} - set(is_open))
    refused = sorted({each.port for each in reached if each.is_refused} - set(is_open))
    figures = {"open_ports": _listed(is_open), "closed_ports": _listed(closed)}
    if not is_open:
        why = "every connection is refused" if refused == closed else "no server answers"
        return Finding(Verdict.FAILED, why, figures)
    opened = f"connects to port {_listed(is_open)}"
    if any(port not in WEB_PORTS for port in is_open):
        return Finding(Verdict.OK, opened, figures)
    if not closed:
        return Finding(Verdict.OK, f"{opened}; there was no server to try another port with", figures)
    verb = "is refused" if refused == closed else "gets no answer"
    text = f"{opened}; port {_listed(closed)} {verb}, so it may be that only the web is let out"
    return Finding(Verdict.LIMITED, text, figures)


def _listed(ports: Sequence[int]) -> str:
    return ", ".join(map(str, ports))
