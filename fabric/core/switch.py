"""A learning Ethernet switch with one port a peer: who is behind which port, and no more.

    static      the MAC of a peer's certificate: stands while the port stands, can't be learned away
    learned     behind a port in bridge mode: forgotten AGE_S after it was last seen, moves to where it is seen next

There is no verb that forwards from one port to another: what comes in on a port goes up, never across.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fabric.core.machine import Instant

AGE_S = 300.0
"""IEEE 802.1Q table 8-7: the recommended ageing time."""

SWEEP_S = 30.0
MAX_LEARNED_PER_PORT = 1024
MAX_LEARNED = 8192

PortT = TypeVar("PortT", bound=Hashable)


@dataclass(slots=True)
class _Learned(Generic[PortT]):
    port: PortT
    seen: Instant


class Switch(Generic[PortT]):
    """`look_up(mac)` returns the port for a destination of 6 bytes, or None: then `flood` names all of them.

    `own_mac` is never learned, so that a loop or a liar can't draw away what is meant for this host.
    """

    def __init__(self, own_mac: bytes) -> None:
        self._own_mac = own_mac
        self._static: dict[bytes, PortT] = {}
        self._mac_of: dict[PortT, bytes] = {}
        self._learned: dict[bytes, _Learned[PortT]] = {}
        self._count: dict[PortT, int] = {}
        self._ports: dict[bytes, PortT] = {}
        self._next_sweep: Instant | None = None
        # Bound once: the caller asks for every frame, and one dict look-up is all that there is to it.
        self.look_up: Callable[[bytes], PortT | None] = self._ports.get

    def add(self, port: PortT, mac: bytes) -> bool:
        """Makes `port` a port, reached at `mac`. False, and no change, where another port or this host has it."""
        if mac == self._own_mac or self._static.get(mac, port) != port:
            return False
        self._forget_static(port)
        self._forget(mac)
        self._static[mac] = self._ports[mac] = port
        self._mac_of[port] = mac
        self._count.setdefault(port, 0)
        return True

    def remove(self, port: PortT) -> None:
        """Forgets the port and everything behind it."""
        self._forget_static(port)
        if self._count.get(port):
            for mac in [mac for mac, entry in self._learned.items() if entry.port == port]:
                self._forget(mac)
        self._count.pop(port, None)

    def learn(self, mac: bytes, port: PortT, now: Instant) -> bool:
        """Notes that `mac` was seen behind `port`. False where it can't be there: the frame is to be dropped.

        Where a table is full the MAC is not learned, and the answer is still True: frames to it are flooded.
        """
        if mac[0] & 1 or mac == self._own_mac or port not in self._count:
            return False
        if mac in self._static:
            return self._static[mac] == port
        entry = self._learned.get(mac)
        if entry is not None and entry.port == port:
            entry.seen = now
        elif self._has_room(port, moved=entry is not None):
            self._forget(mac)
            self._learned[mac] = _Learned(port, now)
            self._ports[mac] = port
            self._count[port] += 1
            self._next_sweep = self._next_sweep or now + SWEEP_S
        return True

    def flood(self) -> Iterable[PortT]:
        """Returns every port, for broadcast, multicast, and a destination that `look_up` doesn't know."""
        return self._count

    def age(self, now: Instant) -> None:
        """Forgets what was not seen for `AGE_S`."""
        if self._next_sweep is None or now < self._next_sweep:
            return
        for mac in [mac for mac, entry in self._learned.items() if entry.seen + AGE_S <= now]:
            self._forget(mac)
        self._next_sweep = now + SWEEP_S if self._learned else None

    def next_timeout(self) -> Instant | None:
        return self._next_sweep

    def _has_room(self, port: PortT, *, moved: bool) -> bool:
        return self._count[port] < MAX_LEARNED_PER_PORT and (moved or len(self._learned) < MAX_LEARNED)

    def _forget(self, mac: bytes) -> None:
        entry = self._learned.pop(mac, None)
        if entry is not None:
            self._count[entry.port] -= 1
            del self._ports[mac]

    def _forget_static(self, port: PortT) -> None:
        mac = self._mac_of.pop(port, None)
        if mac is not None:
            del self._static[mac], self._ports[mac]
