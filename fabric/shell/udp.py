"""The UDP sockets of an endpoint: IPv4 and IPv6 on one port, others beside them, read and written in batches.

    main socket   DATA, GATED, STUN    as it is                        target (ip, port)
                  RELAYED              wrapped here, unwrapped here    target (ip, port, RELAY_UDP, channel)
                  RELAY_CONTROL        as it is                        target (ip, port, RELAY_UDP, 0)
    side sockets  DATA, GATED, STUN    as it is                        target (ip, port, UDP, number)

Nothing that the network does may end a socket: errors that ICMP or a full queue leave behind are counted. No datagram
is ever cut into fragments: core finds out how much a path carries (RFC 8899), and the lane slices. Datagrams of one
length to one target leave as one, where kernel and device allow it, and come in so (see `offload`).
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import trio

from fabric.dataplane.contract import Drop
from fabric.errors import ConfigurationError, DecodeError
from fabric.shell.flood_guard import Addressed
from fabric.shell.offload import (
    UNABLE,
    coalesce,
    count_segments,
    is_coalescing,
    raise_if_closed,
    read_runs,
    run_end,
    send_run,
)
from fabric.shell.side_sockets import SideSockets
from fabric.wire.address import Target, Transport
from fabric.wire.datagram import DATA_TYPE, GATED_HEADER_BYTES, GATED_TYPE
from fabric.wire.path import GatedKind
from fabric.wire.relay import RELAY_CONTROL_TYPE, RELAYED_HEADER_BYTES, RELAYED_TYPE, unwrap_relayed, wrap_relayed

Reader = tuple[socket.socket | SideSockets, Callable[[], list[tuple[bytes, Target]]]]
"""What to wait for until it is readable, and what to call then."""

TooLong = tuple[Target, int]
"""Where to, and the length of the datagram in bytes, as it was handed over: without what a relay's adds to it."""

BATCH = 64
BUFFER_BYTES = 8 << 20
"""Holds what arrives at 1 Gbit/s while the process doesn't run for 60 ms."""

MAX_TOO_LONG = 64
"""Targets remembered between two looks of core: more than there are probes of length on their way."""

_PORT_TRIES = 64

_GATED = bytes((GATED_TYPE,))
_PROBE_REPLY = bytes((GatedKind.PROBE_REPLY,))
_FOR_RELAYS = bytes((RELAYED_TYPE,))
"""One comparison a datagram finds all that may have to do with a relay: it begins with this byte or one above."""

# asm-generic/socket.h: beyond net.core.?mem_max, with CAP_NET_ADMIN
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
# linux/in.h, linux/in6.h: DF is set, and neither ICMP nor the kernel's memory of it says how long a datagram may be
_IP_MTU_DISCOVER = 10
_IPV6_MTU_DISCOVER = 23
_PMTUDISC_PROBE = 3


