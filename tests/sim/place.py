"""Places where a host can stand: what lies between it and the internet."""

from __future__ import annotations

import enum
import ipaddress
import random
from collections.abc import Mapping as ReadMapping
from dataclasses import dataclass

from tests.sim.link import UPLINK, WIRE, Quality, Socket
from tests.sim.nat import Behaviour, Filtering, FirewallTable, Mapping, NatTable, PortChoice
from tests.sim.network import Host, Network, Policy, Realm, Router
from tests.sim.schedule import Schedule


class Access(enum.Enum):
    """The kinds that are told apart by who can punch to whom."""

    PUBLIC = "public"
    FIREWALL = "firewall"
    FULL_CONE = "full-cone"
    ADDRESS_RESTRICTED = "address-restricted"
    PORT_RESTRICTED = "port-restricted"
    CARRIER = "carrier"
    SYMMETRIC = "symmetric"
    SEQUENTIAL = "sequential"
    UDP_BLOCKED = "udp-blocked"
    WEB_ONLY = "web-only"

    @property
    def is_nat(self) -> bool:
        return self not in (Access.PUBLIC, Access.FIREWALL)


NATS: ReadMapping[Access, Behaviour] = {
    Access.FULL_CONE: Behaviour(filtering=Filtering.ENDPOINT_INDEPENDENT, port_choice=PortChoice.SEQUENTIAL),
    Access.ADDRESS_RESTRICTED: Behaviour(filtering=Filtering.ADDRESS_DEPENDENT, port_choice=PortChoice.RANDOM),
    Access.PORT_RESTRICTED: Behaviour(),
    Access.CARRIER: Behaviour(port_choice=PortChoice.RANDOM),
    Access.SYMMETRIC: Behaviour(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_choice=PortChoice.RANDOM),
    Access.SEQUENTIAL: Behaviour(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_choice=PortChoice.SEQUENTIAL),
    Access.UDP_BLOCKED: Behaviour(),
    Access.WEB_ONLY: Behaviour(),
}
"""What the router next to the internet does, for each kind that has a NAT there."""

POLICIES: ReadMapping[Access, Policy] = {Access.UDP_BLOCKED: Policy.NO_UDP, Access.WEB_ONLY: Policy.WEB_ONLY}

HOME_LAN = "192.168.1.0/24"
"""The range of nearly every house, so most LANs in the world overlap."""


@dataclass(slots=True)
class Place:
    """A LAN (or the internet itself) and the routers between it and the internet, the innermost first.

    `ipv6` is the same LAN as IPv6 sees it. `forwards_ports`: its NAT opens ports to who asks for it (PCP, UPnP).
    """

    access: Access
    realm: Realm
    routers: tuple[Router, ...]
    free: list[str]
    line: Quality
    ipv6: Place | None = None
    forwards_ports: bool = False

    def seat(self, host: Host) -> None:
        """Gives the host an address here, and one of IPv6 where the place has that too."""
        host.join(self.realm, self.free.pop(0), self.line)
        if self.ipv6 is not None:
            self.ipv6.seat(host)

    def reboot_routers(self) -> None:
        for router in self.routers:
            router.table.forget_all()

    @property
    def policy(self) -> Policy:
        """What the strictest router lets out."""
        return max((router.policy for router in self.routers), key=list(Policy).index, default=Policy.ALL)

    def set_policy(self, policy: Policy) -> None:
        """From now on: what stands and does not fit is cut off. For IPv4; IPv6 has a firewall of its own."""
        self.routers[0].policy = policy

    def forward(self, host: Host, port: int) -> Socket | None:
        """Has the NAT forward a port to a host for everyone; None where no single NAT stands before the internet."""
        if len(self.routers) != 1 or not isinstance(self.routers[0].table, NatTable):
            return None
        inside = next(str(interface.ip) for interface in host.interfaces if interface.version == 4)
        table = self.routers[0].table
        return table.ip, table.forward((inside, port))

    def renumber(self, ip: str) -> None:
        """Gives the outermost NAT another address, as a provider does at night; its old mappings are gone."""
        router = self.routers[-1]
        if not isinstance(router.table, NatTable):
            raise TypeError(f"{router.name} is no NAT")
        plug = router.disown(router.table.ip)
        router.table.ip = ip
        router.table.forget_all()
        router.own(ip, plug)

    def degrade(self, quality: Quality) -> None:
        """Changes the line between the outermost router and the internet, both ways."""
        for plug in self.routers[-1].own_ips.values():
            plug.up.quality = plug.down.quality = quality


