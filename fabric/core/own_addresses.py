"""What this endpoint tells of itself in offers: its candidates, and what its NAT does."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

from fabric.core.machine import Instant
from fabric.core.reach import is_one_host, is_private
from fabric.core.reflexive import Reflexive
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from fabric.wire.offer import MAX_CANDIDATES

LEAST_DOORS = 8
"""Room for TCP in an offer, whatever there is of UDP."""

MAX_OBSERVERS = 4
"""Peers whose word counts: a NAT shows all of them the same, or each something of no use to another."""

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class OwnAddresses:
    """`reflexive` is asked for what servers see of the UDP port; all else is told by the shell."""

    def __init__(self, reflexive: Reflexive) -> None:
        self._reflexive = reflexive
        self._interfaces: tuple[Interface, ...] = ()
        self._port = 0
        self._mapped: tuple[Address, ...] = ()
        self._tcp: tuple[Address, ...] = ()
        self._is_listening = False
        self._observed: dict[str, Address] = {}

    @property
    def port(self) -> int:
        return self._port

    @property
    def carries_tcp(self) -> bool | None:
        """Whether a server was reached from the TCP port; None where that is not known."""
        return True if self._tcp else None

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        return tuple(interface.network for interface in self._interfaces)

    def handle_interfaces(self, interfaces: Sequence[Interface], port: int, now: Instant) -> None:
        """What servers saw from the old network is worth nothing in the new one."""
        self._interfaces, self._port = tuple(sorted(set(interfaces), key=lambda i: (i.version, i))), port
        self._tcp = ()
        self._observed.clear()
        self._reflexive.handle_hosts([str(interface.ip) for interface in self._interfaces])
        self._reflexive.handle_moved(now)

    def handle_observed(self, peer: str, address: Address) -> bool:
        """A peer says where it sees the UDP port: what there is to go by where no server answers. Returns whether that
        is news. One address a peer, the newest, so that none can name many; and none that only it would see."""
        if address.transport is not Transport.UDP or is_private(address.ip) or not is_one_host(address, self.networks):
            return False
        before = self._fallback()
        if peer in self._observed or len(self._observed) < MAX_OBSERVERS:
            self._observed[peer] = replace(address, via=0)
        return self._fallback() != before

    def handle_mapped(self, addresses: Sequence[Address]) -> bool:
        """Ports that a router forwards to this one. Returns whether that is news."""
        was, self._mapped = self._mapped, tuple(addresses)
        return was != self._mapped

    def handle_listening(self, *, up: bool) -> bool:
        """Returns whether that is news to peers: a port that opened, but not one that closed, which opens again when
        it is needed."""
        was, self._is_listening = self._is_listening, self._is_listening or up
        return was != self._is_listening

    def handle_tcp(self, addresses: Sequence[Address]) -> bool:
        """Where servers see the TCP port. Kept while it is closed: it opens again with the same. Returns whether that
        is news, and not just the port of another connection through a NAT that has one for each."""
        if not addresses or (self._has_port_for_each and _ips(addresses) == _ips(self._tcp)):
            return False
        was, self._tcp = self._tcp, tuple(addresses)
        return was != self._tcp

    def candidates(self) -> tuple[Candidate, ...]:
        """Returns the candidates that an offer has room for, UDP first."""
        if not self._port:
            return ()
        hosts = [Address(str(i.ip), self._port) for i in self._interfaces]
        found = [Candidate(CandidateKind.HOST, address) for address in hosts]
        found += _others(CandidateKind.REFLEXIVE, self._reflexive.addresses or self._fallback(), found)
        found += _others(CandidateKind.MAPPED, self._mapped_or_forwarded(Transport.UDP), found)
        doors: list[Candidate] = []
        if self._is_listening or self._tcp:
            doors = [Candidate(CandidateKind.HOST, Address(a.ip, a.port, Transport.TCP)) for a in hosts]
            doors += _others(CandidateKind.REFLEXIVE, self._tcp, doors)
            doors += _others(CandidateKind.MAPPED, self._mapped_or_forwarded(Transport.TCP), doors)
        few_doors = _fitting(doors, max(MAX_CANDIDATES - len(found), LEAST_DOORS))
        return tuple(_fitting(found, MAX_CANDIDATES - len(few_doors)) + few_doors)

    @property
    def _has_port_for_each(self) -> bool:
        """Whether TCP connections from one port show different ones outside."""
        nat = self._reflexive.nat
        return nat.mapping.is_dependent or (not nat.carries_udp and len(self._tcp) > len(_ips(self._tcp)))

    def _fallback(self) -> tuple[Address, ...]:
        """What peers say, while no server does."""
        return () if self._reflexive.addresses else tuple(dict.fromkeys(self._observed.values()))

    def _mapped_or_forwarded(self, transport: Transport) -> list[Address]:
        """A NAT that shows every server another port tells nothing of the port that a person may have forwarded."""
        mapped = [address for address in self._mapped if address.transport is transport]
        if self._reflexive.nat.mapping.is_dependent:
            outside = dict.fromkeys(address.ip for address in self._reflexive.addresses if not address.is_ipv6)
            mapped += [Address(ip, self._port, transport) for ip in outside]
        return mapped


def _fitting(candidates: list[Candidate], room: int) -> list[Candidate]:
    """Of a host of many bridges, private addresses are left out first: on the LAN it is found by beacons, too."""
    excess = max(0, len(candidates) - room)
    hosts = [candidate for candidate in candidates if candidate.kind is CandidateKind.HOST]
    hosts.sort(key=lambda candidate: is_private(candidate.address.ip), reverse=True)
    left_out = set(hosts[:excess])
    return [candidate for candidate in candidates if candidate not in left_out][:room]


def _ips(addresses: Sequence[Address]) -> set[str]:
    return {address.ip for address in addresses}


def _others(kind: CandidateKind, addresses: Sequence[Address], known: Sequence[Candidate]) -> list[Candidate]:
    taken = {candidate.address for candidate in known}
    return [Candidate(kind, address) for address in addresses if address not in taken]
