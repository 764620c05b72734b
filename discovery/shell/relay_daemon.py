"""`discoveryd relay`: a relay alone. No store, no authority's key; the root tells it whose grants hold.

signals | WebSocket over HTTPS | UDP: relay | STUN (UDP, TCP) | deadlines | a new relay.pem | watchdog
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import trio

from discovery.core.limits import OpenCount, Rate, SourceBuckets
from discovery.shell.config import Config, load_config
from discovery.shell.daemon import Ports, listen_on, tally_of
from discovery.shell.datagrams import Datagrams
from discovery.shell.http import make_relay_application
from discovery.shell.process import run_until_signal
from discovery.shell.relay import make_relay_driver
from discovery.shell.relay_state import RelayPapers, load_relay
from discovery.shell.server import Server
from discovery.shell.state import Serving, only_service
from discovery.shell.stun import own_ips
from discovery.shell.stun_doors import open_stun
from fabric.core.machine import Calendar
from fabric.errors import ConfigurationError
from fabric.shell import clock
from fabric.shell.exit_code import sentence_of
from fabric.shell.log import Log, start_log

LOOK_S = 600.0
"""How soon a new relay.pem is taken."""

DAY_S = 86_400.0
_log = Log("discovery.relay")


class Papers:
    """The file in use, read again while the relay runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.current: RelayPapers = load_relay(directory, time.time())

    @property
    def serving(self) -> Serving:
        return self.current.serving

    def look(self) -> None:
        """Takes a new file, if it is of the same network; says when it is time for one."""
        try:
            found = load_relay(self._directory, time.time())
        except (ConfigurationError, OSError) as error:
            _log.error("relay.pem can't be used", why=sentence_of(error))
            return
        if found.trust.root.public_key != self.current.trust.root.public_key:
            _log.error("relay.pem is of another authority: restart the relay to serve it")
            return
        if found.serving.identity.certificate != self.serving.identity.certificate:
            _log.info("new certificate taken")
            self.current = found
        if time.time() >= self.serving.renew_at:
            days = round((self.current.ends - time.time()) / DAY_S, 1)
            _log.warning("the certificate of this relay ends: `discoveryd relay-invite` makes the next", in_days=days)


def run(directory: Path, environment: Mapping[str, str], options: Mapping[str, object]) -> None:
    """Serves until SIGTERM or SIGINT. Raises `ConfigurationError`, `CommandError`, `OSError` before it serves."""
    config = load_config(directory, environment, options)
    start_log(config.log_level)
    papers = Papers(directory)
    with only_service(directory):
        run_until_signal(serve, papers, config)


async def serve(papers: Papers, config: Config, task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED) -> None:
    """Serves until cancelled; started when it listens."""
    with ExitStack() as stack:
        tcp = listen_on(stack, config)
        stun = open_stun(stack, config, own_ips((*config.listen, *papers.current.hosts)))
        ports = Ports(tcp[0].getsockname()[1], stun.port)
        trust = papers.current.trust
        relay = make_relay_driver(trust, config, Calendar(clock.wall_offset()))
        server = Server(
            make_relay_application(relay),
            lambda: papers.serving,
            OpenCount(per_source=config.max_connections_per_source, overall=config.max_connections),
            SourceBuckets(Rate(config.connection_rate, config.connection_burst)),
            clock.now,
        )
        datagrams = Datagrams(stun.sockets, relay, stun.udp.handle_datagram_untrusted, clock.now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.run)
            nursery.start_soon(server.run, tcp)
            nursery.start_soon(datagrams.run)
            nursery.start_soon(stun.serve_tcp)
            nursery.start_soon(_keep_papers, papers)
            nursery.start_soon(tally_of(relay, datagrams, server, stun).run)
            _log.info("relaying", network=trust.network, port=ports.tcp, udp_port=ports.stun)
            task_status.started(ports)


async def _keep_papers(papers: Papers) -> None:
    while True:
        papers.look()
        await trio.sleep(LOOK_S)
