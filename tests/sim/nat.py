"""A NAT's table: mapping x filtering x expiry x choice of port x hairpin, in the words of RFC 4787.

Pure: packets in, packets or None out, the time as an argument. What carries the packets is in `network`.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field, replace
from typing import Protocol

from fabric.core.machine import Instant
from tests.sim.link import Packet, Socket

FIRST_PORT, LAST_PORT = 1024, 65535


class Mapping(enum.Enum):
    """What a mapping of an inside socket depends on besides it (section 4.1)."""

    ENDPOINT_INDEPENDENT = "eim"
    ADDRESS_DEPENDENT = "adm"
    ADDRESS_AND_PORT_DEPENDENT = "edm"


class Filtering(enum.Enum):
    """Who may send in through a mapping (section 5)."""

    ENDPOINT_INDEPENDENT = "eif"
    ADDRESS_DEPENDENT = "adf"
    ADDRESS_AND_PORT_DEPENDENT = "apdf"


class PortChoice(enum.Enum):
    PRESERVE = "preserve"
    SEQUENTIAL = "sequential"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`lifetime_s` of an idle mapping; `inbound_refreshes` as Linux does it, though REQ-6 allows either."""

    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    port_choice: PortChoice = PortChoice.PRESERVE
    lifetime_s: float = 120.0
    inbound_refreshes: bool = True
    hairpin: bool = False


class Translator(Protocol):
    """What a router asks for each packet. None: dropped."""

    def outbound(self, packet: Packet, now: Instant) -> Packet | None: ...

    def inbound(self, packet: Packet, now: Instant) -> Packet | None: ...

    def forget_all(self) -> None: ...


@dataclass(slots=True)
class _Binding:
    """One mapping: an inside socket behind an outside port, and when each remote was last sent to through it."""

    inside: Socket
    key: tuple[Socket, object]
    port: int
    used: Instant
    sent_to: dict[object, Instant] = field(default_factory=dict)


class NatTable:
    """Translates between the inside and one outside `ip`."""

    def __init__(self, ip: str, behaviour: Behaviour, chance: random.Random) -> None:
        self.ip = ip
        self.behaviour = behaviour
        self._chance = chance
        self._by_key: dict[tuple[Socket, object], _Binding] = {}
        self._by_port: dict[int, _Binding] = {}
        self._next_port = chance.randint(20_000, 40_000)

    def outbound(self, packet: Packet, now: Instant) -> Packet | None:
        """Returns the packet with its outside source, from a new mapping where there is none."""
        binding = self._mapped(packet, now)
        if binding is None:
            return None
        binding.used = now
        binding.sent_to[self._filter_key(packet.destination)] = now
        return replace(packet, source=(self.ip, binding.port))

    def inbound(self, packet: Packet, now: Instant) -> Packet | None:
        """Returns the packet with its inside destination where mapping and filter let it in."""
        binding = self._alive(self._by_port.get(packet.destination[1]), now)
        if binding is None or not self._lets_in(binding, packet.source, now):
            return None
        if self.behaviour.inbound_refreshes:
            binding.used = now
            binding.sent_to[self._filter_key(packet.source)] = now
        return replace(packet, destination=binding.inside)

    def forget_all(self) -> None:
        """What a reboot does; sequential ports begin somewhere else, so that old mappings do not come back."""
        self._by_key.clear()
        self._by_port.clear()
        self._next_port = self._chance.randint(20_000, 40_000)

    def _mapped(self, packet: Packet, now: Instant) -> _Binding | None:
        key = (packet.source, self._mapping_key(packet.destination))
        if (binding := self._alive(self._by_key.get(key), now)) is not None:
            return binding
        port = self._free_port(packet.source[1], now)
        if port is None:
            return None
        binding = _Binding(packet.source, key, port, now)
        self._by_key[key] = self._by_port[port] = binding
        return binding

    def _alive(self, binding: _Binding | None, now: Instant) -> _Binding | None:
        if binding is None or now - binding.used <= self.behaviour.lifetime_s:
            return binding
        del self._by_key[binding.key], self._by_port[binding.port]
        return None

    def _lets_in(self, binding: _Binding, source: Socket, now: Instant) -> bool:
        if self.behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT:
            return True
        sent = binding.sent_to.get(self._filter_key(source))
        return sent is not None and now - sent <= self.behaviour.lifetime_s

    def _mapping_key(self, remote: Socket) -> object:
        match self.behaviour.mapping:
            case Mapping.ENDPOINT_INDEPENDENT:
                return None
            case Mapping.ADDRESS_DEPENDENT:
                return remote[0]
            case Mapping.ADDRESS_AND_PORT_DEPENDENT:
                return remote

    def _filter_key(self, remote: Socket) -> object:
        match self.behaviour.filtering:
            case Filtering.ENDPOINT_INDEPENDENT:
                return None
            case Filtering.ADDRESS_DEPENDENT:
                return remote[0]
            case Filtering.ADDRESS_AND_PORT_DEPENDENT:
                return remote

    def _free_port(self, inside_port: int, now: Instant) -> int | None:
        match self.behaviour.port_choice:
            case PortChoice.PRESERVE:
                first = inside_port
            case PortChoice.SEQUENTIAL:
                first = self._next_port
            case PortChoice.RANDOM:
                first = self._chance.randint(FIRST_PORT, LAST_PORT)
        for step in range(LAST_PORT - FIRST_PORT + 1):
            port = FIRST_PORT + (first - FIRST_PORT + step) % (LAST_PORT - FIRST_PORT + 1)
            if self._alive(self._by_port.get(port), now) is None:
                self._next_port = port + 1
                return port
        return None


class FirewallTable:
    """A stateful firewall: translates nothing, lets in only what answers."""

    def __init__(self, lifetime_s: float = 120.0) -> None:
        self._lifetime_s = lifetime_s
        self._sent: dict[tuple[Socket, Socket], Instant] = {}

    def outbound(self, packet: Packet, now: Instant) -> Packet | None:
        self._sent[(packet.source, packet.destination)] = now
        return packet

    def inbound(self, packet: Packet, now: Instant) -> Packet | None:
        pair = (packet.destination, packet.source)
        sent = self._sent.get(pair)
        if sent is None or now - sent > self._lifetime_s:
            return None
        self._sent[pair] = now
        return packet

    def forget_all(self) -> None:
        self._sent.clear()