class Atlas:
    """Makes places, each with public addresses of its own from 198.51.0.0/16 and 2001:db8::/32."""

    def __init__(self, network: Network, schedule: Schedule, chance: random.Random) -> None:
        self._network = network
        self._schedule = schedule
        self._chance = chance
        self._made = 0
        self._public = ipaddress.ip_network("198.51.0.0/16").hosts()

    def public_ip(self) -> str:
        return str(next(self._public))

    def make(
        self,
        access: Access,
        *,
        lan: str = HOME_LAN,
        behaviour: Behaviour | None = None,
        uplink: Quality = UPLINK,
        behind: Place | None = None,
    ) -> Place:
        """Returns a new place; `behaviour` replaces that of the NAT next to the internet, `behind` puts it elsewhere.

        A `CARRIER` place is a port-restricted house in a carrier's realm of its own, unless `behind` names one.
        """
        self._made += 1
        match access:
            case Access.PUBLIC:
                ips = [f"{self.public_ip()}/16" for _ in range(8)]
                return Place(access, self._network.internet, (), ips, uplink)
            case Access.FIREWALL:
                return self._walled(uplink)
            case Access.CARRIER:
                carrier = behind or self.carrier(behaviour or NATS[access], uplink)
                return self._house(access, NATS[Access.PORT_RESTRICTED], lan, uplink, carrier)
            case _:
                return self._house(access, behaviour or NATS[access], lan, uplink, behind)

    def add_ipv6(self, place: Place, uplink: Quality = UPLINK) -> None:
        """Gives a place global IPv6 addresses behind a stateful firewall, as houses have them."""
        self._made += 1
        ips = tuple(f"2001:db8:{self._made:x}::{number:x}" for number in range(1, 9))
        place.ipv6 = self._behind_firewall(ips, [f"{ip}/64" for ip in ips], uplink)

    def _house(self, access: Access, behaviour: Behaviour, lan: str, uplink: Quality, behind: Place | None) -> Place:
        inside = self._network.make_realm(f"lan-{self._made}")
        outside = behind.realm if behind else self._network.internet
        ip = behind.free.pop(0).partition("/")[0] if behind else self.public_ip()
        router = self._nat(ip, behaviour, (inside, outside), uplink)
        router.policy = POLICIES.get(access, Policy.ALL)
        return Place(access, inside, (router, *(behind.routers if behind else ())), _hosts_of(lan), WIRE)

    def carrier(self, behaviour: Behaviour, uplink: Quality = UPLINK) -> Place:
        """Returns the inside of a carrier's NAT, for houses to stand `behind`."""
        self._made += 1
        inside = self._network.make_realm(f"carrier-{self._made}")
        router = self._nat(self.public_ip(), behaviour, (inside, self._network.internet), uplink)
        return Place(Access.CARRIER, inside, (router,), _hosts_of("10.64.0.0/24"), WIRE)

    def _nat(self, ip: str, behaviour: Behaviour, between: tuple[Realm, Realm], uplink: Quality) -> Router:
        table = NatTable(ip, behaviour, self._chance)
        router = self._network.make_router(f"nat-{ip}", table, between, (ip,), uplink)
        router.hairpin = behaviour.hairpin
        return router

    def _walled(self, uplink: Quality) -> Place:
        ips = tuple(self.public_ip() for _ in range(8))
        return self._behind_firewall(ips, [f"{ip}/16" for ip in ips], uplink)

    def _behind_firewall(self, ips: tuple[str, ...], cidrs: list[str], uplink: Quality) -> Place:
        inside = self._network.make_realm(f"walled-{self._made}")
        between = (inside, self._network.internet)
        router = self._network.make_router(f"firewall-{self._made}", FirewallTable(), between, ips, uplink)
        return Place(Access.FIREWALL, inside, (router,), cidrs, WIRE)


def _hosts_of(cidr: str) -> list[str]:
    """The first eight host addresses behind the router's own."""
    network = ipaddress.ip_network(cidr)
    return [f"{network[number]}/{network.prefixlen}" for number in range(2, 10)]
