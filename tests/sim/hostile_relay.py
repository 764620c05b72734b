"""A relay that was taken over: it has the product's relay inside, and meddles with all that this one would send."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from discovery.core.relay import Relay
from fabric.wire.address import Address
from fabric.wire.datagram import DatagramKind, classify
from fabric.wire.relay import (
    Bound,
    Challenge,
    Refreshed,
    Refused,
    RefusedReason,
    encode_relay_message,
    unwrap_relayed,
    wrap_relayed,
)
from tests.sim.damage import damaged
from tests.sim.network import Network
from tests.sim.relay_host import RelayHost
from tests.sim.schedule import Schedule
from tests.sim.world import World

KEPT = 1000
LONG_S = 60.0


class HostileRelay(RelayHost):
    """Honest until `turn`. `rate` is the share of what it sends that meets with mischief; `did` counts."""

    def __init__(self, network: Network, schedule: Schedule, ip: str, make: Callable[[], Relay]) -> None:
        self.rate = 0.0
        self.did: Counter[str] = Counter()
        self._chance = random.Random(ip)
        self._kept: deque[tuple[Address, bytes]] = deque(maxlen=KEPT)
        super().__init__(network, schedule, ip, make)

    def turn(self, world: World, rate: float) -> None:
        """From now on; with a rate of 0 it is honest again."""
        self.rate = rate
        self._chance = world.chance

    def emit(self, to: Address, payload: bytes) -> None:
        if not self.rate:
            super().emit(to, payload)
            return
        self._kept.append((to, payload))
        if self._chance.random() >= self.rate:
            super().emit(to, payload)
            return
        verbs: list[Callable[[Address, bytes], None]] = [
            self.drop,
            self.delay,
            self.copy,
            self.damage,
            self.damage_inside,
            self.redirect,
            self.replay,
            self.cross,
            self.lie,
        ]
        verb = self._chance.choice(verbs)
        self.did[verb.__name__] += 1
        verb(to, payload)

    def drop(self, to: Address, payload: bytes) -> None:
        pass

    def delay(self, to: Address, payload: bytes) -> None:
        delay_s = self._chance.choice((0.05, 1.0, LONG_S)) * self._chance.random()
        self._schedule.after(delay_s, partial(super().emit, to, payload))

    def copy(self, to: Address, payload: bytes) -> None:
        for _ in range(3):
            super().emit(to, payload)
        self.delay(to, payload)

    def damage(self, to: Address, payload: bytes) -> None:
        super().emit(to, damaged(payload, self._chance))

    def damage_inside(self, to: Address, payload: bytes) -> None:
        """What it carries is changed; how it is carried is in order."""
        if classify(payload) is DatagramKind.RELAYED:
            channel, inner = unwrap_relayed(payload)
            payload = wrap_relayed(channel, damaged(inner, self._chance) or b"\0")
        super().emit(to, payload)

    def redirect(self, to: Address, payload: bytes) -> None:
        """To anybody else who is bound here, as it is."""
        super().emit(self._chance.choice(self._kept)[0], payload)

    def replay(self, to: Address, payload: bytes) -> None:
        super().emit(to, payload)
        super().emit(*self._chance.choice(self._kept))

    def cross(self, to: Address, payload: bytes) -> None:
        """What was for one channel comes out on another, in either order and at either end."""
        other, theirs = self._chance.choice(self._kept)
        if classify(payload) is classify(theirs) is DatagramKind.RELAYED:
            (channel, inner), (their_channel, their_inner) = unwrap_relayed(payload), unwrap_relayed(theirs)
            super().emit(to, wrap_relayed(channel, their_inner))
            super().emit(other, wrap_relayed(their_channel, inner))
        else:
            super().emit(to, payload)

    def lie(self, to: Address, payload: bytes) -> None:
        """Answers nobody asked for, over names and channels that it knows or makes up."""
        name, channel = self._chance.randbytes(16), self._chance.randrange(1, 2**32)
        if classify(payload) is DatagramKind.RELAYED:
            channel, _ = unwrap_relayed(payload)
        elif len(payload) >= 20:
            name = payload[4:20]
        said = self._chance.choice(
            (
                Challenge(name, self._chance.randbytes(16)),
                Bound(name, channel, 65_535),
                Refreshed(()),
                Refused(name, RefusedReason.GRANT),
            )
        )
        super().emit(to, encode_relay_message(said))
