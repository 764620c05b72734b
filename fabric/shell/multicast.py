"""Beacons on the LANs of this host: heard on every link that carries multicast, sent from the endpoint's own sockets.

    main UDP socket --sendmsg, a link each--> group --> own socket here, joined on each link --> on_datagrams

They leave by the main sockets because the answer goes where they came from. What comes in and isn't GATED is dropped
here; nothing is answered here. The kernel's queue holds what comes faster than is looked at, and drops the rest.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_address

import trio

from fabric.shell.links import UnderlayLink
from fabric.wire.beacon import GROUP_4, GROUP_6, HOP_LIMIT, PORT
from fabric.wire.datagram import GATED_TYPE, MAX_GATED_BYTES

OnDatagrams = Callable[[Sequence[tuple[bytes, tuple[str, int]]]], None]

_Ancillary = tuple[int, int, bytes]

BATCH, PAUSE_S = 32, 0.1
"""At most 32 datagrams at a look and ten looks a second: more than a LAN of hundreds of endpoints sends, and a flood
takes nobody's time from the frames."""

BUFFER_BYTES = 256 * 1024
MAX_LINKS = 16
"""Hosts with more (of containers, mostly) beacon on the first ones: a beacon costs a datagram a link."""

# linux/in.h, linux/in6.h: not all of them are in Python 3.11
_IP_PKTINFO = 8
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_ANCILLARY_BYTES = socket.CMSG_SPACE(20)


