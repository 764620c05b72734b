"""Whether UDP gets out and back, over IPv4 and over IPv6."""

from __future__ import annotations

import socket

import trio

from fabric.core.explain import has_wide_ipv6
from fabric.shell.checks.asking import Seen, ask_stun, of_family, udp_socket
from fabric.shell.checks.finding import Finding, Verdict, ms, said
from fabric.shell.checks.network import NetworkView
from fabric.shell.checks.reach import connect, resolve, split_all


async def check_udp(network: NetworkView) -> Finding:
    """Both families are asked at once: UDP gets out where either answers."""
    found: dict[int, Seen | None] = {}

    async def look(family: int) -> None:
        found[family] = await _ask(network, family)

    async with trio.open_nursery() as nursery:
        for family in (socket.AF_INET, socket.AF_INET6):
            nursery.start_soon(look, family)
    seen = found[socket.AF_INET] or found[socket.AF_INET6]
    if seen is not None:
        return Finding(Verdict.OK, _in_words(seen), _figures(seen))
    if not network.stun:
        return Finding(Verdict.UNKNOWN, "no STUN server is known to ask")
    asked = f"none of {len(network.stun)} servers answers" if len(network.stun) > 1 else f"{network.stun[0]} is silent"
    return Finding(Verdict.FAILED, f"{asked}: let UDP out of this network for direct paths")


async def check_ipv6(network: NetworkView) -> Finding:
    """IPv6 has no NAT to open; a host without it is not worse off than most."""
    if not any(":" in ip for ip in network.ips):
        return Finding(Verdict.LIMITED, "this host has no IPv6 address")
    if not has_wide_ipv6(network.ips):
        return Finding(Verdict.LIMITED, "this host has an IPv6 address of its own site only")
    seen = await _ask(network, socket.AF_INET6)
    if seen is not None:
        return Finding(Verdict.OK, _in_words(seen), _figures(seen))
    is_out, asked = await _connects(network)
    if is_out:
        return Finding(Verdict.LIMITED if of_family(network.stun, socket.AF_INET6) else Verdict.OK, is_out)
    if not asked and not of_family(network.stun, socket.AF_INET6):
        return Finding(Verdict.UNKNOWN, "this host has an IPv6 address, and no server with one is known to ask")
    return Finding(Verdict.FAILED, "this host has an IPv6 address, but no server answers over IPv6")


async def _ask(network: NetworkView, family: int) -> Seen | None:
    servers = of_family(network.stun, family)
    if not servers:
        return None
    try:
        with udp_socket(family) as udp:
            return await ask_stun(udp, servers)
    except OSError:
        return None


async def _connects(network: NetworkView) -> tuple[str, bool]:
    """Returns a sentence where a service takes a TCP connection over IPv6, and whether any was asked."""
    was_asked = False
    for host, port in split_all(link.address for link in network.services):
        for ip in await resolve(host):
            if ":" not in ip:
                continue
            was_asked = True
            reached = await connect(ip, port)
            if reached.tcp_s is not None:
                return f"TCP to [{ip}]:{port} connects in {said(reached.tcp_s)}", True
    return "", was_asked


def _in_words(seen: Seen) -> str:
    return f"{seen.server} answers in {said(seen.rtt_s)} and sees this host at {seen.address}"


def _figures(seen: Seen) -> dict[str, str | float | None]:
    return {"server": str(seen.server), "seen_as": str(seen.address), "rtt_ms": ms(seen.rtt_s)}
