"""Realms of addresses, the hosts in them, and the routers between them.

    realm "internet" ---- router (NAT or firewall) ---- realm "lan-1" ---- hosts
             |
             +----------- router (carrier NAT) -------- realm "carrier" --- router --- realm "lan-2" --- hosts

A realm is one space of addresses in which everyone reaches everyone by IP: the internet, a LAN, a carrier's inside.
Two realms may use the same private range. What a realm does not know goes to its gateway, if it has one.
"""

from __future__ import annotations

import enum
import ipaddress
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from tests.sim.link import WIRE, WIRE_UP, Link, Packet, Quality, Socket
from tests.sim.nat import Translator
from tests.sim.schedule import Schedule
from tests.sim.tcp import Stack

IpInterface: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Receive: TypeAlias = Callable[[Socket, bytes], None]

WEB_PORT = 443


class Station(Protocol):
    """Whoever takes packets off a realm."""

    def arrive(self, packet: Packet) -> None: ...


@dataclass(frozen=True, slots=True)
class Plug:
    """A station's place in a realm: both directions of its line."""

    station: Station
    up: Link
    down: Link


class Realm:
    """`gateway` takes what is addressed to nobody here. Packets to nobody at all are counted in `unrouted`."""

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self._network = network
        self._plugs: dict[str, Plug] = {}
        self.gateways: dict[int, Plug] = {}
        self.unrouted = 0

    def plug(self, ip: str, plug: Plug) -> None:
        if ip in self._plugs:
            raise ValueError(f"{ip} is taken in {self.name}")
        self._plugs[ip] = plug

    def unplug(self, ip: str) -> None:
        del self._plugs[ip]

    def send(self, packet: Packet, plug: Plug) -> None:
        """Carries a packet from a station's plug to whoever has the destination."""
        plug.up.carry(packet, self._switch)

    def _switch(self, packet: Packet) -> None:
        self._network.overhear(self, packet)
        meddle = self._network.meddle
        if meddle is None:
            self.forward(packet)
        else:
            meddle(self, packet)

    def forward(self, packet: Packet) -> None:
        """Takes a packet to whoever has its destination, whatever its source says."""
        ip = packet.destination[0]
        if (plug := self._plugs.get(ip)) is not None:
            plug.down.carry(packet, plug.station.arrive)
        elif is_multicast(ip):
            self._flood(packet)
        elif (plug := self.gateways.get(6 if ":" in ip else 4)) is not None and packet.hops > 0:
            plug.down.carry(packet._replace(hops=packet.hops - 1), plug.station.arrive)
        else:
            self.unrouted += 1

    def _flood(self, packet: Packet) -> None:
        """To everyone on this link, and through no router; the internet carries no multicast."""
        if self is not self._network.internet:
            for ip, plug in list(self._plugs.items()):
                if ip != packet.source[0]:
                    plug.down.carry(packet, plug.station.arrive)


