"""All that the service answers STUN on: UDP and TCP, each on `stun_port` and on `stun_alternate_port`."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from discovery.core.limits import Rate, SourceBuckets
from discovery.shell.config import Config
from discovery.shell.listen import DRAWS, close_all, open_listeners
from discovery.shell.stun import StunServer
from discovery.shell.stun_tcp import StunTcpServer
from fabric.errors import ConfigurationError
from fabric.shell import clock
from fabric.shell.exit_code import sentence_of
from fabric.shell.log import Log

_log = Log("discovery.stun")


@dataclass(frozen=True, slots=True)
class StunDoors:
    """`sockets` are of UDP, those of `stun_port` first; whoever reads them hands on to `udp` what is STUN."""

    port: int
    sockets: list[socket.socket]
    udp: StunServer
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


def open_stun(stack: ExitStack, config: Config, ips: Sequence[str]) -> StunDoors:
    """Opens what `config` wishes; only UDP on `stun_port` can't be done without. Raises `ConfigurationError`.

    `ips` are this host's own, to answer from. The sockets are closed with `stack`.
    """
    udp, tcp = _open_door(stack, config, config.stun_port, "endpoints can't learn here where their TCP is seen from")
    other_udp, other_tcp = _open_other_door(stack, config)
    if not tcp:
        close_all(other_tcp)  # what is asked over TCP is asked at the first port first
    rate = Rate(config.stun_rate, config.stun_burst)
    server = StunServer(udp, SourceBuckets(rate), clock.now, other_udp, ips)
    # Sources of UDP can be forged: what is sent in their name must not close TCP to them.
    tcp_server = StunTcpServer(SourceBuckets(rate), clock.now)
    return StunDoors(udp[0].getsockname()[1], [*udp, *other_udp], server, tcp_server, tcp, other_tcp)


def _open_other_door(stack: ExitStack, config: Config) -> tuple[list[socket.socket], list[socket.socket]]:
    if not config.stun_alternate_port:
        return [], []
    port = config.stun_port and config.stun_alternate_port
    try:
        return _open_door(stack, config, port, "no STUN over TCP on the alternate port")
    except ConfigurationError as error:
        _log.warning("endpoints can't learn here what their NAT does", why=sentence_of(error))
        return [], []


def _open_door(
    stack: ExitStack, config: Config, port: int, loss: str
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Returns UDP sockets, and TCP listeners on the same port: none where somebody else has it there, which is logged.

    With port 0, one is drawn that is free for both. Raises `ConfigurationError`.
    """
    for draws_left in reversed(range(1 if port else DRAWS)):
        udp = open_listeners(config.listen, port, socket.SOCK_DGRAM)
        tcp: list[socket.socket] = []
        try:
            tcp = open_listeners(config.listen, udp[0].getsockname()[1], socket.SOCK_STREAM)
        except ConfigurationError as error:
            if draws_left:
                close_all(udp)
                continue
            _log.warning(loss, why=sentence_of(error))
        break
    stack.callback(close_all, [*udp, *tcp])
    return udp, tcp
