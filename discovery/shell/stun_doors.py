"""All that the service answers STUN on: UDP and TCP, each on `stun_port` and on `stun_alternate_port`."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from discovery.core.limits import Rate, SourceBuckets
from discovery.shell.config import Config
from discovery.shell.listen import open_listeners
from discovery.shell.stun import StunServer
from discovery.shell.stun_tcp import StunTcpServer
from fabric.errors import ConfigurationError
from fabric.shell import clock
from fabric.shell.exit_code import sentence_of
from fabric.shell.log import Log

_log = Log("discovery.stun")


@dataclass(frozen=True, slots=True)
class StunDoors:
    """`alternates` are UDP sockets; whoever reads them and those of `stun_port` hands on to `udp` what is STUN."""

    udp: StunServer
    alternates: list[socket.socket]
    _tcp: StunTcpServer
    _listeners: list[socket.socket]
    _other_listeners: list[socket.socket]

    @property
    def counters(self) -> dict[str, Counter[str]]:
        """What was not answered, by transport and reason."""
        return {"STUN": self.udp.counters, "STUN over TCP": self._tcp.counters}

    async def serve_tcp(self) -> None:
        """Serves until cancelled."""
        if self._listeners:
            await self._tcp.run(self._listeners, self._other_listeners)


def open_stun(stack: ExitStack, config: Config, udp: list[socket.socket], ips: Sequence[str]) -> StunDoors:
    """Opens the rest beside `udp`, the sockets of `stun_port`; what somebody else has the port of is done without.

    `ips` are this host's own, to answer from. The sockets are closed with `stack`.
    """

    def listen(port: int, kind: socket.SocketKind, loss: str) -> list[socket.socket]:
        try:
            sockets = open_listeners(config.listen, port, kind)
        except ConfigurationError as error:
            _log.warning(loss, why=sentence_of(error))
            return []
        for opened in sockets:
            stack.callback(opened.close)
        return sockets

    rate = Rate(config.stun_rate, config.stun_burst)
    port = udp[0].getsockname()[1]
    other_udp, other_tcp = [], []
    tcp = listen(port, socket.SOCK_STREAM, "endpoints can't learn here where their TCP is seen from")
    if config.stun_alternate_port:
        alternate_port = config.stun_port and config.stun_alternate_port
        other_udp = listen(alternate_port, socket.SOCK_DGRAM, "endpoints can't learn here what their NAT does")
    if tcp and other_udp:
        other_tcp = listen(other_udp[0].getsockname()[1], socket.SOCK_STREAM, "no STUN over TCP on the alternate port")
    server = StunServer(udp, SourceBuckets(rate), clock.now, other_udp, ips)
    # Sources of UDP can be forged: what is sent in their name must not close TCP to them.
    return StunDoors(server, other_udp, StunTcpServer(SourceBuckets(rate), clock.now), tcp, other_tcp)