class Host:
    """A machine with addresses, UDP ports and a TCP stack.

    `awake` False: nothing is received, as in suspend. `overhear` takes what comes to any port, if it is set.
    """

    def __init__(self, name: str, network: Network, schedule: Schedule) -> None:
        self.name = name
        self._network = network
        self._homes: dict[str, tuple[Realm, IpInterface, Plug]] = {}
        self._sockets: dict[int, Receive] = {}
        self._groups: dict[Socket, Receive] = {}
        self.tcp = Stack(self, schedule)
        self.awake = True
        self.overhear: Receive | None = None
        self.sent_to: Counter[str] = Counter()
        """Datagrams, by the address that they went to."""
        self.sent_bytes = 0

    @property
    def interfaces(self) -> tuple[IpInterface, ...]:
        return tuple(interface for _, interface, _ in self._homes.values())

    @property
    def is_plugged(self) -> bool:
        return any(plug.up.up for _, _, plug in self._homes.values())

    @property
    def realms(self) -> tuple[Realm, ...]:
        return tuple(realm for realm, _, _ in self._homes.values())

    def join(self, realm: Realm, cidr: str, quality: Quality) -> None:
        interface = ipaddress.ip_interface(cidr)
        plug = self._network.make_plug(self, quality)
        realm.plug(str(interface.ip), plug)
        self._homes[str(interface.ip)] = (realm, interface, plug)

    def leave_all(self) -> None:
        for ip, (realm, _, _) in self._homes.items():
            realm.unplug(ip)
        self._homes.clear()

    def degrade(self, quality: Quality) -> None:
        """Changes the quality of every line of this host, both ways."""
        for _, _, plug in self._homes.values():
            plug.up.quality = plug.down.quality = quality

    def cut(self, *, up: bool) -> None:
        """Pulls or plugs every cable."""
        for _, _, plug in self._homes.values():
            plug.up.up = plug.down.up = up

    def bind(self, port: int, receive: Receive) -> None:
        self._sockets[port] = receive

    def close(self, port: int) -> None:
        self._sockets.pop(port, None)

    def join_group(self, group: Socket, receive: Receive) -> None:
        """Takes what is multicast on any link of this host, besides what the host itself sends."""
        self._groups[group] = receive

    def leave_groups(self) -> None:
        self._groups.clear()

    def send(self, port: int, to: Socket, payload: bytes) -> None:
        """Sends from `port` out of the interface that fits; without one the datagram is gone, as by EHOSTUNREACH."""
        if not self.awake:
            return
        for realm, interface, plug in self._homes_for(to[0]):
            packet = Packet((str(interface.ip), port), to, payload)
            self.sent_to[to[0]] += 1
            self.sent_bytes += packet.ip_bytes
            realm.send(packet, plug)

    def send_as(self, source: Socket, to: Socket, payload: bytes) -> None:
        """Sends with a forged source."""
        home = self._home_for(to[0])
        if home is not None:
            home[0].send(Packet(source, to, payload), home[2])

    def address_towards(self, ip: str) -> str | None:
        """The own address that a connection to `ip` would come from."""
        home = self._home_for(ip)
        return None if home is None else str(home[1].ip)

    def send_segment(self, packet: Packet) -> None:
        """From an address that this host has, or has no more: then it goes nowhere."""
        home = self._homes.get(packet.source[0])
        if home is not None and self.awake:
            self.sent_bytes += packet.ip_bytes
            home[0].send(packet, home[2])

    def arrive(self, packet: Packet) -> None:
        if not self.awake:
            return
        if packet.destination[0] not in self._homes:
            if (receive := self._groups.get(packet.destination)) is not None:
                receive(packet.source, packet.payload)
        elif packet.segment is not None and self.overhear is None:
            self.tcp.handle_packet(packet)
        elif (receive := self.overhear or self._sockets.get(packet.destination[1])) is not None:
            receive(packet.source, packet.payload)

    def _homes_for(self, ip: str) -> Iterable[tuple[Realm, IpInterface, Plug]]:
        if is_multicast(ip):
            return [home for home in self._homes.values() if (":" in ip) == (home[1].version == 6)]
        home = self._home_for(ip)
        return () if home is None else (home,)

    def _home_for(self, ip: str) -> tuple[Realm, IpInterface, Plug] | None:
        if len(self._homes) == 1:
            home = next(iter(self._homes.values()))
            return home if (":" in ip) == (home[1].version == 6) else None
        wanted = ipaddress.ip_address(ip)
        fitting = [home for home in self._homes.values() if home[1].version == wanted.version]
        on_link = [home for home in fitting if wanted in home[1].network]
        return next(iter(on_link or fitting), None)


class Policy(enum.Enum):
    """What a router lets out, whatever its table says."""

    ALL = "all"
    NO_UDP = "no UDP"
    WEB_ONLY = "TCP to port 443 only"

    def allows(self, packet: Packet) -> bool:
        if self is Policy.ALL:
            return True
        return packet.is_tcp and (self is Policy.NO_UDP or packet.destination[1] == WEB_PORT)


