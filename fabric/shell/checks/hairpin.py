"""Whether two sockets behind this NAT meet at their outside addresses: what two hosts at one site may need."""

from __future__ import annotations

import os
import socket

import trio

from fabric.shell.checks.asking import Seen, ask_stun, of_family, send, udp_socket
from fabric.shell.checks.finding import Finding, Verdict
from fabric.shell.checks.network import NetworkView

TRIES = 5
PAUSE_S = 0.2
TOKEN_BYTES = 16


async def check_hairpin(network: NetworkView) -> Finding:
    """Both send to each other, as two peers would: a NAT that lets nothing in but answers passes too."""
    servers = of_family(network.stun, socket.AF_INET)
    if not servers:
        return Finding(Verdict.UNKNOWN, "no STUN server is known to ask")
    with udp_socket(socket.AF_INET) as one, udp_socket(socket.AF_INET) as other:
        seen_one = await ask_stun(one, servers)
        seen_other = await ask_stun(other, servers) if seen_one is not None else None
        if seen_one is None or seen_other is None:
            return Finding(Verdict.UNKNOWN, "no STUN server answers over IPv4")
        if seen_one.address.ip in network.ips:
            return Finding(Verdict.OK, "not needed without a NAT")
        has_met = await _meet(one, seen_one, other, seen_other)
    figures = {"outside": seen_one.address.ip}
    if has_met:
        return Finding(Verdict.OK, f"two sockets here meet at {seen_one.address.ip}", figures)
    text = f"two sockets here don't meet at {seen_one.address.ip}: hosts of this site need one LAN, or a relay"
    return Finding(Verdict.LIMITED, text, figures)


async def _meet(one: trio.socket.SocketType, seen_one: Seen, other: trio.socket.SocketType, seen_other: Seen) -> bool:
    """Returns whether a datagram of either has reached the other by its outside address."""
    token = os.urandom(TOKEN_BYTES)
    has_met = False
    async with trio.open_nursery() as nursery:

        async def listen(udp: trio.socket.SocketType) -> None:
            nonlocal has_met
            while not has_met:
                try:
                    has_met = await udp.recv(TOKEN_BYTES) == token
                except OSError:  # what ICMP said of an earlier send
                    continue
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen, one)
        nursery.start_soon(listen, other)
        for _ in range(TRIES):
            await send(one, token, seen_other.address)
            await send(other, token, seen_one.address)
            await trio.sleep(PAUSE_S)
        nursery.cancel_scope.cancel()
    return has_met
