"""The host's own addresses, now and whenever they change: rtnetlink(7), read as it comes."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

import trio
from pyroute2.netlink.rtnl.marshal import MarshalRtnl  # type: ignore[import-untyped]

from fabric.shell.files import EXHAUSTED

Interface = IPv4Interface | IPv6Interface

RECOVERY_S = 0.5
SETTLE_S = 0.1
"""Changes come in bursts (link up, address, route): one look behind the first is enough for most."""

OVERLAY_MAC_PREFIX = "02:fa:"
"""Devices of this program, other networks' included, carry such an address: no overlay runs over another."""

_RTM_GETLINK, _RTM_GETADDR = 18, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_DONE, _NLMSG_ERROR = 3, 2
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_MULTICAST = 0x1, 0x8, 0x40, 0x1000
_IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x08, 0x20, 0x40
_UNUSABLE = _IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE
_RECEIVE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    flags: int
    mac: str


@dataclass(frozen=True, slots=True)
class HostAddress:
    link: int
    interface: Interface
    flags: int


@dataclass(frozen=True, slots=True)
class UnderlayLink:
    """A link that peers may be behind, with those of its addresses that they might reach, in the kernel's order."""

    index: int
    name: str
    is_multicast: bool
    addresses: tuple[Interface, ...]


def underlay(links: list[Link], addresses: list[HostAddress], device: str) -> tuple[Interface, ...]:
    """Returns the addresses that a peer might reach: none of `device` or of another overlay, no loopback, no
    link-local, none that the kernel has not finished or given up, none of a link without carrier."""
    usable = {link.index for link in links if _is_usable(link, device)}
    return tuple(
        address.interface
        for address in addresses
        if address.link in usable and not address.flags & _UNUSABLE and _is_routed(address.interface)
    )


def underlay_links(links: list[Link], addresses: list[HostAddress], device: str) -> tuple[UnderlayLink, ...]:
    """Returns the links whose addresses `underlay` returns."""
    found = []
    for link in links:
        own = underlay([link], [address for address in addresses if address.link == link.index], device)
        if own:
            found.append(UnderlayLink(link.index, link.name, bool(link.flags & _IFF_MULTICAST), own))
    return tuple(found)


async def watch_links(
    device: str,
    handle: Callable[[tuple[Interface, ...]], None],
    sleep: Callable[[float], Awaitable[None]] = trio.sleep,
    handle_links: Callable[[tuple[UnderlayLink, ...]], None] | None = None,
) -> None:
    """Calls `handle` with what `underlay` finds, once at the start and then after every change; `handle_links` with the
    links of the same look, before."""
    async for _ in watch_changes(_GROUPS, sleep):
        links, addresses = await _look()
        if handle_links is not None:
            handle_links(underlay_links(links, addresses, device))
        handle(underlay(links, addresses, device))


async def watch_changes(groups: int, sleep: Callable[[float], Awaitable[None]] = trio.sleep) -> AsyncIterator[None]:
    """Yields once at the start, and then after every burst of changes that concern these RTMGRP_* groups."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as news:
        news.setblocking(False)
        news.bind((0, groups))
        while True:
            yield
            await trio.lowlevel.wait_readable(news)
            await sleep(SETTLE_S)
            _discard(news)


async def read_underlay(device: str) -> tuple[Interface, ...]:
    """Returns what `underlay` finds now. Raises `OSError`."""
    return underlay(*await _look(), device)


async def read_underlay_links(device: str) -> tuple[UnderlayLink, ...]:
    """Returns what `underlay_links` finds now. Raises `OSError`."""
    return underlay_links(*await _look(), device)


async def ask(kind: int, body: bytes, flags: int = 0) -> list[Any]:
    """Returns all messages of the kernel's answer to one request of rtnetlink(7); none where it answers an error.
    `body` goes behind the header; flags are those of a netlink header beside NLM_F_REQUEST."""
    with await _open_netlink() as asker:
        asker.bind((0, 0))
        asker.send(struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body)
        parser = MarshalRtnl()
        messages: list[Any] = []
        while True:
            await trio.lowlevel.wait_readable(asker)
            for message in parser.parse(asker.recv(_RECEIVE_BYTES)):
                if message["header"]["type"] in (_NLMSG_DONE, _NLMSG_ERROR):
                    return messages
                messages.append(message)
            if not flags & _NLM_F_DUMP:
                return messages


async def _open_netlink() -> socket.socket:
    """Waits where there are too many open files: the question is answered later then, but it is."""
    while True:
        try:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            await trio.sleep(RECOVERY_S)
        else:
            opened.setblocking(False)
            return opened


async def _look() -> tuple[list[Link], list[HostAddress]]:
    links = [_link_of(message) for message in await _dump(_RTM_GETLINK) if message["event"] == "RTM_NEWLINK"]
    addresses = [_address_of(message) for message in await _dump(_RTM_GETADDR) if message["event"] == "RTM_NEWADDR"]
    return links, [address for address in addresses if address is not None]


def _is_usable(link: Link, device: str) -> bool:
    wanted = _IFF_UP | _IFF_RUNNING
    is_running = link.flags & (wanted | _IFF_LOOPBACK) == wanted
    return is_running and link.name != device and not link.mac.startswith(OVERLAY_MAC_PREFIX)


def _is_routed(interface: Interface) -> bool:
    ip = interface.ip
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


async def _dump(kind: int) -> list[Any]:
    """A struct ifinfomsg of zeroes is longer than ifaddrmsg and serves both."""
    return await ask(kind, bytes(16), _NLM_F_DUMP)


def _discard(news: socket.socket) -> None:
    """Reads what has gathered; it only said that something changed. Too much of it (ENOBUFS) says the same."""
    while True:
        try:
            news.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def _link_of(message: Any) -> Link:
    return Link(
        message["index"],
        message.get_attr("IFLA_IFNAME") or "",
        message["flags"],
        message.get_attr("IFLA_ADDRESS") or "",
    )


def _address_of(message: Any) -> HostAddress | None:
    """IFA_LOCAL is the own end where IFA_ADDRESS is the other one of a point-to-point link."""
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    if not text:
        return None
    flags = message.get_attr("IFA_FLAGS")
    interface = ip_interface(f"{text}/{message['prefixlen']}")
    return HostAddress(message["index"], interface, message["flags"] if flags is None else flags)
