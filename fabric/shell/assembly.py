"""Opens everything that a daemon needs, in an order in which nothing is lost, and joins it.

    lock -> papers -> custodian -> keystore -> TAP -> UDP -> control socket -> node -> wishes

The control socket listens before the wishes are taken: a command that finds none has stored its wish in time.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from fabric.core.entanglement import Entangle
from fabric.core.identity import Identity
from fabric.core.machine import Calendar
from fabric.core.node import Node
from fabric.core.own_addresses import Interface
from fabric.core.records import PeerRecord
from fabric.core.settings import Settings
from fabric.crypto.aead import offered_suites
from fabric.custody.contract import Custodian
from fabric.dataplane.native import NativeLane
from fabric.errors import ConfigurationError
from fabric.shell import clock
from fabric.shell.config import Config, control_path
from fabric.shell.control import listen
from fabric.shell.custody import Way, open_custody
from fabric.shell.endpoint import Endpoint, Surroundings
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.flood_guard import FloodGuard
from fabric.shell.keystore import Keystore
from fabric.shell.lane_threads import LaneThreads
from fabric.shell.lanes import ChosenLane, choose_lane
from fabric.shell.lock import only_one
from fabric.shell.log import Log
from fabric.shell.network import Network, RelayTerms
from fabric.shell.papers import Papers, load_papers
from fabric.shell.proxy import outlet_of
from fabric.shell.pump import Pump
from fabric.shell.rotation import load_statements, take_over_if_due
from fabric.shell.service_link import Patience
from fabric.shell.service_links import ServiceLinks
from fabric.shell.stun import StunNames
from fabric.shell.tap import Tap, open_tap
from fabric.shell.tls import context_under
from fabric.shell.udp import UdpSockets, open_udp_sockets
from fabric.wire.address import Address
from fabric.wire.record import overlay_mtu

if TYPE_CHECKING:
    from fabric.dataplane.reference import ReferenceLane

_PORT = "port"
_MAPPING_NONCE = "mapping_nonce"

_log = Log("fabric.daemon")


@dataclass
class Parts:
    """What `prepare` has opened, to be run together."""

    config: Config
    papers: Papers
    custody: str
    identity: Identity
    calendar: Calendar
    node: Node
    chosen: ChosenLane
    tap: Tap
    udp: UdpSockets
    listener: socket.socket
    endpoint: Endpoint = field(init=False)
    pump: Pump = field(init=False)
    stun: StunNames = field(init=False)
    service: ServiceLinks = field(init=False)
    network: Network = field(init=False)
    started: float = field(default_factory=clock.now)

    @property
    def lane(self) -> NativeLane | ReferenceLane:
        return self.chosen.lane

    @property
    def mtu(self) -> int:
        return self.config.mtu or overlay_mtu(self.config.path_mtu)

    @property
    def service_addresses(self) -> tuple[str, ...]:
        return self.config.service or self.papers.network.service

    def overlay_interfaces(self) -> list[Interface]:
        """Returns the own overlay addresses, each with the range of the LAN that it is in."""
        ranges = [ip_network(text) for text in self.papers.network.overlay]
        lengths = {network.version: network.prefixlen for network in ranges}
        return [
            ip_interface(f"{address}/{lengths.get(address.version, address.max_prefixlen)}")
            for address in self.identity.certificate.addresses
        ]

    # the outlet of the endpoint

    def transmit(self, to: Address, payload: bytes) -> None:
        self.network.transmit(to, payload)

    def flush(self) -> None:
        self.pump.flush()


@contextmanager
def prepare(state: Path, config: Config, way: Way, environment: Mapping[str, str]) -> Iterator[Parts]:
    """Opens everything that a daemon needs; `way` leads to its keys. Raises `ConfigurationError`, `CommandError`,
    `OSError`."""
    papers = load_papers(state)
    with ExitStack() as opened:
        opened.enter_context(only_one(state))
        custodian = opened.enter_context(open_custody(way, name=papers.certificate.name))
        keystore = opened.enter_context(Keystore(state, custodian.storage_key, os.urandom))
        calendar = Calendar(clock.wall_offset())
        custodian.forget_secrets(calendar.unix(clock.now()))
        identity = _identity(papers, custodian, keystore)
        tap = _open_tap(config, identity)
        opened.callback(tap.close)
        udp = _open_udp(config, keystore)
        opened.callback(udp.close)
        listener = opened.enter_context(listen(control_path(state, config), config.control_group))
        chosen = choose_lane(
            config.lane,
            identity.certificate.mac,
            identity.certificate.addresses,
            udp.segments,
            config.cipher_library,
        )
        node = Node(identity, chosen.lane, calendar, os.urandom, _settings(config), _records(keystore), clock.now())
        parts = Parts(config, papers, custodian.custody, identity, calendar, node, chosen, tap, udp, listener)
        _join(parts, state, keystore, custodian, environment)
        parts.endpoint.settle()
        parts.endpoint.fulfil_waiting()
        try:
            yield parts
        finally:
            control_path(state, config).unlink(missing_ok=True)


def _identity(papers: Papers, custodian: Custodian, keystore: Keystore) -> Identity:
    take_over_if_due(custodian, papers.certificate)
    return Identity(
        name=papers.certificate.name,
        network=papers.network_name,
        certificate=papers.certificate,
        trust=papers.trust(),
        signer=custodian,
        opener=custodian,
        bundle=custodian.bundle,
        rotations=tuple(load_statements(keystore)),
    )


def _records(keystore: Keystore) -> list[PeerRecord]:
    records, unreadable = keystore.load_records()
    for name in unreadable:
        _log.error("what was stored of a peer can't be read: remove it and add it again", peer=name)
    return records


def _settings(config: Config) -> Settings:
    names = ("keepalive_s", "rekey_after_s", "session_life_s", "straggler_s", "stun_interval_s")
    more = ("intent_life_s", "offer_life_s", "relay_copies", "find_on_lan", "ask_peers")
    tuned = {name: value for name in names + more if (value := getattr(config, name)) is not None}
    return Settings(
        suites=offered_suites(config.cipher),
        path_mtu=config.path_mtu,
        entangle=Entangle(config.entangle),
        **tuned,
    )


def _open_tap(config: Config, identity: Identity) -> Tap:
    try:
        return open_tap(config.device, identity.certificate.mac)
    except ConfigurationError as error:
        if isinstance(error.__cause__, PermissionError | FileNotFoundError):
            raise CommandError(ExitCode.NOT_PERMITTED, str(error)) from error
        raise


def _open_udp(config: Config, keystore: Keystore) -> UdpSockets:
    """Keeps the port that was drawn: peers that know it find this endpoint again without the service."""
    if config.port:
        return open_udp_sockets(config.port)
    try:
        udp = open_udp_sockets(int(keystore.fact(_PORT) or 0))
    except ConfigurationError:
        udp = open_udp_sockets(0)
    keystore.note_fact(_PORT, str(udp.port))
    return udp


def _mapping_nonce(keystore: Keystore) -> bytes:
    """The same after a restart: the gateway knows its client by it, and gives it the port that it had."""
    if (kept := keystore.fact(_MAPPING_NONCE)) is None:
        from fabric.wire.pcp import NONCE_BYTES  # here, because a host needs it once in its life

        kept = os.urandom(NONCE_BYTES).hex()
        keystore.note_fact(_MAPPING_NONCE, kept)
    return bytes.fromhex(kept)


def _join(parts: Parts, state: Path, keystore: Keystore, custodian: Custodian, environment: Mapping[str, str]) -> None:
    config, papers, identity = parts.config, parts.papers, parts.identity

    def handle_stun_names(names: tuple[str, ...]) -> None:
        if not config.stun:
            parts.stun.replace(names)

    def handle_stun_servers(servers: Sequence[Address]) -> None:
        parts.endpoint.handle_stun_servers(servers)
        parts.network.handle_stun_servers(servers)

    def check(certificate: bytes, host: str) -> None:
        identity.trust.check_service(certificate, host, parts.calendar.unix(clock.now()))

    def check_relay(certificate: bytes, host: str) -> None:
        identity.trust.check_relay(certificate, host, parts.calendar.unix(clock.now()))

    context, jitter = context_under(papers.authority), random.SystemRandom().random
    outlet = outlet_of(config.proxy, environment)
    parts.network = network = Network(
        parts.udp,
        RelayTerms(context, check_relay, jitter, outlet),
        parts.tap.name,
        maps_ports=config.port_mapping,
        mapping_nonce=_mapping_nonce(keystore),
        finds_on_lan=config.find_on_lan,
    )
    around = Surroundings(
        state,
        identity,
        parts.calendar,
        keystore,
        custodian,
        clock.now,
        handle_stun_names,
        network.handle_way,
    )
    parts.endpoint = endpoint = Endpoint(around, parts.node, parts)
    parts.pump = Pump(
        parts.lane,
        parts.tap,
        network.carriers,
        endpoint.handle_leftover,
        endpoint.handle_reports,
        network.handle_too_long,
        LaneThreads(parts.lane, parts.tap, parts.udp) if isinstance(parts.lane, NativeLane) else None,
        FloodGuard(parts.lane, parts.udp, lambda: parts.node.open_gates),
    )
    network.attach(endpoint.tell, parts.pump)
    parts.stun = StunNames(config.stun or papers.network.stun, handle_stun_servers)
    parts.service = ServiceLinks(
        parts.service_addresses,
        context,
        check,
        endpoint,
        Patience(config.service_retry_s, config.service_retry_limit_s, config.service_silence_s),
        jitter,
        outlet,
    )
    endpoint.attach(parts.service)
