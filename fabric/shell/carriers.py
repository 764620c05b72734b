"""All ways that datagrams come and go, as one: UDP sockets, TCP connections, relays over UDP and over TLS.

pump --send_batch--> main UDP socket, side sockets, relays over UDP     (see `udp`)
                 |-> TCP connections, relays over TLS                   full: dropped and counted, nobody waits
pump <--readers----- UDP sockets
     <--receive----- TCP connections, relays over TLS, a batch at a time
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Protocol

from fabric.dataplane.contract import Drop
from fabric.shell.tcp import TcpLinks
from fabric.shell.udp import Reader, TooLong, UdpSockets
from fabric.wire.address import Address, Target, Transport, target_of


class RelayLinks(Protocol):
    """The connections to relays over TLS; see `relay_link`. What it doesn't carry it counts itself, in `drops`."""

    drops: Counter[Drop]

    def send(self, payload: bytes, target: Target) -> bool:
        """Takes a datagram for a relay, or for a channel at it; never waits."""


class Carriers:
    """What `Pump` takes as its ways. `tcp` must count its drops where `udp` does."""

    def __init__(self, udp: UdpSockets, tcp: TcpLinks | None = None, relay_links: RelayLinks | None = None) -> None:
        self._udp = udp
        self._tcp = tcp
        self._relay_links = relay_links
        self.readers: tuple[Reader, ...] = udp.readers
        udp.elsewhere = self._send_elsewhere

    @property
    def drops(self) -> Counter[Drop]:
        """All of them, in one counter; whoever has taken them clears it."""
        if self._relay_links is not None and self._relay_links.drops:
            self._udp.drops.update(self._relay_links.drops)
            self._relay_links.drops.clear()
        return self._udp.drops

    def send_batch(self, batch: Sequence[tuple[bytes, Target]], start: int = 0) -> int:
        """Sends from `start` on; returns how far it came: less than `len(batch)` where a UDP queue is full."""
        done = self._udp.send_batch(batch, start)
        if self._tcp is not None:
            self._tcp.flush()
        return done

    async def wait_writable(self, target: Target) -> None:
        await self._udp.wait_writable(target)

    def transmit(self, to: Address, payload: bytes) -> None:
        """Sends what core itself has to say. Core answers nobody who has shown nothing, so a TCP connection that it
        speaks on is vouched for."""
        self.vouch((to,))
        if self.send_batch(((payload, target_of(to)),)) == 0:
            self._udp.drops[Drop.BACKPRESSURE] += 1

    def vouch(self, sources: Collection[Address]) -> None:
        """Something authentic came from each of these."""
        if self._tcp is not None:
            for source in sources:
                if source.transport is Transport.TCP:
                    self._tcp.vouch(source)

    @property
    def has_too_long(self) -> bool:
        return self._udp.has_too_long

    def take_too_long(self) -> list[TooLong]:
        return self._udp.take_too_long()

    def open_extra(self, count: int) -> tuple[int, ...]:
        """Returns the numbers of new UDP sockets, as many as there may be."""
        return self._udp.side.open(count)

    def close_extra(self, vias: Collection[int]) -> None:
        self._udp.side.close(vias)

    def _send_elsewhere(self, datagram: bytes, target: Target) -> bool:
        transport = target[2] if len(target) == 4 else Transport.UDP
        if transport is Transport.TCP and self._tcp is not None:
            self._tcp.send(datagram, target)
        elif transport is Transport.RELAY_TLS and self._relay_links is not None:
            self._relay_links.send(datagram, target)
        else:
            self._udp.drops[Drop.NO_PATH] += 1
        return True
