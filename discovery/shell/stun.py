"""STUN on UDP: answers Binding requests, at a bounded rate for each source, from the address that was asked."""

from __future__ import annotations

import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable

import trio

from discovery.core.limits import Rate, SourceBuckets, TokenBucket
from fabric.core.machine import Instant
from fabric.wire.address import Address
from fabric.wire.stun import MAX_MESSAGE_BYTES, answer_binding

BATCH = 64
"""Requests answered before other tasks get their turn."""

OVERALL = Rate(5000.0, 5000.0)
"""Sources of UDP can be forged: about a quarter of a core, and six times what 16,000 endpoints ask."""

# linux/in.h, linux/in6.h
_IP_PKTINFO = 8
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
_PKTINFO_4 = struct.Struct("=I4s4s")
_ANCILLARY_BYTES = 128

Ancillary = list[tuple[int, int, bytes]]


class StunServer:
    """`sockets` are bound and non-blocking. `counters` counts what was not answered, by reason."""

    def __init__(self, sockets: list[socket.socket], buckets: SourceBuckets, clock: Callable[[], Instant]) -> None:
        self._sockets = sockets
        self._buckets = buckets
        self._overall = TokenBucket(OVERALL, clock())
        self._clock = clock
        self.counters: Counter[str] = Counter()
        for udp in sockets:
            ask_for_destination(udp)

    async def run(self) -> None:
        """Answers for ever."""
        async with trio.open_nursery() as nursery:
            for udp in self._sockets:
                nursery.start_soon(self._serve, udp)

    async def _serve(self, udp: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(udp)
            for _ in range(BATCH):
                if not self._answer_one_untrusted(udp):
                    break

    def _answer_one_untrusted(self, udp: socket.socket) -> bool:
        """Returns whether there was a datagram."""
        try:
            payload, ancillary, _, source = udp.recvmsg(MAX_MESSAGE_BYTES + 1, _ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EBADF:
                raise
            return True  # an ICMP error that an earlier answer caused
        ip, port = source[0].partition("%")[0], source[1]
        now = self._clock()
        if port == 0 or not self._overall.take(now) or not self._buckets.take(ip, now):
            self.counters["limited"] += 1
            return True
        answer = answer_binding(payload, Address(ip, port))
        if answer is None:
            self.counters["no_request"] += 1
            return True
        try:
            udp.sendmsg([answer], from_where_it_came(ancillary), 0, source)
        except OSError:
            self.counters["unsent"] += 1
        return True


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
