"""Where hosts stand, in the proportions that were measured; docs/simulation.md has the source of each number.

A population is made of sites: most have one host, some a few. Everything is drawn from the world's own chance.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tests.sim.link import Quality
from tests.sim.nat import Behaviour, Filtering, Mapping, PortChoice
from tests.sim.place import Access, Atlas, Place

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of site, and its share of all sites in percent. `dependent` is the share whose NAT has a port for each
    destination, `ipv6` the share with IPv6 behind a firewall, `forwards` the share whose router forwards ports."""

    name: str
    share: float
    access: Access
    dependent: float = 0.0
    ipv6: float = 0.0
    forwards: float = 0.0


MIX: Sequence[Kind] = (
    Kind("cloud", 8.0, Access.PUBLIC, ipv6=0.42),
    Kind("office, public addresses", 4.0, Access.FIREWALL, ipv6=0.42),
    Kind("home", 52.0, Access.PORT_RESTRICTED, dependent=0.08, ipv6=0.42, forwards=0.15),
    Kind("home behind carrier NAT", 12.0, Access.CARRIER, dependent=0.11, ipv6=0.42),
    Kind("cellular", 16.0, Access.CARRIER, dependent=0.40, ipv6=0.42),
    Kind("office, own port for each destination", 3.6, Access.SYMMETRIC),
    Kind("UDP blocked", 3.0, Access.UDP_BLOCKED),
    Kind("web only", 1.4, Access.WEB_ONLY),
)

FILTERING = {
    Filtering.ADDRESS_AND_PORT_DEPENDENT: 65,
    Filtering.ADDRESS_DEPENDENT: 15,
    Filtering.ENDPOINT_INDEPENDENT: 20,
}
"""Of NATs with one port for all."""

PORTS = {PortChoice.PRESERVE: 60, PortChoice.SEQUENTIAL: 15, PortChoice.RANDOM: 25}
DEPENDENT_PORTS = {PortChoice.RANDOM: 65, PortChoice.SEQUENTIAL: 35}
LIFETIMES_S = {30.0: 20, 60.0: 25, 120.0: 25, 180.0: 30}
CARRIER_LIFETIMES_S = {30.0: 40, 60.0: 40, 120.0: 20}
OTHERS_A_SECOND = {"home": 0.2, "office, own port for each destination": 2.0}
CARRIER_OTHERS_A_SECOND = 10.0
HAIRPIN = 0.3

SHARED = 0.10
"""How often the next host stands at the site of the one before."""


def make_places(atlas: Atlas, chance: random.Random, count: int) -> list[tuple[Kind, Place]]:
    """Returns a kind and a place for each of `count` hosts."""
    town = _Town(atlas, chance)
    sites: list[tuple[Kind, Place]] = []
    while len(sites) < count:
        if sites and len(sites[-1][1].free) > 1 and chance.random() < SHARED:
            sites.append(sites[-1])
        else:
            kind = chance.choices(MIX, [kind.share for kind in MIX])[0]
            sites.append((kind, town.site(kind)))
    return sites


class _Town:
    def __init__(self, atlas: Atlas, chance: random.Random) -> None:
        self._atlas = atlas
        self._chance = chance
        self._carriers: dict[str, Place] = {}

    def site(self, kind: Kind) -> Place:
        place = self._bare_site(kind)
        if self._happens(kind.ipv6):
            self._atlas.add_ipv6(place, self._line())
        place.forwards_ports = self._happens(kind.forwards)
        return place

    def _bare_site(self, kind: Kind) -> Place:
        line = self._line()
        match kind.name:
            case "cloud" | "office, public addresses":
                return self._atlas.make(kind.access, uplink=line)
            case "home behind carrier NAT":
                return self._behind_carrier(kind, line)
            case "cellular":
                place = self._atlas.make(Access.SYMMETRIC, behaviour=self._behaviour(kind), lan=_CELL, uplink=line)
                return replace(place, access=kind.access)
            case _:
                return self._atlas.make(kind.access, behaviour=self._behaviour(kind), lan=self._lan(), uplink=line)

    def _behind_carrier(self, kind: Kind, line: Quality) -> Place:
        carrier = self._carriers.get(kind.name)
        if carrier is None or not carrier.free:
            carrier = self._carriers[kind.name] = self._atlas.carrier(self._behaviour(kind))
        return self._atlas.make(Access.CARRIER, lan=self._lan(), uplink=line, behind=carrier)

    def _behaviour(self, kind: Kind) -> Behaviour:
        is_carrier = kind.access is Access.CARRIER
        lifetime_s = self._pick(CARRIER_LIFETIMES_S if is_carrier else LIFETIMES_S)
        others = CARRIER_OTHERS_A_SECOND if is_carrier else OTHERS_A_SECOND.get(kind.name, 0.0)
        base = Behaviour(lifetime_s=lifetime_s, others_a_second=others, hairpin=self._happens(HAIRPIN))
        if kind.access is Access.SYMMETRIC or self._happens(kind.dependent):
            ports = self._pick(DEPENDENT_PORTS)
            return replace(base, mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, port_choice=ports)
        return replace(base, filtering=self._pick(FILTERING), port_choice=self._pick(PORTS))

    def _line(self) -> Quality:
        """Two of these and back again make 10 to 150 ms, and 0.1 to 1 % loss."""
        latency_s = 0.0025 * 15.0 ** self._chance.random()
        loss = self._chance.uniform(0.0005, 0.005)
        return Quality(latency_s=latency_s, jitter_s=0.2 * latency_s, loss=loss, reordering=0.002, late_s=0.02)

    def _lan(self) -> str:
        """Most houses have one of few ranges, so that most LANs of the world overlap."""
        return self._chance.choice(("192.168.1.0/24", "192.168.0.0/24", "192.168.178.0/24", "10.0.0.0/24"))

    def _happens(self, probability: float) -> bool:
        return self._chance.random() < probability

    def _pick(self, weights: dict[T, int]) -> T:
        return self._chance.choices(list(weights), list(weights.values()))[0]


_CELL = "10.128.0.0/24"
