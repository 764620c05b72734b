"""The peers of a node: found by name and by gate, when each of them is due, and what no two of them may share."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Set

from fabric.core.gates import Gates, draw_index
from fabric.core.identity import Identity
from fabric.core.machine import Draw, Instant
from fabric.core.peer import Peer
from fabric.core.status import PeerState
from fabric.errors import CertificateError
from fabric.identity.certificate import Certificate
from fabric.wire.address import Address


class Circle:
    """`note` each peer after every change of it."""

    def __init__(self, identity: Identity, draw: Draw) -> None:
        self._identity = identity
        self._draw = draw
        self._peers: dict[str, Peer] = {}
        self._gates: Gates[Peer] = Gates()
        self._deadlines: dict[str, Instant] = {}
        self._connected: set[str] = set()

    @property
    def connected(self) -> Set[str]:
        """The names of those in reach."""
        return self._connected

    @property
    def open_gates(self) -> Collection[int]:
        """Their indices."""
        return self._gates.indices

    def __iter__(self) -> Iterator[Peer]:
        """All of them, also where some are removed meanwhile."""
        return iter(list(self._peers.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._peers

    def __getitem__(self, name: str) -> Peer:
        return self._peers[name]

    def get(self, name: str) -> Peer | None:
        return self._peers.get(name)

    def find(self, gate_index: int) -> Peer | None:
        """Returns whose gate that is, where it is open."""
        return self._gates.find(gate_index)

    def add(self, peer: Peer) -> None:
        self._peers[peer.name] = peer

    def remove(self, name: str) -> None:
        self._peers.pop(name, None)
        self._deadlines.pop(name, None)
        self._gates.close(name)
        self._connected.discard(name)

    def note(self, peer: Peer) -> None:
        due = peer.next_timeout()
        if due is not None:
            self._deadlines[peer.name] = due
        else:
            self._deadlines.pop(peer.name, None)
        self._gates.set(peer.name, peer, peer.gate_index)
        (self._connected.add if peer.state is PeerState.CONNECTED else self._connected.discard)(peer.name)

    def due(self, now: Instant) -> list[Peer]:
        return [self._peers[name] for name, due in self._deadlines.items() if due <= now]

    def next_timeout(self) -> Instant | None:
        return min(self._deadlines.values(), default=None)

    # what no two of them may share

    def allocate_index(self) -> int:
        """Returns a random index (so that nothing can be told from it) that no session of this node uses."""
        while True:
            index = int.from_bytes(self._draw(4))
            if not any(peer.holds(index) for peer in self._peers.values()):
                return index

    def allocate_gate_index(self) -> int:
        return draw_index(self._draw, {peer.papers.record.gate_index for peer in self._peers.values()})

    def is_overlay(self, ip: str) -> bool:
        address = ipaddress.ip_address(ip)
        return any(address in certificate.addresses for certificate in self._certificates())

    def check_address(self, certificate: Certificate) -> None:
        """An address belongs to one name: a certificate that claims another's is refused (protocol.md section 9).

        Raises `CertificateError`.
        """
        for other in self._certificates():
            if other.name != certificate.name and not set(certificate.addresses).isdisjoint(other.addresses):
                raise CertificateError(f"{certificate.name} claims an address of {other.name}")

    def is_wanted_by_another(self, peer: Peer, link: Address) -> bool:
        """Whether a connection that `peer` has no use for carries another one's datagrams: a peer may have named
        another's address as its own, and must not be able to have its connections closed."""
        return any(other.lives_on(link) for other in self._peers.values() if other is not peer)

    def _certificates(self) -> list[Certificate]:
        """The own one, and the peers' that hold."""
        papers = [peer.papers for peer in self._peers.values()]
        held = [each.certificate for each in papers if each.certificate is not None and not each.void]
        return [self._identity.certificate, *held]
