"""What the node wants of the host's network, done; and what comes of it, told to the node.

node --Way--> here --> side sockets | TCP connections | links to relays | names of relays
node <--tell-- here <-- TCP connections | links to relays | names | router's ports | LAN beacons
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from fabric.core import events as e
from fabric.core.beacons import BEACON_GROUP
from fabric.core.machine import Instant
from fabric.core.node import Node
from fabric.core.relays import ResolvedRelay
from fabric.shell.carriers import Carriers
from fabric.shell.endpoint import Way
from fabric.shell.late import load
from fabric.shell.links import UnderlayLink
from fabric.shell.log import Log
from fabric.shell.multicast import Multicast
from fabric.shell.proxy import Outlet
from fabric.shell.pump import Pump
from fabric.shell.relay_link import RelayLinks, Terms
from fabric.shell.relay_names import RelayNames
from fabric.shell.tcp import TcpLinks
from fabric.shell.udp import UdpSockets
from fabric.wire.address import Address, Target, address_of

if TYPE_CHECKING:
    from fabric.shell.port_mapping import PortMapper

_log = Log("fabric.network")

Tell = Callable[[Callable[[Node, Instant], None]], None]


@dataclass(frozen=True, slots=True)
class RelayTerms:
    """How relays over TLS are reached and proven; see `fabric.shell.relay_link.Terms`."""

    context: ssl.SSLContext
    check: Callable[[bytes, str], object]
    jitter: Callable[[], float]
    outlet: Outlet


class Network:
    """Implements the ways out of an endpoint, and the user of everything that comes in beside the UDP sockets.

    `device` is the overlay's own; `maps_ports` and `finds_on_lan` as the operator wishes.
    """

    def __init__(
        self,
        udp: UdpSockets,
        terms: RelayTerms,
        device: str,
        *,
        maps_ports: bool,
        mapping_nonce: bytes,
        finds_on_lan: bool,
    ) -> None:
        self._udp = udp
        self._token: trio.lowlevel.TrioToken | None = None
        self._waiting: list[Way] = []
        self._tell: Tell = lambda _say: None
        self._receive: Callable[[Sequence[tuple[bytes, Target]]], None] = lambda _batch: None
        self.outlet = terms.outlet
        self.stun_servers: tuple[Address, ...] = ()
        self.tcp = TcpLinks(udp.port, udp.drops)
        self.relay_links = RelayLinks(
            Terms(terms.context, terms.check, terms.jitter, terms.outlet), self._handle_relay_link, self._deliver
        )
        self.carriers = Carriers(udp, self.tcp, self.relay_links)
        self.relay_names = RelayNames(self._handle_relays)
        self.mapper: PortMapper | None = None
        self._maps_ports = maps_ports
        self._mapping_nonce = mapping_nonce
        self._device = device
        self._multicast = Multicast(self._deliver) if finds_on_lan else None

    def attach(self, tell: Tell, pump: Pump) -> None:
        """`tell` lets the node hear of something; `pump` takes datagrams."""
        self._tell = tell
        self._receive = pump.receive
        self.tcp.attach(self, pump.receive)

    async def run(self) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.tcp.run)
            self._token = trio.lowlevel.current_trio_token()
            waiting, self._waiting = self._waiting, []
            for way in waiting:
                self.handle_way(way)
            nursery.start_soon(self.relay_links.run)
            nursery.start_soon(self.relay_names.run)
            if self._maps_ports:
                nursery.start_soon(self._map_ports)
            if self._multicast is not None:
                nursery.start_soon(self._multicast.run)

    # what the node sends and wants

    def transmit(self, to: Address, payload: bytes) -> None:
        """Sends what the node itself has to say."""
        if to != BEACON_GROUP:
            self.carriers.transmit(to, payload)
        elif self._multicast is not None:
            self._multicast.send(self._udp.ipv4, self._udp.ipv6, payload)

    def handle_way(self, way: Way) -> None:
        """The node hears of what comes of it later, never while it is being asked."""
        if self._token is None:
            self._waiting.append(way)
            return
        match way:
            case e.SocketsWanted(count=count):
                self._token.run_sync_soon(self._tell_sockets, self.carriers.open_extra(count))
            case e.SocketsUnwanted(vias=vias):
                self.carriers.close_extra(vias)
            case e.ListenWanted(wanted=wanted):
                self.tcp.listen(wanted=wanted)
            case e.ConnectWanted(to=to):
                self.tcp.connect(to)
            case e.LinkUnwanted(link=link):
                self.tcp.close(link)
            case e.RelaysNamed(places=places):
                self.relay_names.replace(places)
            case e.RelayLinkWanted(place=place, relay=relay):
                self.relay_links.want(place, relay)
            case e.RelayLinkUnwanted(relay=relay):
                self.relay_links.unwant(relay)

    # what the host says

    def handle_links(self, links: Sequence[UnderlayLink]) -> None:
        """The links that peers may be behind."""
        if self._multicast is not None:
            self._multicast.update(links)

    def handle_moved(self, own: Sequence[str]) -> None:
        """The own addresses changed."""
        self.relay_links.handle_moved(own)
        self.relay_names.look_again()
        if self.mapper is not None:
            self.mapper.look_again()

    def handle_stun_servers(self, servers: Sequence[Address]) -> None:
        self.stun_servers = tuple(servers)
        self.tcp.handle_stun_servers(servers)

    def handle_too_long(self, refused: Sequence[tuple[Target, int]]) -> None:
        told = [(address_of(target), payload_bytes) for target, payload_bytes in refused]
        self._tell(lambda node, now: node.handle_too_long(told, now))

    # what TCP says; see `fabric.shell.tcp.LinkUser`

    def handle_link(self, link: Address, asked: Address | None) -> None:
        self._tell(lambda node, now: node.handle_link(link, asked, now))

    def handle_link_lost(self, link: Address, why: str) -> None:
        _log.debug("a TCP connection is lost", link=link, why=why)
        self._tell(lambda node, now: node.handle_link_lost(link, now))

    def handle_connect_failed(self, to: Address, why: str) -> None:
        self._tell(lambda node, now: node.handle_connect_failed(to, why, now))

    def handle_listening(self, *, up: bool) -> None:
        self._tell(lambda node, now: node.handle_listening(up=up, now=now))

    def handle_tcp_reflexive(self, addresses: Sequence[Address]) -> None:
        self._tell(lambda node, now: node.handle_tcp_reflexive(addresses, now))

    # what all else says

    async def _map_ports(self) -> None:
        await load("fabric.shell.port_mapping")
        from fabric.shell.port_mapping import PortMapper

        self.mapper = PortMapper(self._udp.port, self._handle_mapped, device=self._device, nonce=self._mapping_nonce)
        await self.mapper.run()

    def _tell_sockets(self, vias: tuple[int, ...]) -> None:
        self._tell(lambda node, now: node.handle_sockets(vias, now))

    def _deliver(self, batch: Sequence[tuple[bytes, Target]]) -> None:
        self._receive(batch)

    def _handle_relays(self, resolved: Sequence[ResolvedRelay]) -> None:
        self._tell(lambda node, now: node.handle_relays(resolved, now))

    def _handle_relay_link(self, relay: Address, up: bool) -> None:
        self._tell(lambda node, now: node.handle_relay_link(relay, up=up, now=now))

    def _handle_mapped(self, addresses: Sequence[Address]) -> None:
        self._tell(lambda node, now: node.handle_mapped(addresses, now))
