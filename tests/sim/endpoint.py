"""An endpoint of the simulated world: the product's node and reference lane, driven as its daemon drives them.

The drain after every call: events become durable first, then datagrams and messages leave, then the lane's
outputs, until nothing is left; last of all the next timeout is armed. `kill` and `start` keep the disk alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from fabric.core.events import (
    ConnectWanted,
    Event,
    LinkUnwanted,
    ListenWanted,
    Pong,
    RelayLinkUnwanted,
    RelayLinkWanted,
    RelaysNamed,
    ServiceRejected,
    SocketsUnwanted,
    SocketsWanted,
)
from fabric.core.machine import Calendar, Draw
from fabric.core.node import Node
from fabric.core.relays import ResolvedRelay
from fabric.core.settings import Settings
from fabric.core.status import PathKind, PeerState, PeerStatus
from fabric.wire.address import Address, Transport, address_of, target_of
from fabric.wire.beacon import GROUP_4
from fabric.wire.beacon import PORT as BEACON_PORT
from fabric.wire.rendezvous import ToEndpoint, ToService
from tests.sim.disk import Disk
from tests.sim.edge import Edge
from tests.sim.frames import BROADCAST, Marked, bare, make_frame, with_vnet
from tests.sim.lane import WitnessedLane
from tests.sim.line import Line
from tests.sim.link import Socket
from tests.sim.network import Host
from tests.sim.papers import Papers
from tests.sim.place import Place
from tests.sim.schedule import Appointment, Schedule
from tests.sim.witness import Witness

EPOCH = 1_900_000_000.0
"""The world's wall clock at instant 0."""

RECONNECT_S = (1.0, 2.0, 4.0, 8.0)
MAPPING_S = 0.3
"""How long a router takes to forward a port."""


class Service(Protocol):
    """What an endpoint sees of the discovery service's site."""

    @property
    def is_up(self) -> bool: ...

    @property
    def tls_certificate(self) -> bytes: ...

    def open_line(self, endpoint: Endpoint, opened: Callable[[Line | None], None]) -> None:
        """Calls `opened` with a line, or None where the service cannot be reached."""


