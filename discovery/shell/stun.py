"""STUN on UDP: answers Binding requests, at a bounded rate for each source, from the address that was asked.

Unless another one is wished (RFC 5780): there is an alternate port beside 3478, and a second IP where this host
listens on two of a family. No answer goes to an IP other than the one that asked.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from discovery.core.limits import Rate, SourceBuckets, TokenBucket
from fabric.core.machine import Instant
from fabric.wire.address import Address
from fabric.wire.stun import MAX_MESSAGE_BYTES, Answer, ServerPlace, answer_binding_5780

BATCH = 64
"""Requests answered before other tasks get their turn."""

OVERALL = Rate(5000.0, 5000.0)
"""Sources of UDP can be forged: about a quarter of a core, and five times what 16,000 endpoints ask, who look at
their NATs each hour."""

# linux/in.h, linux/in6.h
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
_PKTINFO_4 = struct.Struct("=I4s4s")
_PKTINFO_6 = struct.Struct("=16sI")
ANCILLARY_BYTES = 128

Ancillary = list[tuple[int, int, bytes]]


class StunServer:
    """`sockets` are bound and non-blocking, as are `alternates`, on the other port. `ips` are this host's own, from
    two of which in a family answers can be wished. `counters` counts what was not answered, by reason.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        buckets: SourceBuckets,
        clock: Callable[[], Instant],
        alternates: Sequence[socket.socket] = (),
        ips: Sequence[str] = (),
    ) -> None:
        self._sockets = [*sockets, *alternates]
        self._buckets = buckets
        self._overall = TokenBucket(OVERALL, clock())
        self._clock = clock
        self._ips = tuple(ips)
        self._bound = {udp.getsockname()[:2]: udp for udp in self._sockets}
        ports = [group[0].getsockname()[1] for group in (sockets, alternates) if group]
        self._other_port = dict(zip(ports, reversed(ports), strict=True)) if len(ports) == 2 else {}
        self.counters: Counter[str] = Counter()
        for udp in self._sockets:
            ask_for_destination(udp)

    async def run(self) -> None:
        """Reads the sockets and answers for ever."""
        async with trio.open_nursery() as nursery:
            for udp in self._sockets:
                nursery.start_soon(self._serve, udp)

    def handle_datagram_untrusted(
        self, udp: socket.socket, payload: bytes, ancillary: Ancillary, source: tuple[str, int]
    ) -> None:
        """Answers what `udp`, one of the sockets, has received, as `recvmsg` returns it; counts what it doesn't."""
        ip, port = source[0].partition("%")[0], source[1]
        now = self._clock()
        if port == 0 or not self._overall.take(now) or not self._buckets.take(ip, now):
            self.counters["limited"] += 1
            return
        answer = answer_binding_5780(payload, Address(ip, port), self._place(udp, ancillary))
        if answer is None:
            self.counters["no_request"] += 1
            return
        try:
            self._send(udp, answer, ancillary, source)
        except OSError:
            self.counters["unsent"] += 1

    async def _serve(self, udp: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(udp)
            for _ in range(BATCH):
                if not self._answer_one_untrusted(udp):
                    break

    def _answer_one_untrusted(self, udp: socket.socket) -> bool:
        """Returns whether there was a datagram."""
        try:
            payload, ancillary, _, source = udp.recvmsg(MAX_MESSAGE_BYTES + 1, ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            return True  # an ICMP error that an earlier answer caused
        self.handle_datagram_untrusted(udp, payload, ancillary, source)
        return True

    def _place(self, udp: socket.socket, ancillary: Ancillary) -> ServerPlace:
        bound_ip, port = udp.getsockname()[:2]
        ip = asked_ip(ancillary) or bound_ip
        return ServerPlace(Address(ip, port), self._other_ip(ip, port), self._other_port.get(port, 0))

    def _other_ip(self, ip: str, port: int) -> str:
        """Returns an IP of the same family that can send too, "" where there is none."""
        if ip not in self._ips:
            return ""
        others = (other for other in self._ips if other != ip and (":" in other) == (":" in ip))
        return next((other for other in others if self._socket_at(other, port) is not None), "")

    def _socket_at(self, ip: str, port: int) -> socket.socket | None:
        return self._bound.get((ip, port)) or self._bound.get(("::" if ":" in ip else "0.0.0.0", port))  # noqa: S104

    def _send(self, udp: socket.socket, answer: Answer, ancillary: Ancillary, source: tuple[str, int]) -> None:
        sender = self._socket_at(answer.origin.ip, answer.origin.port) or udp
        if asked_ip(ancillary) in (None, answer.origin.ip):
            way = from_where_it_came(ancillary)
        else:
            way = from_ip(answer.origin.ip)
        # the scope of a link-local source is in what the kernel said it was
        sender.sendmsg([answer.payload], way, 0, (source[0], answer.to.port, *source[2:]))


def ask_for_destination(udp: socket.socket) -> None:
    """A host with several addresses must answer from the one that was asked, or the answer is nobody's."""
    if udp.family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    else:
        udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def from_where_it_came(ancillary: Ancillary) -> Ancillary:
    """Returns what makes an answer leave from the address that the request was sent to."""
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(value) == _PKTINFO_4.size:
            _, local, _ = _PKTINFO_4.unpack(value)
            return [(level, kind, _PKTINFO_4.pack(0, local, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return [(level, kind, value)]
    return []


def from_ip(ip: str) -> Ancillary:
    """Returns what makes a datagram leave from `ip`, which is one of this host."""
    packed = ipaddress.ip_address(ip).packed
    if len(packed) == 4:
        return [(socket.IPPROTO_IP, _IP_PKTINFO, _PKTINFO_4.pack(0, packed, bytes(4)))]
    return [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, _PKTINFO_6.pack(packed, 0))]


def asked_ip(ancillary: Ancillary) -> str | None:
    """Returns the IP that a datagram was sent to, if the kernel told."""
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO) and len(value) == _PKTINFO_4.size:
            return str(ipaddress.ip_address(_PKTINFO_4.unpack(value)[1]))
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO) and len(value) == _PKTINFO_6.size:
            return str(ipaddress.ip_address(_PKTINFO_6.unpack(value)[0]))
    return None


def own_ips(names: Sequence[str]) -> list[str]:
    """Returns those of `names` that are IPs of this host, so that answers can leave from them."""
    return list(dict.fromkeys(name for name in names if _is_own(name)))


def _is_own(name: str) -> bool:
    try:
        ip = ipaddress.ip_address(name)
        with socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except (ValueError, OSError):
        return False
    return not ip.is_unspecified
