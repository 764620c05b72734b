"""The host's own addresses, now and whenever they change: rtnetlink(7), read as it comes."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface

import trio

from fabric.shell import rtnetlink
from fabric.shell.files import EXHAUSTED
from fabric.shell.rtnetlink import RECEIVE_BYTES, Message

Interface = IPv4Interface | IPv6Interface

RECOVERY_S = 0.5
SETTLE_S = 0.1
"""Changes come in bursts (link up, address, route): one look behind the first is enough for most."""

OVERLAY_MAC_PREFIX = "02:fa:"
"""Devices of this program, other networks' included, carry such an address: no overlay runs over another."""

_GROUPS = rtnetlink.RTMGRP_LINK | rtnetlink.RTMGRP_IPV4_IFADDR | rtnetlink.RTMGRP_IPV6_IFADDR
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING, _IFF_MULTICAST = 0x1, 0x8, 0x40, 0x1000
_IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x08, 0x20, 0x40
_UNUSABLE = _IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE


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
    with rtnetlink.open_netlink(groups) as news:
        news.setblocking(False)
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


async def ask(kind: int, body: bytes, flags: int = 0) -> list[Message]:
    """Returns all messages of the kernel's answer to one request of rtnetlink(7); none where it answers an error.
    `body` goes behind the header; flags are those of a netlink header beside NLM_F_REQUEST."""
    with await _open_netlink() as asker:
        asker.send(rtnetlink.request(kind, body, flags))
        found: list[Message] = []
        while True:
            await trio.lowlevel.wait_readable(asker)
            for message in rtnetlink.messages(asker.recv(RECEIVE_BYTES)):
                if message.is_last:
                    return found
                found.append(message)
            if not flags & rtnetlink.NLM_F_DUMP:
                return found


async def _open_netlink() -> socket.socket:
    """Waits where there are too many open files: the question is answered later then, but it is."""
    while True:
        try:
            opened = rtnetlink.open_netlink()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            await trio.sleep(RECOVERY_S)
        else:
            opened.setblocking(False)
            return opened


async def _look() -> tuple[list[Link], list[HostAddress]]:
    links = await _dump(rtnetlink.RTM_GETLINK, rtnetlink.RTM_NEWLINK)
    addresses = await _dump(rtnetlink.RTM_GETADDR, rtnetlink.RTM_NEWADDR)
    known = (_address_of(message) for message in addresses)
    return [link_of(message) for message in links], [address for address in known if address is not None]


def _is_usable(link: Link, device: str) -> bool:
    wanted = _IFF_UP | _IFF_RUNNING
    is_running = link.flags & (wanted | _IFF_LOOPBACK) == wanted
    return is_running and link.name != device and not link.mac.startswith(OVERLAY_MAC_PREFIX)


def _is_routed(interface: Interface) -> bool:
    ip = interface.ip
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


async def _dump(kind: int, answer: int) -> list[Message]:
    """A struct ifinfomsg of zeroes is longer than ifaddrmsg and serves both."""
    told = await ask(kind, bytes(rtnetlink.LINK.size), rtnetlink.NLM_F_DUMP)
    return [message for message in told if message.kind == answer]


def _discard(news: socket.socket) -> None:
    """Reads what has gathered; it only said that something changed. Too much of it (ENOBUFS) says the same."""
    while True:
        try:
            news.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def link_of(message: Message) -> Link:
    """Returns what an RTM_NEWLINK tells."""
    _, _, index, flags, _ = rtnetlink.LINK.unpack_from(message.body)
    told = rtnetlink.attributes(message.body, rtnetlink.LINK)
    name = told.get(rtnetlink.IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
    return Link(index, name, flags, told.get(rtnetlink.IFLA_ADDRESS, b"").hex(":"))


def _address_of(message: Message) -> HostAddress | None:
    """IFA_LOCAL is the own end where IFA_ADDRESS is the other one of a point-to-point link."""
    _, prefix_length, flags, _, link = rtnetlink.ADDRESS.unpack_from(message.body)
    told = rtnetlink.attributes(message.body, rtnetlink.ADDRESS)
    packed = told.get(rtnetlink.IFA_LOCAL) or told.get(rtnetlink.IFA_ADDRESS)
    if not packed:
        return None
    long_flags = rtnetlink.number(told.get(rtnetlink.IFA_FLAGS))
    interface = ip_interface((ip_address(packed), prefix_length))
    return HostAddress(link, interface, flags if long_flags is None else long_flags)
