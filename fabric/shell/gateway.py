"""The gateway that leads from here to the internet: the kernel is asked for the route it would take, and again whenever
routes change. Nothing is sent for it."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address

import trio

from fabric.shell import rtnetlink
from fabric.shell.links import OVERLAY_MAC_PREFIX, ask, link_of, watch_changes
from fabric.shell.rtnetlink import Message

SOMEWHERE = "192.0.0.9"
"""An address on the internet, as far as routes go: the anycast address of PCP servers (RFC 7723 section 4), so that a
network which sends its port mapping somewhere else is believed, too."""

_GROUPS = rtnetlink.RTMGRP_LINK | rtnetlink.RTMGRP_IPV4_IFADDR | rtnetlink.RTMGRP_IPV4_ROUTE
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
    query = rtnetlink.ROUTE.pack(socket.AF_INET, _ADDRESS_BITS, 0, 0, 0, 0, 0, 0, 0)
    query += rtnetlink.attribute(rtnetlink.RTA_DST, socket.inet_aton(SOMEWHERE))
    for message in await ask(rtnetlink.RTM_GETROUTE, query):
        if message.kind == rtnetlink.RTM_NEWROUTE:
            return await _gateway_of(message, device)
    return None


async def _gateway_of(route: Message, device: str) -> Gateway | None:
    told = rtnetlink.attributes(route.body, rtnetlink.ROUTE)
    ip, own_ip = told.get(rtnetlink.RTA_GATEWAY), told.get(rtnetlink.RTA_PREFSRC)
    link = rtnetlink.number(told.get(rtnetlink.RTA_OIF))
    if not ip or not own_ip or not link:
        return None
    name, mac = await _name_and_mac(link)
    if name == device or mac.startswith(OVERLAY_MAC_PREFIX):
        return None
    return Gateway(str(ip_address(ip)), str(ip_address(own_ip)), link, name)


async def _name_and_mac(index: int) -> tuple[str, str]:
    """Those of a link; empty where it has gone meanwhile."""
    for message in await ask(rtnetlink.RTM_GETLINK, rtnetlink.LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)):
        if message.kind == rtnetlink.RTM_NEWLINK:
            link = link_of(message)
            return link.name, link.mac
    return "", ""
