"""How long a packet may be: what the kernel is told by routers on the way out, and what peers have confirmed."""

from __future__ import annotations

import errno
import socket

import trio

from fabric.shell.checks.asking import of_family, udp_socket
from fabric.shell.checks.finding import Finding, Verdict
from fabric.shell.checks.network import NetworkView
from fabric.wire.address import Address

ROUNDS = 4
"""A way with more narrow places than that, each narrower than the last, is measured too wide."""
ROUND_S = 0.3
"""In which a router's word that a packet is too long comes back."""
MIN_MTU = 1280
"""Of IPv6 (RFC 8200 section 5); below it an overlay has to slice most frames."""
MAX_MTU = 9216

# linux/in.h, linux/in6.h: for a datagram with DF set, and the path's MTU as far as the kernel knows it
_OPTIONS = {
    socket.AF_INET: (socket.IPPROTO_IP, 10, 14, 28),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 24, 48),
}
_PMTUDISC_DO = 2


async def check_mtu(network: NetworkView, confirmed: int | None) -> Finding:
    """`confirmed` is the longest packet that any peer has answered for, in bytes."""
    figures: dict[str, int | None] = {"confirmed_mtu": confirmed}
    told: list[tuple[int, Address]] = []
    for family in _OPTIONS:
        for server in of_family(network.stun, family)[:1]:
            mtu = await measure(server)
            if mtu is not None:
                told.append((mtu, server))
                figures["ipv6_mtu" if server.is_ipv6 else "ipv4_mtu"] = mtu
    parts = [f"{mtu} bytes as far as routers tell on the way to {server.ip}" for mtu, server in told]
    if confirmed is not None:
        parts.append(f"{confirmed} bytes confirmed by a peer")
    if not parts:
        return Finding(Verdict.UNKNOWN, "there is neither a STUN server nor a peer to measure with", figures)
    narrowest = min([mtu for mtu, _ in told] or [confirmed or 0])
    return Finding(Verdict.OK if narrowest >= MIN_MTU else Verdict.LIMITED, ", ".join(parts), figures)


async def measure(server: Address) -> int | None:
    """Returns the MTU on the way to `server` after a few packets as long as that, which it will not answer."""
    family = socket.AF_INET6 if server.is_ipv6 else socket.AF_INET
    level, discover, read, overhead = _OPTIONS[family]
    try:
        with udp_socket(family) as udp:
            udp.setsockopt(level, discover, _PMTUDISC_DO)
            await udp.connect((server.ip, server.port))
            mtu = 0
            for _ in range(ROUNDS):
                before, mtu = mtu, min(udp.getsockopt(level, read), MAX_MTU)
                if mtu == before:
                    break
                await _send_of(udp, mtu - overhead)
                await trio.sleep(ROUND_S)
            return mtu
    except OSError:
        return None


async def _send_of(udp: trio.socket.SocketType, length: int) -> None:
    """Sends zeros, which are no message of any protocol here. What an earlier one has come to is told at the send."""
    for _ in range(2):
        try:
            await udp.send(bytes(length))
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ECONNREFUSED):
                raise
        else:
            return
