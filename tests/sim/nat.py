"""A NAT's table: mapping x filtering x expiry x choice of port x hairpin, in the words of RFC 4787.

Pure: packets in, packets or None out, the time as an argument. What carries the packets is in `network`.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field
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
    """`lifetime_s` of an idle UDP mapping; `inbound_refreshes` as Linux does it, though REQ-6 allows either.

    `stride` is the distance between the ports that a `SEQUENTIAL` NAT gives one after the other, and `others_a_second`
    how many of them go to customers that this world does not have. TCP is treated as UDP is, but for its lifetime
    (RFC 5382 REQ-5: two hours and four minutes at least).
    """

    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    port_choice: PortChoice = PortChoice.PRESERVE
    stride: int = 1
    others_a_second: float = 0.0
    lifetime_s: float = 120.0
    tcp_lifetime_s: float = 7440.0
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
    key: tuple[bool, Socket, object]
    port: tuple[bool, int]
    lifetime_s: float
    used: Instant
    sent_to: dict[object, Instant] = field(default_factory=dict)


class NatTable:
    """Translates between the inside and one outside `ip`."""

    def __init__(self, ip: str, behaviour: Behaviour, chance: random.Random) -> None:
        self.ip = ip
        self.behaviour = behaviour
        self._chance = chance
        self._by_key: dict[tuple[bool, Socket, object], _Binding] = {}
        self._by_port: dict[tuple[bool, int], _Binding] = {}
        self._forwards: dict[int, Socket] = {}
        self._forwarded: dict[Socket, int] = {}
        self._flows: dict[tuple[bool, Socket, Socket], Instant] = {}
        """Who came in by a forwarded port, and when last."""
        self._next_port = chance.randint(20_000, 40_000)
        self._others_seen: Instant = 0.0

    def outbound(self, packet: Packet, now: Instant) -> Packet | None:
        """Returns the packet with its outside source, from a new mapping where there is none."""
        forwarded = self._forwarded.get(packet.source)
        if forwarded is not None and self._goes_by_forward(packet, now):
            return packet._replace(source=(self.ip, forwarded))
        binding = self._mapped(packet, now)
        if binding is None:
            return None
        binding.used = now
        binding.sent_to[self._filter_key(packet.destination)] = now
        return packet._replace(source=(self.ip, binding.port[1]))

    def inbound(self, packet: Packet, now: Instant) -> Packet | None:
        """Returns the packet with its inside destination where mapping and filter let it in."""
        if (inside := self._forwards.get(packet.destination[1])) is not None:
            self._flows[packet.is_tcp, inside, packet.source] = now
            return packet._replace(destination=inside)
        binding = self._alive(self._by_port.get((packet.is_tcp, packet.destination[1])), now)
        if binding is None or not self._lets_in(binding, packet.source, now):
            return None
        if self.behaviour.inbound_refreshes:
            binding.used = now
            binding.sent_to[self._filter_key(packet.source)] = now
        return packet._replace(destination=binding.inside)

    def forward(self, inside: Socket) -> int:
        """Opens a port for both transports and everyone, as a person, PCP or UPnP has it done; returns the port."""
        port = inside[1]
        while port in self._forwards or {(True, port), (False, port)} & self._by_port.keys():
            port = FIRST_PORT + (port - FIRST_PORT + 1) % (LAST_PORT - FIRST_PORT + 1)
        self._forwards[port], self._forwarded[inside] = inside, port
        return port

    def forget_all(self) -> None:
        """What a reboot does; sequential ports begin somewhere else, so that old mappings do not come back."""
        self._by_key.clear()
        self._by_port.clear()
        self._forwards.clear()
        self._forwarded.clear()
        self._flows.clear()
        self._next_port = self._chance.randint(20_000, 40_000)

    def _goes_by_forward(self, packet: Packet, now: Instant) -> bool:
        """Answers to what came in by the forward do, and new flows; one that has a mapping from before keeps it."""
        lifetime_s = self.behaviour.tcp_lifetime_s if packet.is_tcp else self.behaviour.lifetime_s
        flow = (packet.is_tcp, packet.source, packet.destination)
        if now - self._flows.get(flow, -lifetime_s) < lifetime_s:
            self._flows[flow] = now
            return True
        key = (packet.is_tcp, packet.source, self._mapping_key(packet.destination))
        return self._alive(self._by_key.get(key), now) is None

    def _mapped(self, packet: Packet, now: Instant) -> _Binding | None:
        is_tcp = packet.is_tcp
        key = (is_tcp, packet.source, self._mapping_key(packet.destination))
        if (binding := self._alive(self._by_key.get(key), now)) is not None:
            return binding
        port = self._free_port(is_tcp, packet.source[1], now)
        if port is None:
            return None
        lifetime_s = self.behaviour.tcp_lifetime_s if is_tcp else self.behaviour.lifetime_s
        binding = _Binding(packet.source, key, (is_tcp, port), lifetime_s, now)
        self._by_key[key] = self._by_port[is_tcp, port] = binding
        return binding

    def _alive(self, binding: _Binding | None, now: Instant) -> _Binding | None:
        if binding is None or now - binding.used <= binding.lifetime_s:
            return binding
        del self._by_key[binding.key], self._by_port[binding.port]
        return None

    def _lets_in(self, binding: _Binding, source: Socket, now: Instant) -> bool:
        if self.behaviour.filtering is Filtering.ENDPOINT_INDEPENDENT:
            return True
        sent = binding.sent_to.get(self._filter_key(source))
        return sent is not None and now - sent <= binding.lifetime_s

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

    def _free_port(self, is_tcp: bool, inside_port: int, now: Instant) -> int | None:
        step = 1
        match self.behaviour.port_choice:
            case PortChoice.PRESERVE:
                first = inside_port
            case PortChoice.SEQUENTIAL:
                self._serve_others(now)
                first, step = self._next_port, self.behaviour.stride
            case PortChoice.RANDOM:
                first = self._chance.randint(FIRST_PORT, LAST_PORT)
        for tried in range(LAST_PORT - FIRST_PORT + 1):
            port = FIRST_PORT + (first - FIRST_PORT + tried * step) % (LAST_PORT - FIRST_PORT + 1)
            if port not in self._forwards and self._alive(self._by_port.get((is_tcp, port)), now) is None:
                self._next_port = port + step
                return port
        return None

    def _serve_others(self, now: Instant) -> None:
        expected = (now - self._others_seen) * self.behaviour.others_a_second
        self._others_seen = now
        if expected > 0.0:
            mappings = max(0, round(self._chance.gauss(expected, expected**0.5)))
            self._next_port += mappings * self.behaviour.stride


class FirewallTable:
    """A stateful firewall: translates nothing, lets in only what answers."""

    def __init__(self, lifetime_s: float = 120.0, tcp_lifetime_s: float = 7440.0) -> None:
        self._lifetimes_s = {False: lifetime_s, True: tcp_lifetime_s}
        self._sent: dict[tuple[bool, Socket, Socket], Instant] = {}

    def outbound(self, packet: Packet, now: Instant) -> Packet | None:
        self._sent[packet.is_tcp, packet.source, packet.destination] = now
        return packet

    def inbound(self, packet: Packet, now: Instant) -> Packet | None:
        flow = (packet.is_tcp, packet.destination, packet.source)
        sent = self._sent.get(flow)
        if sent is None or now - sent > self._lifetimes_s[packet.is_tcp]:
            return None
        self._sent[flow] = now
        return packet

    def forget_all(self) -> None:
        self._sent.clear()