class UdpSockets:
    """`ipv6` is None on a host without IPv6. `drops` counts what was not carried, until the caller takes it.

    `segments` is how many datagrams may leave as one: 1 where the kernel takes no runs, and from when a device has
    refused one. `coalesces` says whether the main sockets hand runs over.
    `elsewhere` is given what is for no UDP socket, and answers whether the rest of the batch may go on.
    """

    def __init__(self, ipv4: socket.socket | None, ipv6: socket.socket | None, segments: int = 1) -> None:
        self.ipv4 = ipv4
        self.ipv6 = ipv6
        self.sockets = tuple(s for s in (ipv4, ipv6) if s is not None)
        self.port: int = self.sockets[0].getsockname()[1]
        self.segments = segments
        self.coalesces = all(is_coalescing(udp) for udp in self.sockets)
        self.drops: Counter[Drop] = Counter()
        self.addressed = Addressed()
        self.unopened = 0
        """Of what relays seem to have brought: what no lane will count, as it is not told of it."""
        self.side = SideSockets(lambda: _bind(socket.AF_INET, 0, is_wide=False), widen, self.drops)
        self.elsewhere: Callable[[bytes, Target], bool] = self._refuse
        self._too_long: dict[Target, int] = {}

    @property
    def readers(self) -> tuple[Reader, ...]:
        mains: list[Reader] = [(udp, partial(self.receive_batch, udp)) for udp in self.sockets]
        return (*mains, (self.side, self.side.receive_batch))

    def receive_batch(self, udp: socket.socket) -> list[tuple[bytes, Target]]:
        """Returns the datagrams that wait on a main socket, with their sources: `BATCH`, and the rest of a run."""
        batch: list[tuple[bytes, Target]] = []
        for datagrams, source in read_runs(udp, BATCH):
            self._sort(datagrams, source[:2], batch)
        return batch

    def sort(self, batch: Sequence[tuple[bytes, Target]]) -> list[tuple[bytes, Target]]:
        """Returns what others have read from the main sockets as `receive_batch` would have."""
        sorted_: list[tuple[bytes, Target]] = []
        for datagram, source in batch:
            if len(source) == 2:
                self._sort((datagram,), source, sorted_)
            else:
                sorted_.append((datagram, source))
        by_relay = (Transport.RELAY_UDP,)
        self.unopened += sum(to[2:3] == by_relay and datagram.startswith(_GATED) for datagram, to in sorted_)
        return sorted_

    def send_batch(self, batch: Sequence[tuple[bytes, Target]], start: int = 0) -> int:
        """Sends from `start` on; returns how far it came: less than `len(batch)` where a socket's queue is full."""
        at = start
        while at < len(batch):
            end = run_end(batch, at, self.segments)
            if end == at + 1:
                if not self._send(*batch[at]):
                    return at
            elif (done := self._send_run(batch, at, end)) < end:
                return done
            at = end
        return len(batch)

    async def wait_writable(self, target: Target) -> None:
        """Returns once the queue of the socket that serves `target` has room."""
        if len(target) == 4 and target[2] is Transport.UDP:
            udp = self.side.socket_of(target[3])
        else:
            udp = self.ipv6 if ":" in target[0] else self.ipv4
        if udp is not None:
            await trio.lowlevel.wait_writable(udp)

    @property
    def has_too_long(self) -> bool:
        return bool(self._too_long)

    def take_too_long(self) -> list[TooLong]:
        """Returns what this host's own devices refused to carry, the shortest to each target, and forgets it.

        It may have been a probe that asked for as much: only its length says whether data is in trouble.
        """
        refused, self._too_long = list(self._too_long.items()), {}
        return refused

    def close(self) -> None:
        self.side.close_all()
        for udp in self.sockets:
            udp.close()

    def _sort(self, datagrams: Sequence[bytes], target: tuple[str, int], batch: list[tuple[bytes, Target]]) -> None:
        for datagram in datagrams:
            if datagram < _FOR_RELAYS:
                batch.append((datagram, target))
            elif (unwrapped := self._unwrap(datagram, target[0], target[1])) is not None:
                batch.append(unwrapped)

    def _unwrap(self, datagram: bytes, ip: str, port: int) -> tuple[bytes, Target] | None:
        """Counts, and returns None for, what no relay can have sent."""
        if datagram[0] == RELAY_CONTROL_TYPE:
            return datagram, (ip, port, Transport.RELAY_UDP, 0)
        if datagram[0] > RELAY_CONTROL_TYPE:
            return datagram, (ip, port)
        try:
            channel, payload = unwrap_relayed(datagram)
        except DecodeError:
            channel, payload = 0, b"\0"
        if channel and payload[0] in (DATA_TYPE, GATED_TYPE):
            return payload, (ip, port, Transport.RELAY_UDP, channel)
        self.unopened += 1
        self.drops[Drop.MALFORMED] += 1
        return None

    def _send_run(self, batch: Sequence[tuple[bytes, Target]], start: int, end: int) -> int:
        """Sends datagrams to one target as one, or one by one where that is refused; returns how far it came."""
        first, target = batch[start]
        udp = self._socket_for(first, target)
        if udp is None or not _is_for_udp(target):
            return self._send_singly(batch, start, end)
        self._note(target, first)
        datagrams = [datagram for datagram, _ in batch[start:end]]
        if channel := _channel(target):
            datagrams = [wrap_relayed(channel, datagram) for datagram in datagrams]
        try:
            send_run(udp, datagrams, target[:2])
        except BlockingIOError:
            return start
        except OSError as error:
            raise_if_closed(error)
            return self._send_refused(error, batch, start, end)
        return end

    def _send_refused(self, error: OSError, batch: Sequence[tuple[bytes, Target]], start: int, end: int) -> int:
        """Whatever the refusal was about, each datagram finds it out again: that it is too long, or nothing at all.

        It was about runs only where all of them went alone: older kernels say EINVAL of one too long for a device, too.
        """
        lost = self.drops.total()
        done = self._send_singly(batch, start, end)
        if error.errno in UNABLE and done == end and self.drops.total() == lost:
            self.segments = 1
        return done

    def _send_singly(self, batch: Sequence[tuple[bytes, Target]], start: int, end: int) -> int:
        for at in range(start, end):
            if not self._send(*batch[at]):
                return at
        return end

    def _send(self, datagram: bytes, target: Target) -> bool:
        """False where a queue is full."""
        if len(target) != 2:
            return self._send_beside(datagram, target)
        udp = self.ipv6 if ":" in target[0] else self.ipv4
        if udp is None:
            self.drops[Drop.NO_PATH] += 1
            return True
        self._note(target, datagram)
        try:
            udp.sendto(datagram, target)
        except BlockingIOError:
            return False
        except OSError as error:
            self._handle_send_error(error, udp, datagram, target, target)
        return True

    def _send_beside(self, datagram: bytes, target: tuple[str, int, Transport, int]) -> bool:
        """Sends what is not simply for a main socket; False where a queue is full."""
        if not _is_for_udp(target):
            return self.elsewhere(datagram, target)
        udp = self._socket_for(datagram, target)
        if udp is None:
            self.drops[Drop.NO_PATH] += 1
            return True
        self._note(target, datagram)
        if channel := _channel(target):
            datagram = wrap_relayed(channel, datagram)
        try:
            udp.sendto(datagram, target[:2])
        except BlockingIOError:
            return False
        except OSError as error:
            self._handle_send_error(error, udp, datagram, target[:2], target)
        return True

    def _note(self, target: Target, datagram: bytes) -> None:
        """Whoever answers does so to the main socket, unless it was a side socket that wrote. An answer to a probe may
        go to an address that the peer forged: whoever belongs there is written to without being asked, too."""
        to = target[:2]
        if to in self.addressed.recent or _is_probe_reply(datagram):
            return
        if len(target) == 2 or target[2] is Transport.RELAY_UDP:
            self.addressed.note(*to, is_relay=len(target) != 2)

    def _socket_for(self, datagram: bytes, target: Target) -> socket.socket | None:
        if len(target) == 4 and target[2] is Transport.UDP:
            return self.side.socket_for(datagram, target[3])
        return self.ipv6 if ":" in target[0] else self.ipv4

    def _handle_send_error(
        self, error: OSError, udp: socket.socket, datagram: bytes, to: tuple[str, int], target: Target
    ) -> None:
        """An ICMP error is told at the next send, which then has to be done again; all else is this datagram's end."""
        raise_if_closed(error)
        if error.errno in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EPROTO):
            try:
                udp.sendto(datagram, to)
            except OSError as second:
                self._lose(second, datagram, target)
        else:
            self._lose(error, datagram, target)

    def _lose(self, error: OSError, datagram: bytes, target: Target) -> None:
        reason = _reason(error)
        self.drops[reason] += 1
        if reason is Drop.OVERSIZE and (target in self._too_long or len(self._too_long) < MAX_TOO_LONG):
            length = len(datagram) - (RELAYED_HEADER_BYTES if _channel(target) else 0)
            self._too_long[target] = min(length, self._too_long.get(target, length))

    def _refuse(self, _datagram: bytes, _target: Target) -> bool:
        self.drops[Drop.NO_PATH] += 1
        return True