class Multicast:
    """`sent` and `dropped` count datagrams, the latter those that were not handed on."""

    def __init__(self, on_datagrams: OnDatagrams, port: int = PORT) -> None:
        self._on_datagrams = on_datagrams
        self._port = port
        self._ipv4 = _listen(socket.AF_INET, (GROUP_4, port))
        self._ipv6 = _listen(socket.AF_INET6, ("::", port))
        self._links: dict[int, UnderlayLink] = {}
        self._own: frozenset[tuple[str, int]] = frozenset()
        self.sent = 0
        self.dropped = 0

    def update(self, links: Sequence[UnderlayLink]) -> None:
        """Listens and sends on these links from now on, and on no others."""
        wanted = {link.index: link for link in links if link.is_multicast}
        wanted = dict(list(wanted.items())[:MAX_LINKS])
        for index in self._links.keys() - wanted.keys():
            self._leave(index)
        for index in wanted:
            self._join(index)  # again where it has been: a link that was down may have forgotten
        self._links = wanted

    def send(self, ipv4: socket.socket | None, ipv6: socket.socket | None, payload: bytes) -> None:
        """Sends `payload` to the group on every link, from the port of these sockets and an address of the link.

        IPv6 takes an address that a peer can answer to without knowing the link: none that is link-local.
        """
        own = set()
        for link in self._links.values():
            source_4 = next((str(a.ip) for a in link.addresses if isinstance(a, IPv4Interface)), None)
            source_6 = next((str(a.ip) for a in link.addresses if isinstance(a, IPv6Interface)), None)
            if ipv4 is not None and source_4 is not None:
                own.add((source_4, ipv4.getsockname()[1]))
                self._send(ipv4, payload, _from_4(link.index, source_4), (GROUP_4, self._port))
            if ipv6 is not None and source_6 is not None:
                own.add((source_6, ipv6.getsockname()[1]))
                self._send(ipv6, payload, _from_6(link.index, source_6), (GROUP_6, self._port, 0, link.index))
        self._own = frozenset(own)

    async def run(self) -> None:
        """Until cancelled; then, and only then, the sockets are closed."""
        try:
            async with trio.open_nursery() as nursery:
                for listener in (self._ipv4, self._ipv6):
                    if listener is not None:
                        nursery.start_soon(self._listen, listener)
        finally:
            self.close()

    def close(self) -> None:
        for listener in (self._ipv4, self._ipv6):
            if listener is not None:
                listener.close()
        self._ipv4 = self._ipv6 = None

    async def _listen(self, listener: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            batch = self._receive(listener)
            if batch:
                self._on_datagrams(batch)
            await trio.sleep(PAUSE_S)

    def _receive(self, listener: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
        batch = []
        for _ in range(BATCH):
            try:
                payload, ancillary, _, source = listener.recvmsg(MAX_GATED_BYTES + 1, _ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError:
                continue
            ip, port = source[0].partition("%")[0], source[1]
            if self._is_beacon(payload, ip, port) and _is_to_group(listener, ancillary):
                batch.append((payload, (ip, port)))
            else:
                self.dropped += 1
        return batch

    def _is_beacon(self, payload: bytes, ip: str, port: int) -> bool:
        """Whether it may be one of somebody else's, from an address that an answer can go to."""
        is_gated = 0 < len(payload) <= MAX_GATED_BYTES and payload[0] == GATED_TYPE
        return is_gated and port != 0 and (ip, port) not in self._own and not ip_address(ip).is_link_local

    def _send(
        self, by: socket.socket, payload: bytes, source: tuple[int, int, bytes], to: tuple[str | int, ...]
    ) -> None:
        try:
            by.sendmsg([payload], [source, _hop_limit(by)], 0, to)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise
            return  # a link that has just gone, or a full queue: the next beacon comes soon
        self.sent += 1

    def _join(self, index: int) -> None:
        _set_membership(self._ipv4, socket.IP_ADD_MEMBERSHIP, index)
        _set_membership(self._ipv6, socket.IPV6_JOIN_GROUP, index)

    def _leave(self, index: int) -> None:
        _set_membership(self._ipv4, socket.IP_DROP_MEMBERSHIP, index)
        _set_membership(self._ipv6, socket.IPV6_LEAVE_GROUP, index)


def _listen(family: socket.AddressFamily, where: tuple[str, int]) -> socket.socket | None:
    """Returns a socket that shares its port with other daemons of this host; None where the host lacks the family."""
    try:
        listener = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # each of them gets each multicast datagram
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        if family == socket.AF_INET:
            listener.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        else:
            # Bound to no group, because a link-local one would bind the socket to one link: see `_is_to_group`.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        listener.bind(where)
    except OSError:
        listener.close()
        return None
    return listener


def _is_to_group(listener: socket.socket, ancillary: Sequence[_Ancillary]) -> bool:
    """The IPv4 socket is bound to the group; the other one also hears what is sent to this host alone."""
    if listener.family == socket.AF_INET:
        return True
    wanted = socket.inet_pton(socket.AF_INET6, GROUP_6)
    return any(
        level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and value[:16] == wanted
        for level, kind, value in ancillary
    )


def _set_membership(listener: socket.socket | None, option: int, index: int) -> None:
    """What is joined already, or has gone with its link, is as it should be."""
    if listener is None:
        return
    if listener.family == socket.AF_INET:
        # struct ip_mreqn: group, any address, link
        request = socket.inet_aton(GROUP_4) + struct.pack("=4xi", index)
        level = socket.IPPROTO_IP
    else:
        request = socket.inet_pton(socket.AF_INET6, GROUP_6) + struct.pack("=I", index)
        level = socket.IPPROTO_IPV6
    try:
        listener.setsockopt(level, option, request)
    except OSError:
        return


def _from_4(link: int, ip: str) -> _Ancillary:
    """struct in_pktinfo: the link, the source, and nothing."""
    return socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("=i4s4x", link, socket.inet_aton(ip))


def _from_6(link: int, ip: str) -> _Ancillary:
    """struct in6_pktinfo: the source and the link."""
    source = socket.inet_pton(socket.AF_INET6, ip)
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, struct.pack("=16si", source, link)


def _hop_limit(by: socket.socket) -> _Ancillary:
    if by.family == socket.AF_INET:
        return socket.IPPROTO_IP, socket.IP_TTL, struct.pack("=i", HOP_LIMIT)
    return socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, struct.pack("=i", HOP_LIMIT)
