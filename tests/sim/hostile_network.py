"""A network that does to packets whatever the owner of every router between two houses could do to them.

It keeps what it has seen, and sends any of it again: to anybody, as from anybody, now or minutes later.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from tests.sim.damage import damaged
from tests.sim.link import Packet, Segment
from tests.sim.network import WEB_PORT, Realm
from tests.sim.world import World

KEPT = 2000
LONG_S = 60.0


class HostileNetwork:
    """`rate` is the share of packets on the internet that meet with mischief; 0 is an honest network. `did` counts."""

    def __init__(self, world: World, rate: float = 0.0) -> None:
        self.rate = rate
        self.did: Counter[str] = Counter()
        self._internet = world.network.internet
        self._schedule = world.schedule
        self._chance = world.chance
        self._kept: deque[Packet] = deque(maxlen=KEPT)
        world.network.meddle = self._meddle
        both = [self.drop, self.delay, self.copy, self.replay]
        self._of_tcp: list[Callable[[Packet], None]] = [*both, self.reset]
        self._of_udp: list[Callable[[Packet], None]] = [
            *both,
            self.damage,
            self.forge_source,
            self.redirect,
            self.replay_elsewhere,
            self.reflect,
        ]

    def _meddle(self, realm: Realm, packet: Packet) -> None:
        if realm is not self._internet:
            realm.forward(packet)
            return
        self._kept.append(packet)
        if self._chance.random() >= self.rate:
            realm.forward(packet)
            return
        verb = self._chance.choice(self._of_tcp if packet.is_tcp else self._of_udp)
        self.did[verb.__name__] += 1
        verb(packet)

    def drop(self, packet: Packet) -> None:
        pass

    def delay(self, packet: Packet) -> None:
        """By a moment, so that others overtake it, or by a minute."""
        self._later(packet)

    def copy(self, packet: Packet) -> None:
        for _ in range(self._chance.randrange(1, 4)):
            self._internet.forward(packet)
        self._later(packet)

    def replay(self, packet: Packet) -> None:
        """Something that was said before comes again, where it went then."""
        self._internet.forward(packet)
        again = self._chance.choice(self._kept)
        if not again.is_tcp:
            self._internet.forward(again)

    def damage(self, packet: Packet) -> None:
        self._internet.forward(packet._replace(payload=damaged(packet.payload, self._chance)))

    def forge_source(self, packet: Packet) -> None:
        """As another NAT would on the way, or somebody who sits closer to the one that it is for."""
        self._internet.forward(packet._replace(source=self._chance.choice(self._kept).source))

    def redirect(self, packet: Packet) -> None:
        self._internet.forward(packet._replace(destination=self._chance.choice(self._kept).destination))

    def replay_elsewhere(self, packet: Packet) -> None:
        self._internet.forward(packet)
        other, another = self._chance.choice(self._kept), self._chance.choice(self._kept)
        self._internet.forward(Packet(other.source, another.destination, packet.payload))
        self._internet.forward(Packet(packet.source, packet.destination, other.payload))

    def reflect(self, packet: Packet) -> None:
        self._internet.forward(packet._replace(source=packet.destination, destination=packet.source))

    def reset(self, packet: Packet) -> None:
        """Ends a TCP connection, as anybody can who sees its numbers; what is inside of TLS stays as it is."""
        self._internet.forward(packet._replace(payload=b"", segment=Segment(reset=True)))
        if WEB_PORT not in (packet.source[1], packet.destination[1]) and packet.payload:
            self._internet.forward(packet._replace(payload=damaged(packet.payload, self._chance)))

    def _later(self, packet: Packet) -> None:
        delay_s = self._chance.choice((0.05, 1.0, LONG_S)) * self._chance.random()
        self._schedule.after(delay_s, partial(self._internet.forward, packet))