class Router:
    """Stands between an inside and an outside realm and asks its policy and its table about every packet."""

    def __init__(self, name: str, table: Translator, inside: Realm, outside: Realm, schedule: Schedule) -> None:
        self.name = name
        self.table = table
        self.inside = inside
        self.outside = outside
        self._schedule = schedule
        self.own_ips: dict[str, Plug] = {}
        self.hairpin = False
        self.policy = Policy.ALL
        self.deaf_to: set[str] = set()
        """Addresses from outside that are never let in."""
        self.refused = 0

    def connect(self, inside_plug: Plug, version: int) -> None:
        self.inside.gateways[version] = inside_plug
        self._inside_plug = inside_plug

    def own(self, ip: str, plug: Plug) -> None:
        """Makes the router answer for `ip` on its outside."""
        self.outside.plug(ip, plug)
        self.own_ips[ip] = plug

    def disown(self, ip: str) -> Plug:
        self.outside.unplug(ip)
        return self.own_ips.pop(ip)

    def go_out(self, packet: Packet) -> None:
        """From the inside: translated and sent on, or turned round where it is for this router's own outside."""
        turned = packet.destination[0] in self.own_ips
        if (turned and not self.hairpin) or not self.policy.allows(packet):
            self.refused += 1
            return
        translated = self.table.outbound(packet, self._schedule.now)
        if translated is None:
            self.refused += 1
        elif turned:
            self.come_in(translated)
        else:
            self.outside.send(translated, next(iter(self.own_ips.values())))

    def come_in(self, packet: Packet) -> None:
        """From the outside: let in, or dropped without a word."""
        closed = (self.policy is not Policy.ALL and not packet.is_tcp) or packet.source[0] in self.deaf_to
        translated = None if closed else self.table.inbound(packet, self._schedule.now)
        if translated is None:
            self.refused += 1
        else:
            self.inside.send(translated, self._inside_plug)


@dataclass(frozen=True, slots=True)
class _Side:
    """One face of a router, as a station."""

    take: Callable[[Packet], None]

    def arrive(self, packet: Packet) -> None:
        self.take(packet)


class Network:
    """Makes realms, hosts and routers that share one schedule and one source of chance.

    `listeners` overhear every packet of every realm, as someone on the path does; `meddle`, where it is set, takes each
    of them instead of the realm, and has it forwarded or not.
    """

    def __init__(self, schedule: Schedule, chance: random.Random) -> None:
        self._schedule = schedule
        self._chance = chance
        self.listeners: list[Callable[[Realm, Packet], None]] = []
        self.meddle: Callable[[Realm, Packet], None] | None = None
        self.internet = Realm("internet", self)

    def make_realm(self, name: str) -> Realm:
        return Realm(name, self)

    def make_host(self, name: str) -> Host:
        return Host(name, self, self._schedule)

    def make_plug(self, station: Station, quality: Quality) -> Plug:
        """Some link on every way between two hosts takes its time: nobody hears while he still speaks."""
        return Plug(station, self._make_link(WIRE_UP if quality is WIRE else quality), self._make_link(quality))

    def make_router(
        self, name: str, table: Translator, between: tuple[Realm, Realm], ips: tuple[str, ...], quality: Quality
    ) -> Router:
        """`between` is inside, outside; `ips` reach this router from outside: a NAT's own, or a firewall's hosts."""
        router = Router(name, table, *between, self._schedule)
        inner = self.make_plug(_Side(router.go_out), WIRE_UP)
        outer = self.make_plug(_Side(router.come_in), quality)
        router.connect(inner, ipaddress.ip_address(ips[0]).version)
        for ip in ips:
            router.own(ip, outer)
        return router

    def overhear(self, realm: Realm, packet: Packet) -> None:
        for listener in self.listeners:
            listener(realm, packet)

    def _make_link(self, quality: Quality) -> Link:
        return Link(self._schedule, self._chance, quality)


def is_multicast(ip: str) -> bool:
    """RFC 5771 section 3: 224.0.0.0/4; RFC 4291 section 2.7: ff00::/8."""
    return ip.startswith("ff") if ":" in ip else 224 <= int(ip.partition(".")[0]) <= 239
