"""The way to the discovery service: names, and the time to each of its addresses."""

from __future__ import annotations

import ssl

import trio

from fabric.shell.checks.finding import Finding, Scalar, Verdict, ms, said
from fabric.shell.checks.network import NetworkView, ServiceLinkView
from fabric.shell.checks.reach import Reached, connect_all, is_ip, resolve, split_all
from fabric.shell.host import split_host


async def check_dns(network: NetworkView) -> Finding:
    """Looks up every name that this endpoint depends on, but those that a proxy looks up."""
    hosts = {host for host, _ in split_all(network.stun_names)}
    hosts |= {host for host in _served(network) if network.outlet.proxy_for(host) is None}
    names = sorted(host for host in hosts if not is_ip(host))
    if not names:
        return Finding(Verdict.OK, "not needed: all servers are known by their IP addresses")
    rows: list[dict[str, Scalar]] = []

    async def look(name: str) -> None:
        started = trio.current_time()
        ips = await resolve(name)
        rows.append({"name": name, "found": ", ".join(ips), "lookup_ms": ms(trio.current_time() - started)})

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(look, name)
    return _judge_names(sorted(rows, key=lambda row: str(row["name"])))


def _served(network: NetworkView) -> list[str]:
    """Returns the hosts that are reached over TLS."""
    return [
        *(host for host, _ in split_all(link.address for link in network.services)),
        *(relay.place.host for relay in network.relays),
    ]


def _judge_names(rows: list[dict[str, Scalar]]) -> Finding:
    figures = {"names": tuple(rows)}
    missing = [str(row["name"]) for row in rows if not row["found"]]
    if not missing:
        slowest = max(float(row["lookup_ms"] or 0.0) for row in rows)
        return Finding(Verdict.OK, f"every name is found, the slowest in {slowest:.0f} ms", figures)
    text = f"{', '.join(missing)} can't be looked up: see whether this host has a name server that answers"
    return Finding(Verdict.FAILED if len(missing) == len(rows) else Verdict.LIMITED, text, figures)


async def check_discovery(network: NetworkView, context: ssl.SSLContext) -> Finding:
    """Times TCP and TLS to every address of the service."""
    if not network.services:
        return Finding(Verdict.UNKNOWN, "no address of the discovery service is known")
    outcomes = await connect_all(split_all(link.address for link in network.services), context, network.outlet)
    rows: list[dict[str, Scalar]] = []
    texts: list[str] = []
    for link in network.services:
        several = outcomes.get(split_host(link.address), [])
        rows += [_row(link, reached) for reached in several] or [_row(link, None)]
        texts.append(_in_words(link, several))
    good = sum(any(each.tls_s is not None for each in several) for several in outcomes.values())
    verdict = Verdict.OK if good == len(outcomes) else Verdict.LIMITED if good or _any_up(network) else Verdict.FAILED
    return Finding(verdict, "; ".join(texts), {"addresses": tuple(rows)})


def _in_words(link: ServiceLinkView, several: list[Reached]) -> str:
    use = ", in use" if link.is_up else ""
    fastest = min((each for each in several if each.tls_s is not None), key=total_s, default=None)
    if fastest is not None:
        parts = f"TCP {said(fastest.tcp_s or 0.0)}, TLS {said(fastest.tls_s or 0.0)}"
        return f"{link.address} in {said(total_s(fastest))} ({parts}){use}"
    why = next((each.why for each in several if each.why), "the name can't be looked up")
    return f"{link.address}: {why}{use}"


def _row(link: ServiceLinkView, reached: Reached | None) -> dict[str, Scalar]:
    return {
        "address": link.address,
        "ip": reached.ip if reached else None,
        "tcp_ms": ms(reached.tcp_s) if reached else None,
        "tls_ms": ms(reached.tls_s) if reached else None,
        "why": reached.why if reached else "the name can't be looked up",
        "in_use": link.is_up,
        "channel_rtt_ms": ms(link.rtt_s),
        "channel_why": link.why,
    }


def total_s(reached: Reached) -> float:
    return (reached.tcp_s or 0.0) + (reached.tls_s or 0.0)


def _any_up(network: NetworkView) -> bool:
    return any(link.is_up for link in network.services)
