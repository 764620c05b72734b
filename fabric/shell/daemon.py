"""`fabricd`: one endpoint, in the foreground, until SIGTERM.

    pump | driver | links | clock | service link | STUN names | control | watchdog | signals

Whatever ends one of these tasks ends all of them, and systemd starts the daemon again.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from fabric import __version__
from fabric.core.own_addresses import Interface
from fabric.core.status import PeerState
from fabric.crypto.aead import offered_suites
from fabric.errors import FabricError
from fabric.shell import clock
from fabric.shell.assembly import Parts, prepare
from fabric.shell.config import Config
from fabric.shell.control import serve_control
from fabric.shell.control_wire import EndpointReport
from fabric.shell.custody import Way
from fabric.shell.endpoint import Endpoint
from fabric.shell.files import allow_many_files
from fabric.shell.links import watch_links
from fabric.shell.log import Log, start_log
from fabric.shell.notify import READY, STOPPING, keep_watchdog, notify
from fabric.shell.questions import Questions
from fabric.shell.report import counted, mac_text, report_certificate
from fabric.shell.tls import context_under
from fabric.wire.address import Transport

if TYPE_CHECKING:
    from fabric.shell.checks.network import NetworkView
    from fabric.shell.doctor import Doctor

SLEPT_S = 1.0
HEAD_START_S = 0.1
"""The device waits so long for a first peer that is known. A handshake on a LAN takes a tenth of it; a frame that came
before would be lost, and a host that asks for its neighbour asks again only after a second."""
CALL_HEAD_START_S = 0.03
"""All other ways out wait so long for the device: what they need is still to be loaded, which takes the time that
frames and handshakes want."""

_SOUGHT = (PeerState.INTRODUCED, PeerState.CONNECTING)
_log = Log("fabric.daemon")


def serve(state: Path, config: Config, way: Way) -> None:
    """Runs the daemon that keeps its state in `state`, and whose keys are at the end of `way`.

    Raises `ConfigurationError`, `CommandError`, `OSError`; of several errors at once, one that is meant for a person.
    """
    start_log(config.log_level)
    allow_many_files()
    with prepare(state, config, way, os.environ) as parts:
        try:
            trio.run(run, parts)
        except BaseExceptionGroup as errors:
            raise _cause(errors) from errors


async def run(parts: Parts) -> None:
    """Serves until SIGTERM or SIGINT. First come the peers that are known, then the device, then the service."""
    endpoint = parts.endpoint
    questions = Questions(endpoint, lambda: report_endpoint(parts), lambda: _call_doctor(parts))
    is_set_up = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(_watch_links, parts)
            nursery.start_soon(endpoint.run)
            await nursery.start(parts.pump.run)
            nursery.start_soon(_reach_out, parts, is_set_up)
            await meet_known_peers(endpoint, HEAD_START_S)
            await parts.tap.configure(parts.identity.certificate.mac, parts.mtu, parts.overlay_interfaces())
            is_set_up.set()
            nursery.start_soon(_watch_clock, endpoint)
            nursery.start_soon(serve_control, parts.listener, questions.answer)
            nursery.start_soon(keep_watchdog)
            _log.info("ready", name=parts.identity.name, device=parts.tap.name, custody=parts.custody)
            notify(READY)
            await anext(signals)
            notify(STOPPING)
            _log.info("stopping")
            endpoint.close()
            nursery.cancel_scope.cancel()


def _cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    told, _ = errors.split((FabricError, OSError))
    error: BaseException = told or errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def report_endpoint(parts: Parts) -> EndpointReport:
    identity, config, endpoint = parts.identity, parts.config, parts.endpoint
    certificate = identity.certificate
    drops = {reason.value: count for reason, count in parts.lane.drops().items()}
    return EndpointReport(
        name=identity.name,
        network=identity.network,
        addresses=tuple(str(address) for address in certificate.addresses),
        mac=mac_text(certificate.mac),
        device=parts.tap.name,
        cipher=offered_suites(config.cipher)[0].label,
        certificate=report_certificate(certificate, parts.calendar.unix(clock.now())),
        discovery="connected" if endpoint.is_service_up else "unreachable",
        discovery_why=parts.service.why,
        fingerprint=certificate.fingerprint,
        custody=parts.custody,
        lane=parts.chosen.name,
        cipher_provider=parts.chosen.provider,
        port=parts.udp.port,
        mtu=parts.mtu,
        underlay=tuple(str(interface.ip) for interface in endpoint.interfaces),
        drops=counted({**drops, **endpoint.counters}),
        version=__version__,
        uptime_s=round(clock.now() - parts.started, 3),
    )


def look(parts: Parts) -> NetworkView:
    """Returns what the daemon knows of the network at this moment."""
    from fabric.shell.checks.network import NetworkView, RelayView, ServiceLinkView

    node, network = parts.node, parts.network
    links = {link.address: link for link in parts.service.links}
    return NetworkView(
        here=node.here(),
        interfaces=parts.endpoint.interfaces,
        candidates=node.candidates,
        lifetime_s=node.mapping_lifetime_s,
        port_mapping=network.mapper.report if network.mapper is not None else None,
        services=tuple(
            ServiceLinkView(address, links[address].is_up, why=links[address].why)
            if address in links
            else ServiceLinkView(address, is_up=False, why="not in use: two channels are enough")
            for address in parts.service_addresses
        ),
        relays=tuple(
            RelayView(
                state.place,
                state.address.transport if state.address is not None else Transport.RELAY_UDP,
                state.channels,
                why="" if state.address is not None else "no answer",
            )
            for state in node.relays.states()
        ),
        stun=network.stun_servers,
        stun_names=parts.stun.names,
        clock_offset_s=parts.endpoint.clock_offset_s,
        outlet=network.outlet,
    )


def _call_doctor(parts: Parts) -> Doctor:
    from fabric.shell.doctor import Doctor

    return Doctor(lambda: look(parts), parts.endpoint.peers, context_under(parts.papers.authority))


# tasks


async def meet_known_peers(endpoint: Endpoint, within_s: float) -> None:
    """Returns when the first of them is connected, or time is over; at once where there are none."""

    def states() -> set[PeerState]:
        return {peer.state for peer in endpoint.peers()}

    if not states().isdisjoint(_SOUGHT):
        await endpoint.wait_until(lambda: PeerState.CONNECTED in states(), within_s)


async def _reach_out(parts: Parts, is_set_up: trio.Event) -> None:
    """Keeps open all that peers may be found by, beside the UDP sockets."""
    if parts.endpoint.peers():
        with trio.move_on_after(CALL_HEAD_START_S):
            await is_set_up.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.service.run)
        nursery.start_soon(parts.stun.run)
        nursery.start_soon(parts.network.run)


async def _watch_links(parts: Parts, task_status: trio.TaskStatus[None]) -> None:
    has_looked = False

    def handle(interfaces: tuple[Interface, ...]) -> None:
        nonlocal has_looked
        parts.endpoint.handle_interfaces(interfaces, parts.udp.port)
        if has_looked:
            parts.stun.look_again()
            parts.network.handle_moved([str(interface.ip) for interface in interfaces])
        else:
            has_looked = True
            task_status.started()

    await watch_links(parts.tap.name, handle, handle_links=parts.network.handle_links)


async def _watch_clock(endpoint: Endpoint) -> None:
    asleep_s = clock.asleep_s()

    def handle_set() -> None:
        nonlocal asleep_s
        before, asleep_s = asleep_s, clock.asleep_s()
        endpoint.handle_clock(clock.wall_offset(), has_slept=asleep_s - before > SLEPT_S)

    await clock.watch_clock(handle_set)