def _is_probe_reply(datagram: bytes) -> bool:
    return datagram.startswith(_GATED) and datagram[GATED_HEADER_BYTES : GATED_HEADER_BYTES + 1] == _PROBE_REPLY


def open_udp_sockets(port: int = 0) -> UdpSockets:
    """Returns sockets on `port`, or where it is 0 on one that is free for both families, and for TCP as well.

    Raises `ConfigurationError`.
    """
    for _ in range(_PORT_TRIES):
        ipv6 = _bind(socket.AF_INET6, port) if socket.has_ipv6 else None
        chosen = ipv6.getsockname()[1] if ipv6 is not None else port
        try:
            ipv4 = _bind(socket.AF_INET, chosen)
        except ConfigurationError:
            if ipv6 is not None:
                ipv6.close()
            if port:
                raise
            continue
        if ipv4 is None and ipv6 is None:
            break
        sockets = UdpSockets(ipv4, ipv6, count_segments())
        if port or is_free_for_tcp(sockets.port):
            return sockets
        sockets.close()
    raise ConfigurationError("no port is free for UDP and TCP, over both IPv4 and IPv6")


def is_free_for_tcp(port: int) -> bool:
    """Whether nobody has it, not even a connection that is over (TIME-WAIT): one to the same place would fail then."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def _bind(family: socket.AddressFamily, port: int, *, is_wide: bool = True) -> socket.socket | None:
    """Returns None where the host lacks the family; raises `ConfigurationError` where the port is taken."""
    try:
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
        if is_wide:
            widen(udp)
        udp.bind(("", port))
    except OSError as error:
        udp.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise ConfigurationError(f"UDP port {port} can't be had: {error.strerror}") from error
    return udp


def widen(udp: socket.socket) -> None:
    """Makes a socket fit for frames: long queues, and runs come in as one."""
    _widen(udp, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
    _widen(udp, _SO_SNDBUFFORCE, socket.SO_SNDBUF)
    coalesce(udp)


def _widen(udp: socket.socket, forced: int, ordinary: int) -> None:
    try:
        udp.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
    except OSError:
        udp.setsockopt(socket.SOL_SOCKET, ordinary, BUFFER_BYTES)


def _is_for_udp(target: Target) -> bool:
    return len(target) == 2 or target[2] in (Transport.UDP, Transport.RELAY_UDP)


def _channel(target: Target) -> int:
    """Returns the channel at a relay to wrap for; 0 where a datagram leaves as it is."""
    return target[3] if len(target) == 4 and target[2] is Transport.RELAY_UDP else 0


def _reason(error: OSError) -> Drop:
    match error.errno:
        case errno.EAGAIN | errno.ENOBUFS | errno.ENOMEM:
            return Drop.BACKPRESSURE
        case errno.EMSGSIZE:
            return Drop.OVERSIZE
        case _:
            return Drop.NO_PATH
