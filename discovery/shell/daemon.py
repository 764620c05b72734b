"""`discoveryd run`: the nursery tree of a running service.

signals | HTTPS | STUN (UDP, TCP) | driver (timeouts, store) | renewal of the TLS certificate | watchdog
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import trio

from discovery.core.limits import OpenCount, Rate, SourceBuckets
from discovery.core.service import Service
from discovery.shell.config import Config, load_config
from discovery.shell.datagrams import Datagrams
from discovery.shell.driver import ServiceDriver
from discovery.shell.http import make_application
from discovery.shell.listen import close_all, open_listeners
from discovery.shell.process import run_until_signal
from discovery.shell.relay import RelayDriver, make_relay_driver
from discovery.shell.server import Server
from discovery.shell.state import Serving, State, load_serving, only_service, open_state
from discovery.shell.stun import own_ips
from discovery.shell.stun_doors import StunDoors, open_stun
from discovery.shell.tally import Tally
from fabric.core.machine import Calendar
from fabric.errors import FabricError
from fabric.identity.grant import MAX_SERVICE_CERTIFICATE_BYTES
from fabric.identity.trust import Trust
from fabric.shell import clock
from fabric.shell.exit_code import sentence_of
from fabric.shell.log import Log, start_log

RENEWAL_CHECK_S = 600.0
RENEWAL_RETRY_S = 60.0
"""Where it is due: somebody may have brought it from an authority that is away."""

_log = Log("discovery.daemon")


@dataclass(frozen=True, slots=True)
class Ports:
    """What is really listened on, where the configuration says 0."""

    tcp: int
    stun: int


class Certificate:
    """The TLS certificate in use, replaced while the service runs."""

    def __init__(self, state: State, config: Config) -> None:
        self._state = state
        self._config = config
        self.serving: Serving = load_serving(state, config, time.time())

    def renew_if_due(self, service: Service) -> None:
        if time.time() < self.serving.renew_at:
            return
        try:
            renewed = load_serving(self._state, self._config, time.time())
        except (FabricError, OSError) as error:
            _log.error("the service certificate can't be renewed", why=sentence_of(error))
            return
        if renewed.identity.certificate == self.serving.identity.certificate:
            _log.warning("the service certificate is to be renewed by the authority: discoveryd requests")
            return
        self.serving = renewed
        service.replace_identity(self.serving.identity)
        _log.info("service certificate renewed")


def run(directory: Path, environment: Mapping[str, str], options: Mapping[str, object]) -> None:
    """Serves until SIGTERM or SIGINT. Raises `ConfigurationError`, `CommandError`, `OSError` before it serves."""
    config = load_config(directory, environment, options)
    start_log(config.log_level)
    with open_state(directory, environment) as state, only_service(directory):
        run_until_signal(serve, state, config)


async def serve(state: State, config: Config, task_status: trio.TaskStatus[Ports] = trio.TASK_STATUS_IGNORED) -> None:
    """Serves until cancelled; started when it listens."""
    with ExitStack() as stack:
        tcp = listen_on(stack, config)
        stun = open_stun(stack, config, _own_ips(state, config))
        ports = Ports(tcp[0].getsockname()[1], stun.port)
        certificate = Certificate(state, config)
        calendar = Calendar(clock.wall_offset())
        relay = make_relay(state, config, calendar) if config.relay else None
        service, driver = _make_service(state, config, ports, certificate, calendar, relay)
        server = Server(
            make_application(driver, relay),
            lambda: certificate.serving,
            OpenCount(per_source=config.max_connections_per_source, overall=config.max_connections),
            SourceBuckets(Rate(config.connection_rate, config.connection_burst)),
            clock.now,
        )
        datagrams = Datagrams(stun.sockets, relay, stun.udp.handle_datagram_untrusted, clock.now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            nursery.start_soon(server.run, tcp)
            nursery.start_soon(datagrams.run)
            if relay is not None:
                nursery.start_soon(relay.run)
            nursery.start_soon(stun.serve_tcp)
            nursery.start_soon(_keep_certificate, certificate, service)
            nursery.start_soon(tally_of(relay, datagrams, server, stun, {"service": service.counters}).run)
            if len(certificate.serving.identity.certificate) > MAX_SERVICE_CERTIFICATE_BYTES:
                _log.warning("no relay can be granted: the service has too many addresses, or too long ones")
            _log.info("serving", network=service.network, port=ports.tcp, stun_port=ports.stun)
            task_status.started(ports)


def tally_of(
    relay: RelayDriver | None,
    datagrams: Datagrams,
    server: Server,
    stun: StunDoors,
    more: Mapping[str, Counter[str]] = MappingProxyType({}),
) -> Tally:
    parts = {"HTTPS": server.counters, "UDP": datagrams.counters, **stun.counters, **more}
    return Tally(parts if relay is None else {"relay": relay.relay.counters, **parts})


def make_relay(state: State, config: Config, calendar: Calendar) -> RelayDriver:
    """The relay in this process. Who was revoked before its start is told to it here, and later by the driver."""
    trust = Trust(state.root.der, state.root.network, None)
    relay = make_relay_driver(trust, config, calendar)
    for record in state.store.endpoints():
        if record.revoked is not None:
            relay.revoke(record.public_key)
    return relay


def _make_service(
    state: State,
    config: Config,
    ports: Ports,
    certificate: Certificate,
    calendar: Calendar,
    relay: RelayDriver | None,
) -> tuple[Service, ServiceDriver]:
    service = Service(
        state.signatory(config),
        state.store,
        certificate.serving.identity,
        os.urandom,
        calendar,
        state.settings(config, ports.tcp, ports.stun),
        clock.now(),
    )
    return service, ServiceDriver(service, state.store, calendar, relay)


async def _keep_certificate(certificate: Certificate, service: Service) -> None:
    while True:
        wait_s = certificate.serving.renew_at - time.time()
        await trio.sleep(min(RENEWAL_CHECK_S, wait_s) if wait_s > 0 else RENEWAL_RETRY_S)
        certificate.renew_if_due(service)


def listen_on(stack: ExitStack, config: Config) -> list[socket.socket]:
    """Returns listeners for HTTPS that are closed with `stack`. Raises `ConfigurationError`."""
    listeners = open_listeners(config.listen, config.port, socket.SOCK_STREAM)
    stack.callback(close_all, listeners)
    return listeners


def _own_ips(state: State, config: Config) -> list[str]:
    """Returns the IPs to answer STUN from: of two in a family, either may be wished."""
    return own_ips((*config.listen, *(host for host, _ in state.addresses(config))))
