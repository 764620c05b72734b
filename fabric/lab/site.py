"""What stands on the internet of a laboratory: hosts, and the sites with the routers that they are behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING

from fabric.lab import nat as nat_rules
from fabric.lab.namespace import Counters, LabError, Namespace
from fabric.lab.nat import Nat
from fabric.lab.program import Finished, Program, run
from fabric.lab.sky import Sky

if TYPE_CHECKING:
    from fabric.lab.world import Lab

EVERYWHERE_4 = IPv4Network("0.0.0.0/0")
EVERYWHERE_6 = IPv6Network("::/0")
DEFAULT_MAPPING_S = 120
FIRST_HOST = 10
FULL_MTU = 1500
SPARE_METRIC, SPARE_TABLE = 2000, 100
"""Worse than what the kernel gives a route that does not say: 0 for IPv4, 1024 for IPv6."""
MOVED_PORTS = (range(10_000, 15_000), range(15_000, 20_000))
"""Below what a host takes for itself, so that no mapping keeps its port by chance."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """One cable of a host: the device, the site at its other end, and the addresses there."""

    device: str
    site: Site
    address: IPv4Interface
    address_6: IPv6Interface | None
    metric: int | None


class Host:
    """A machine at a site: one device `eth0`, one IPv4 (and, where the site has it, IPv6) address, one gateway."""

    def __init__(self, lab: Lab, name: str, site: Site, number: int | None) -> None:
        self.name = name
        self.namespace = lab.namespace(name)
        self._lab = lab
        self._leases: dict[Site, int] = {}
        self._uplinks = {"eth0": self._plug_into(site, number, "eth0")}

    def _plug_into(self, site: Site, number: int | None, device: str, metric: int | None = None) -> Uplink:
        address, address_6 = site.next_addresses(number)
        self._leases[site] = int(address.ip) - int(address.network.network_address)
        port = f"{device[-1]}-{self.name}"[:15]
        site.router.connect(port, self.namespace, device)
        site.router.enslave(port, "lan")
        if site.has_ipv4:
            self.namespace.add_address(device, address)
        if address_6 is not None:
            self.namespace.add_address(device, address_6)
        uplink = Uplink(device, site, address, address_6, metric)
        self._route(uplink)
        return uplink

    def _route(self, uplink: Uplink) -> None:
        site = uplink.site
        if site.has_ipv4:
            self.namespace.add_route(EVERYWHERE_4, site.gateway, metric=uplink.metric)
        if site.gateway_6 is not None:
            self.namespace.add_route(EVERYWHERE_6, site.gateway_6, metric=uplink.metric)

    @property
    def site(self) -> Site:
        return self._uplinks["eth0"].site

    @property
    def address(self) -> IPv4Interface:
        return self._uplinks["eth0"].address

    @property
    def address_6(self) -> IPv6Interface | None:
        return self._uplinks["eth0"].address_6

    @property
    def ip(self) -> str:
        return str(self.address.ip)

    def move(self, to: Site, number: int | None = None) -> None:
        """Pulls the cable here and plugs it in at another site, with an address of that site: roaming.

        Who comes back gets the address that it had there, as DHCP gives the same lease (RFC 2131 section 4.3.1).
        """
        self.namespace.remove_device("eth0")
        self._uplinks["eth0"] = self._plug_into(to, number or self._leases.get(to), "eth0")

    def add_uplink(self, site: Site, device: str = "eth1") -> Uplink:
        """A second cable, to another site: what is asked there is answered there, all else prefers the first."""
        made = self._uplinks[device] = self._plug_into(site, None, device, SPARE_METRIC)
        self.namespace.route_from(made.address, site.gateway, SPARE_TABLE)
        return made

    def unplug(self, device: str = "eth0") -> None:
        self.namespace.set_down(device)

    def plug_in(self, device: str = "eth0") -> None:
        self.namespace.set_up(device)
        self._route(self._uplinks[device])

    def run(
        self,
        *arguments: str,
        timeout_s: float = 30.0,
        environment: Mapping[str, str] | None = None,
        feed: str | None = None,
    ) -> Finished:
        """Runs a program here to its end."""
        return run(self.namespace, arguments, timeout_s=timeout_s, environment=environment, feed=feed)

    def start(self, *arguments: str, log: str, environment: Mapping[str, str] | None = None) -> Program:
        """Starts a program here; its output goes to `log` in the laboratory's directory."""
        return self._lab.start(self.namespace, arguments, log, environment)


