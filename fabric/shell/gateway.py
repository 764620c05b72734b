"""The gateway that leads from here to the internet: the kernel is asked for the route it would take, and again whenever
routes change. Nothing is sent for it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from fabric.shell.links import OVERLAY_MAC_PREFIX, ask, watch_changes

SOMEWHERE = "192.0.0.9"
"""An address on the internet, as far as routes go: the anycast address of PCP servers (RFC 7723 section 4), so that a
network which sends its port mapping somewhere else is believed, too."""

_RTM_GETLINK, _RTM_GETROUTE = 18, 26
_RTA_DST = 1
_GROUPS = 0x1 | 0x10 | 0x40  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE
_ADDRESS_BITS = 32


@dataclass(frozen=True, slots=True)
class Gateway:
    """The next hop `ip`, behind the link of that index and name, and the own address that faces it."""

    ip: str
    own_ip: str
    link: int
    name: str


async def watch_gateway(
    device: str, handle: Callable[[Gateway | None], None], sleep: Callable[[float], Awaitable[None]] = trio.sleep
) -> None:
    """Calls `handle` with what `read_gateway` finds, once at the start and then whenever it has become another."""
    known: Gateway | None = None
    is_first = True
    async for _ in watch_changes(_GROUPS, sleep):
        found = await read_gateway(device)
        if is_first or found != known:
            known, is_first = found, False
            handle(found)


async def read_gateway(device: str) -> Gateway | None:
    """Returns the IPv4 gateway towards the internet; None where there is no route there, where it needs no gateway (a
    point-to-point line), and where it goes through `device` or another overlay. Raises `OSError`."""
    # struct rtmsg: family, 32 bits of destination, all else 0; then one attribute
    query = struct.pack("=BBBBBBBBI", socket.AF_INET, _ADDRESS_BITS, 0, 0, 0, 0, 0, 0, 0)
    query += struct.pack("=HH", 8, _RTA_DST) + socket.inet_aton(SOMEWHERE)
    for message in await ask(_RTM_GETROUTE, query):
        if message["event"] == "RTM_NEWROUTE":
            return await _gateway_of(message, device)
    return None


async def _gateway_of(route: Any, device: str) -> Gateway | None:
    ip, own_ip, link = route.get_attr("RTA_GATEWAY"), route.get_attr("RTA_PREFSRC"), route.get_attr("RTA_OIF")
    if not ip or not own_ip or not link:
        return None
    name, mac = await _link_of(link)
    if name == device or mac.startswith(OVERLAY_MAC_PREFIX):
        return None
    return Gateway(str(ip), str(own_ip), int(link), name)


async def _link_of(index: int) -> tuple[str, str]:
    """Returns name and MAC of a link; empty where it has gone meanwhile."""
    # struct ifinfomsg: family, type, index, flags, change
    for message in await ask(_RTM_GETLINK, struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)):
        if message["event"] == "RTM_NEWLINK":
            return message.get_attr("IFLA_IFNAME") or "", message.get_attr("IFLA_ADDRESS") or ""
    return "", ""