class Endpoint:
    """`node` and `lane` are None while the daemon is not running."""

    def __init__(
        self,
        host: Host,
        disk: Disk,
        service: Service,
        witness: Witness,
        schedule: Schedule,
        draw: Draw,
        *,
        settings: Settings | None = None,
        clock_error_s: float = 0.0,
    ) -> None:
        certificate = disk.load_identity().certificate
        self.name = certificate.name
        self.mac = certificate.mac
        self.host = host
        self.disk = disk
        self.settings = settings or Settings()
        self.calendar = Calendar(EPOCH + clock_error_s)
        self.node: Node | None = None
        self.lane: WitnessedLane | None = None
        self.place: Place | None = None
        self.events: list[tuple[float, Event]] = []
        self.edge = Edge(host, self, schedule, draw)
        self.watch: Callable[[Event], None] | None = None
        """Is told every event of the node."""
        self._added: set[str] = set()
        self._disabled: set[str] = set()
        self._service = service
        self.seen_by = self._witness = witness
        self._schedule = schedule
        self._draw = draw
        self._papers = Papers(disk, self.calendar, schedule, draw)
        self._has_moved_asleep = False
        self._line: Line | None = None
        self._connecting = False
        self._failures = 0
        self._wake: Appointment | None = None
        self._next_frame = int.from_bytes(draw(4)) << 24
        witness.name_mac(self.name, self.mac)

    # power

    def start(self) -> None:
        """Starts the daemon from what is on the disk."""
        now = self._schedule.now
        identity = self.disk.load_identity()
        self.lane = WitnessedLane(identity.certificate, self._witness)
        self.node = Node(identity, self.lane, self.calendar, self._draw, self.settings, self.disk.load_records(), now)
        self.edge.open()
        self.host.join_group((GROUP_4, BEACON_PORT), self._receive_beacon)
        self.node.handle_interfaces(self.host.interfaces, self.edge.port, now)
        self.node.handle_stun_servers([Address(*server) for server in self._papers.servers], now)
        self._settle()
        self._map_port()
        self._connect()

    def kill(self) -> None:
        """`kill -9`: memory is gone, the kernel closes the sockets, the disk stays."""
        self.node = self.lane = None
        self.edge.close()
        self.host.leave_groups()
        self._witness.see_power_loss(self.name)
        if self._wake is not None:
            self._wake.cancel()
        if self._line is not None:
            self._line.close_by_endpoint()
            self._line = None

    def stop(self) -> None:
        """SIGTERM: peers are told."""
        self._on().close(self._schedule.now)
        self._settle()
        self.kill()

    def suspend(self) -> None:
        """The lid is closed: nothing runs, nothing is received, and the clock goes on."""
        self.host.awake = False
        if self._line is not None:
            self._line.cut(endpoint_notices_s=float(10**9))

    def resume(self) -> None:
        self.host.awake = True
        line, self._line = self._line, None
        if line is not None:
            line.close_by_endpoint()
            self._on().handle_service_lost(line.number, self._schedule.now)
        self._handle_wake()
        if self._has_moved_asleep:
            self._has_moved_asleep = False
            self.handle_network_changed()
        self._connect()

    # wishes

    def add(self, peer: str, fingerprint: str | None = None) -> None:
        self._added.add(peer)
        self._tell_witness(peer)
        self._on().add(peer, fingerprint, self._schedule.now)
        self._settle()

    def remove(self, peer: str) -> None:
        self._added.discard(peer)
        self._disabled.discard(peer)
        self._tell_witness(peer)
        self._on().remove(peer, self._schedule.now)
        self._settle()

    def disable(self, peer: str) -> None:
        self._disabled |= {peer} & self._added
        self._tell_witness(peer)
        self._on().disable(peer, self._schedule.now)
        self._settle()

    def enable(self, peer: str) -> None:
        self._disabled.discard(peer)
        self._tell_witness(peer)
        self._on().enable(peer, self._schedule.now)
        self._settle()

    def reset_trust(self, peer: str, *, key: bool = False) -> None:
        self._on().reset_trust(peer, key=key, now=self._schedule.now)
        self._settle()

    def say_to_service(self, message: ToService) -> None:
        """Whatever a careless or a hostile endpoint would say on its own line."""
        if self._line is None:
            raise ValueError(f"{self.name} has no line")
        self._line.say_to_service(message)

    def _tell_witness(self, peer: str) -> None:
        if peer in self._added - self._disabled:
            self._witness.wish(self.name, peer)
        else:
            self._witness.withdraw(self.name, peer)

    # frames

    def send_frame(self, to: Endpoint | None, length: int = 64) -> int:
        """Sends a marked frame to a peer, or to everyone; returns its number."""
        self._next_frame += 1
        data = make_frame(self._next_frame, self.mac, to.mac if to else BROADCAST, length)
        self.send_raw_frame(Marked(self._next_frame, self.name, to.name if to else None, data))
        return self._next_frame

    def send_raw_frame(self, frame: Marked) -> None:
        self._witness.see_sent(frame)
        if self.lane is not None and self.host.awake:
            self.lane.handle_frames([with_vnet(frame.data)], self._schedule.now)
            self._settle()

    def ping(self, peer: str, token: int) -> bool:
        sent = self._on().ping(peer, token, self._schedule.now)
        self._settle()
        return sent

    # the network around

    def sit(self, place: Place) -> None:
        """Moves to a place; a running daemon hears of its new addresses as netlink tells them."""
        self.host.leave_all()
        place.seat(self.host)
        self.place = place
        if not self.host.awake:
            self._has_moved_asleep = True
        elif self.node is not None:
            self.handle_network_changed()

    def handle_network_changed(self, notices_s: float = 0.5) -> None:
        """TCP over the old address or the old NAT is dead; `notices_s` until this end sees that of the service's."""
        if self._line is not None:
            self._line.cut(endpoint_notices_s=notices_s)
        self.edge.lose_connections()
        if self.node is not None:
            self.node.handle_interfaces(self.host.interfaces, self.edge.port, self._schedule.now)
            self._settle()
            self._map_port()
            self.edge.ask_servers(self._papers.servers)

    def lose_line(self) -> None:
        """The way to the service is gone without a word, as when a NAT on it has rebooted."""
        if self._line is not None:
            self._line.cut()

    def set_clock(self, error_s: float) -> None:
        self._on().handle_clock_set(EPOCH + error_s, self._schedule.now)
        self._settle()

    # what is to be seen

    def status(self) -> dict[str, PeerStatus]:
        return {} if self.node is None else {status.name: status for status in self.node.status(self._schedule.now)}

    def state_of(self, peer: Endpoint) -> PeerState | None:
        status = self.status().get(peer.name)
        return None if status is None else status.state

    def path_to(self, peer: Endpoint) -> PathKind | None:
        """The class of the path to a connected peer."""
        status = self.status().get(peer.name)
        if status is None or status.path is None or status.state is not PeerState.CONNECTED:
            return None
        return status.path.kind

    def pongs(self) -> list[Pong]:
        return [event for _, event in self.events if isinstance(event, Pong)]

    @property
    def port(self) -> int:
        return self.edge.port

    @property
    def is_online(self) -> bool:
        """Whether TCP to the internet would work from here."""
        return self.host.awake and self.host.is_plugged

    @property
    def outside_ip(self) -> str:
        """The address that the internet sees this host under."""
        if self.place is not None and self.place.routers:
            return next(iter(self.place.routers[-1].own_ips))
        return str(self.host.interfaces[0].ip)

    # the driver

    def handle_line_message(self, line: Line, message: ToEndpoint) -> None:
        if self.node is not None and line is self._line and self.host.awake:
            self.node.handle_service_message(line.number, message, self._schedule.now)
            self._settle()

    def handle_line_lost(self, line: Line) -> None:
        if self.node is None or line is not self._line:
            return
        self._line = None
        self.node.handle_service_lost(line.number, self._schedule.now)
        self._settle()
        self._connect()

    # what the edge takes in

    def take_payload(self, source: Address, payload: bytes) -> None:
        node, lane = self.node, self.lane
        if node is None or lane is None:
            return
        now = self._schedule.now
        for left, sender in lane.handle_datagrams([(payload, target_of(source))], now):
            node.handle_datagram(address_of(sender), left, now)
        self._settle()

    def take_link(self, link: Address, asked: Address | None) -> None:
        self._tell(lambda node: node.handle_link(link, asked, self._schedule.now))

    def take_link_lost(self, link: Address) -> None:
        self._tell(lambda node: node.handle_link_lost(link, self._schedule.now))

    def take_connect_failed(self, to: Address, why: str) -> None:
        self._tell(lambda node: node.handle_connect_failed(to, why, self._schedule.now))

    def take_listening(self, *, up: bool) -> None:
        self._tell(lambda node: node.handle_listening(up=up, now=self._schedule.now))

    def take_tcp_reflexive(self, addresses: tuple[Address, ...]) -> None:
        self._tell(lambda node: node.handle_tcp_reflexive(addresses, self._schedule.now))

    def take_relay_link(self, relay: Address, *, up: bool) -> None:
        self._tell(lambda node: node.handle_relay_link(relay, up=up, now=self._schedule.now))

    def _receive_beacon(self, source: Socket, payload: bytes) -> None:
        self.take_payload(Address(*source), payload)

    def _tell(self, say: Callable[[Node], None]) -> None:
        if self.node is not None and self.host.awake:
            say(self.node)
            self._settle()

    # the driver

    def _handle_wake(self) -> None:
        if self.node is None or self.lane is None or not self.host.awake:
            return
        self.lane.handle_timeout(self._schedule.now)
        self.node.handle_timeout(self._schedule.now)
        self._settle()

    def _settle(self) -> None:
        """Drains node and lane to nothing, and arms the next timeout."""
        node, lane = self.node, self.lane
        if node is None or lane is None:
            return
        while self._drain_node(node) | self._drain_lane(node, lane):
            if self.node is not node:
                return
        self._arm(node, lane)

    def _drain_node(self, node: Node) -> bool:
        busy = False
        while (event := node.poll_event()) is not None:
            busy = True
            self.events.append((self._schedule.now, event))
            self._handle_event(node, event)
            if self.watch is not None:
                self.watch(event)
        if busy:
            node.handle_stored(self._schedule.now)
        while (transmit := node.poll_transmit()) is not None:
            self.edge.send(transmit.to, transmit.payload)
        while (message := node.poll_message()) is not None:
            if self._line is not None and self._line.number == message[0]:
                self._line.say_to_service(message[1])
        return busy

    def _drain_lane(self, node: Node, lane: WitnessedLane) -> bool:
        now = self._schedule.now
        for payload, to in lane.take_datagrams():
            self.edge.send(address_of(to), payload)
        for item in lane.take_frames():
            self._witness.see_delivered(self.name, bare(item), now)
        controls, traffic = lane.take_controls(), lane.take_traffic()
        for control in controls:
            node.handle_control(control, now)
        if traffic:
            node.handle_traffic(traffic, now)
        return bool(controls or traffic)

    def _arm(self, node: Node, lane: WitnessedLane) -> None:
        due = min((at for at in (node.next_timeout(), lane.next_timeout()) if at is not None), default=None)
        if self._wake is not None:
            if self._wake.is_pending and self._wake.when == due:
                return
            self._wake.cancel()
        self._wake = None if due is None else self._schedule.at(due, self._handle_wake)

    def _handle_event(self, node: Node, event: Event) -> None:
        if not isinstance(event, ServiceRejected):
            if not self._papers.handle_event(node, event):
                self._handle_edge_event(node, event)
        elif self._line is not None and self._line.number == event.link:
            self._line.close_by_endpoint()
            self._line = None
            self._connect()

    def _handle_edge_event(self, node: Node, event: Event) -> None:
        now = self._schedule.now
        match event:
            case SocketsWanted(count=count):
                node.handle_sockets(self.edge.open_sockets(count), now)
            case SocketsUnwanted(vias=vias):
                self.edge.close_sockets(vias)
            case ListenWanted(wanted=wanted):
                self.edge.listen(wanted=wanted, servers=self._papers.servers)
            case ConnectWanted(to=to):
                self.edge.connect(to)
            case LinkUnwanted(link=link):
                self.edge.close_link(link)
            case RelaysNamed(places=places):
                node.handle_relays([ResolvedRelay(place, (place.host,)) for place in places], now)
            case RelayLinkWanted(relay=relay):
                self.edge.open_relay(relay)
            case RelayLinkUnwanted(relay=relay):
                self.edge.close_relay(relay)
            case _:
                pass

    def _map_port(self) -> None:
        """Has the router forward the port, where it does so."""
        if self.place is None or not self.place.forwards_ports:
            return
        place = self.place

        def tell(node: Node) -> None:
            outside = place.forward(self.host, self.edge.port) if place is self.place else None
            if outside is not None:
                addresses = [Address(*outside, transport) for transport in (Transport.UDP, Transport.TCP)]
                node.handle_mapped(addresses, self._schedule.now)

        self._schedule.after(MAPPING_S, partial(self._tell, tell))

    def _connect(self) -> None:
        if self._connecting or self._line is not None or self.node is None:
            return
        self._connecting = True
        self._service.open_line(self, self._handle_opened)

    def _handle_opened(self, line: Line | None) -> None:
        self._connecting = False
        if self.node is None:
            if line is not None:
                line.close_by_endpoint()
        elif line is None:
            pause = RECONNECT_S[min(self._failures, len(RECONNECT_S) - 1)]
            self._failures += 1
            self._schedule.after(pause, self._connect)
        else:
            self._failures = 0
            self._line = line
            self.node.handle_service_connected(line.number, self._service.tls_certificate, self._schedule.now)
            self._settle()

    def _on(self) -> Node:
        if self.node is None:
            raise ValueError(f"{self.name} is off")
        return self.node