class Site:
    """A router with hosts behind it."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        kind: Nat,
        *,
        number: int,
        lan: IPv4Network,
        ipv4: bool = True,
        ipv6: bool = False,
        weather: bool = False,
    ) -> None:
        self.name, self.kind, self.number, self.lan, self.has_ipv4 = name, kind, number, lan, ipv4
        self.gateway = IPv4Interface((lan[1], lan.prefixlen))
        self.wan = IPv4Interface(f"5.0.{number}.2/28")
        self.lan_6 = IPv6Network(f"2a00:5:{number:x}::/64") if ipv6 else None
        self.gateway_6 = IPv6Interface((self.lan_6[1], 64)) if self.lan_6 is not None else None
        self._lab = lab
        self._hosts = 0
        self._mapping_s = DEFAULT_MAPPING_S
        self._ports: range | None = None
        self._sky = Sky(lab, name, number) if weather else None
        self.carrier = self._make_carrier() if kind is Nat.CARRIER else None
        self.router = self._make_router()
        self.outermost = self.carrier or self.router
        self._load_rules()

    # -- building -----------------------------------------------------------------------------------------------

    def _make_router(self) -> Namespace:
        router = self._lab.router(f"{self.name}-router")
        router.add_bridge("lan")
        router.add_address("lan", self.gateway)
        if self.carrier is None:
            self._wire_to_internet(router)
        else:
            inner = IPv4Interface(f"100.64.{self.number}.2/24")
            self.carrier.connect("lan", router, "wan")
            self.carrier.add_address("lan", IPv4Interface((inner.network[1], 24)))
            router.add_address("wan", inner)
            router.add_route(EVERYWHERE_4, IPv4Interface((inner.network[1], 24)))
        return router

    def _make_carrier(self) -> Namespace:
        carrier = self._lab.router(f"{self.name}-carrier")
        self._wire_to_internet(carrier)
        return carrier

    def _wire_to_internet(self, router: Namespace) -> None:
        internet = self._lab.internet
        if self._sky is None:
            internet.connect(self.upstream_device, router, "wan")
        else:
            self._sky.join(internet, self.upstream_device, router)
        if self.has_ipv4:
            internet.add_address(self.upstream_device, self._upstream)
            router.add_address("wan", self.wan)
            router.add_route(EVERYWHERE_4, self._upstream)
            if not self.kind.translates:
                internet.add_route(self.lan, self.wan)
        if self.lan_6 is not None and self.gateway_6 is not None:
            near, far = (IPv6Interface(f"2a00:5:ffff:{self.number:x}::{end}/64") for end in (1, 2))
            internet.add_address(self.upstream_device, near)
            internet.add_route(self.lan_6, far)
            router.add_address("wan", far)
            router.add_route(EVERYWHERE_6, near)
            router.add_address("lan", self.gateway_6)

    @property
    def upstream_device(self) -> str:
        """The internet's device towards this site."""
        return f"to-{self.name}"[:15]

    @property
    def _upstream(self) -> IPv4Interface:
        return IPv4Interface((self.wan.network[1], self.wan.network.prefixlen))

    def _load_rules(self) -> None:
        for router in self._routers():
            router.load_rules(nat_rules.rules(self.kind, self.wan.ip, self._mapping_s, self._ports))

    def _routers(self) -> list[Namespace]:
        return [self.router] if self.carrier is None else [self.carrier, self.router]

    def next_addresses(self, number: int | None) -> tuple[IPv4Interface, IPv6Interface | None]:
        if number is None:
            number, self._hosts = FIRST_HOST + self._hosts, self._hosts + 1
        address_6 = IPv6Interface((self.lan_6[number], 64)) if self.lan_6 is not None else None
        return IPv4Interface((self.lan[number], self.lan.prefixlen)), address_6

    def host(self, name: str, number: int | None = None) -> Host:
        """Adds a host to this site, at the next free address or at the one of that number."""
        return self._lab.host(name, self, number)

    # -- what happens to routers --------------------------------------------------------------------------------

    def shorten_mappings(self, lifetime_s: int) -> None:
        """From now on an idle UDP mapping is forgotten after `lifetime_s`. Forgets those that stand."""
        self._mapping_s = lifetime_s
        for router in self._routers():
            router.sysctl("net/netfilter/nf_conntrack_udp_timeout", lifetime_s)
            router.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", lifetime_s)
        self.reboot()

    def reboot(self) -> None:
        """Power lost and back: every mapping and every remembered connection is gone."""
        self._load_rules()
        for router in self._routers():
            router.forget_connections()

    def move_mappings(self) -> None:
        """The router forgets every connection, and gives each inside port another outside port from now on."""
        self._ports = MOVED_PORTS[self._ports == MOVED_PORTS[0]]
        self.reboot()

    def block_udp(self) -> None:
        """From now on the router lets no UDP through; what it has learned of TCP stays."""
        self.router.add_rules(nat_rules.UDP_BLOCKING_RULES)

    def pass_udp(self) -> None:
        self.router.add_rules(nat_rules.UDP_PASSING_RULES)

    def block_ipv6(self) -> None:
        """From now on the router drops all IPv6 in silence, while its hosts keep their addresses and routes."""
        self.router.add_rules(nat_rules.IPV6_BLOCKING_RULES)

    def pass_ipv6(self) -> None:
        self.router.add_rules(nat_rules.IPV6_PASSING_RULES)

    def narrow(self, mtu: int) -> None:
        """From now on no longer packet fits the line, and who sends one is told: a tunnel that does as it should.

        One that does not, a black hole, is `Weather(mtu=...)`.
        """
        self.outermost.set_mtu("wan", mtu)
        self._lab.internet.set_mtu(self.upstream_device, mtu)

    def stop_offloads(self) -> None:
        """From now on what goes over its line is as long as on a wire, and not cut by whoever receives it."""
        self.outermost.stop_offloads("wan")
        self._lab.internet.stop_offloads(self.upstream_device)

    def renumber(self) -> IPv4Address:
        """The provider hands out another address; the router restarts with it. Returns the new address."""
        old, new = self.wan, IPv4Interface((self.wan.ip + 1, self.wan.network.prefixlen))
        self.outermost.remove_address("wan", old)
        self.outermost.add_address("wan", new)
        self.wan = new
        self.outermost.add_route(EVERYWHERE_4, self._upstream)
        if not self.kind.translates:
            self._lab.internet.add_route(self.lan, new)
        self.reboot()
        return new.ip

    def unplug(self) -> None:
        """The line to the internet goes dead."""
        self._lab.internet.set_down(self.upstream_device)

    def plug_in(self) -> None:
        self._lab.internet.set_up(self.upstream_device)
        if not self.kind.translates:
            self._lab.internet.add_route(self.lan, self.wan)

    @property
    def outside(self) -> IPv4Network:
        """The addresses under which its hosts are seen on the internet."""
        return self.wan.network if self.kind.translates else self.lan

    @property
    def weather(self) -> Sky:
        """The weather on its line; LabError where it was built without."""
        if self._sky is None:
            raise LabError(f"the line of {self.name} was built without weather")
        return self._sky

    def wan_counters(self) -> Counters:
        """What went over the line between this site and the internet."""
        return self.outermost.counters("wan")
