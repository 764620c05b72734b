"""A village in bad weather: datagrams are lost, doubled, late and replayed, channels break, hosts move and crash.

What stands on stable storage outlives a crash, nothing else does. The service is honest but forgetful of what was on
its way, except where a walk makes it repeat old messages. Everything follows from one seed.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict

from fabric.core.events import ServiceRejected
from fabric.core.machine import Calendar, drain
from fabric.core.node import Node
from fabric.core.records import PeerRecord
from fabric.core.settings import Settings
from fabric.core.status import PeerState
from fabric.dataplane.contract import Traffic
from fabric.wire.address import Address
from fabric.wire.rendezvous import Challenge, ToEndpoint, ToService, Welcome, WithdrawIntent, Withdrawn
from tests.core.fake_lane import FakeLane
from tests.core.town import UNIX
from tests.core.village import LATENCY_S, House, Village

OFFSET = UNIX - 1000.0
DETECTION_S = 15.0
"""A close that was lost is found out by silence: 7 s of keepalive and four probes, and late ones among them."""

MAX_TIMEOUTS_A_SECOND = 400
MAX_TIMEOUTS_AN_INSTANT = 12
KEPT = 400


class Storm(Village):
    """`loss`, `doubling` and `jitter_s` are the weather; `wishes` are what the people want."""

    def __init__(self, *names: str, seed: int, settings: Settings | None = None) -> None:
        self.loss = 0.0
        self.doubling = 0.0
        self.jitter_s = 0.0
        self.offsets: dict[str, float] = defaultdict(float)
        self.wishes: set[tuple[str, str]] = set()
        self.channels: Counter[str] = Counter()
        self.welcomed: dict[str, int] = {}
        self.old_datagrams: list[tuple[str, Address, bytes]] = []
        self.old_messages: list[tuple[str, ToEndpoint]] = []
        self.unwished_since: dict[tuple[str, str], float] = {}
        self.rings: Counter[tuple[str, int]] = Counter()
        self.rings_at: Counter[tuple[str, float]] = Counter()
        super().__init__(*names, settings=settings, seed=seed)

    # weather, and what people do

    def build(self, name: str, records: dict[str, PeerRecord] | None = None) -> House:
        """As in a village, with the host's own clock."""
        lane = FakeLane()
        number = sum(name.encode()) % 250 + 1
        address = self.houses[name].address if name in self.houses else Address(f"198.51.100.{number}", 5000)
        calendar = Calendar(OFFSET + self.offsets[name])
        kept = dict(records or {})
        stored, identity = list(kept.values()), self.town.identity(name)
        node = Node(identity, lane, calendar, self._random.randbytes, self.settings, stored, self.now)
        house = self.houses[name] = House(name, address, node, lane, records=kept)
        self.channels[name] += 1
        self._count_rings(house)
        node.handle_interfaces([ipaddress.ip_interface(f"{address.ip}/24")], address.port, self.now)
        self.settle(house)
        if self.is_service_up:
            self.connect(house)
        return house

    def connect(self, house: House) -> None:
        self.channels[house.name] += 1
        self._nonces[house.name] = self._random.randbytes(32)
        house.node.handle_service_connected(1, self.town.tls_certificate, self.now)
        self._say(house.name, Challenge(self._nonces[house.name]))

    def disconnect(self, house: House) -> None:
        """What was on its way in either direction is lost."""
        self.channels[house.name] += 1
        house.node.handle_service_lost(1, self.now)
        self.settle(house)

    def set_clock(self, house: House, offset_s: float) -> None:
        self.offsets[house.name] = offset_s
        house.node.handle_clock_set(OFFSET + offset_s, self.now)
        self.settle(house)

    def wish(self, name: str, peer: str, *, is_wished: bool, by_enabling: bool) -> None:
        house = self.houses[name]
        if is_wished:
            self.wishes.add((name, peer))
            house.node.add(peer, None, self.now)
            house.node.enable(peer, self.now)
        else:
            self.wishes.discard((name, peer))
            (house.node.disable if by_enabling else house.node.remove)(peer, self.now)
        self.settle(house)

    # what must hold at any time

    def check(self) -> None:
        """To be called about once a second."""
        for (one, two), house in [((h.name, p), h) for h in self.houses.values() for p in self.houses if p != h.name]:
            states = [status.state for status in house.node.status(self.now) if status.name == two]
            if {(one, two), (two, one)} <= self.wishes or PeerState.CONNECTED not in states:
                self.unwished_since.pop((one, two), None)
            else:
                since = self.unwished_since.setdefault((one, two), self.now)
                assert self.now - since <= DETECTION_S, f"{one} is connected to {two}, which does not wish it"
        assert max(self.rings.values(), default=0) <= MAX_TIMEOUTS_A_SECOND, self.rings.most_common(3)
        assert max(self.rings_at.values(), default=0) <= MAX_TIMEOUTS_AN_INSTANT, self.rings_at.most_common(3)
        self.rings_at.clear()

    def endure(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.run(min(1.0, end - self.now))
            self.check()

    # inside

    def _count_rings(self, house: House) -> None:
        ring = house.node.handle_timeout

        def count(now: float) -> None:
            self.rings[house.name, int(now)] += 1
            self.rings_at[house.name, now] += 1
            assert self.rings_at[house.name, now] <= 10 * MAX_TIMEOUTS_AN_INSTANT, f"{house.name} stands still at {now}"
            ring(now)

        house.node.handle_timeout = count  # type: ignore[method-assign]

    def settle(self, house: House) -> None:
        """As in a village; what is said to the service arrives only while the channel that it was said on stands."""
        while events := self._take_events(house):
            self.keep(house, events)
            house.node.handle_stored(self.now)
            if any(isinstance(event, ServiceRejected) for event in events):
                self._later(1.0, lambda: self._connect_again(house))
        for transmit in drain(house.node.poll_transmit):
            self._send(house, transmit.to, transmit.payload)
        channel = self.channels[house.name]
        for _link, message in drain(house.node.poll_message):
            self._later(LATENCY_S, lambda m=message: self._serve_over(house, channel, m))  # type: ignore[misc]
        said, house.lane.said[:] = list(house.lane.said), []
        for index, payload, to in said:
            self._send(house, to, payload, index=index)

    def _send(self, sender: House, to: Address, payload: bytes, index: int | None = None) -> None:
        source = sender.address
        self.datagrams[sender.name] += 1
        target = next((h.name for h in self.houses.values() if h.address == to), None)
        if target is None or self.drop(sender.name, target):
            return
        if index is None:
            self.old_datagrams = [*self.old_datagrams[-KEPT:], (target, source, payload)]
        copies = 2 if index is None and self._random.random() < self.doubling else 1
        for _ in range(copies):
            if self._random.random() >= self.loss:
                late_s = self._random.random() * self.jitter_s
                self._later(LATENCY_S + late_s, lambda: self._deliver(target, to, source, payload, index))

    def _deliver_record(self, house: House, source: Address, payload: bytes, index: int) -> None:
        keys = house.lane.keys.get(index)
        super()._deliver_record(house, source, payload, index)
        if keys is not None and self._random.random() < 0.2:
            house.node.handle_traffic([Traffic(keys.peer, index, 0, 3, None, self.now, 3, None)], self.now)

    def _say(self, name: str, message: ToEndpoint) -> None:
        """As the service does it: nothing is said on a channel whose other end has not proven itself."""
        channel = self.channels[name]
        if isinstance(message, Welcome):
            self.welcomed[name] = channel
        elif not isinstance(message, Challenge) and self.welcomed.get(name) != channel:
            return
        self.old_messages = [*self.old_messages[-KEPT:], (name, message)]
        self._later(LATENCY_S, lambda: self._hear(name, message) if self.channels[name] == channel else None)

    def _connect_again(self, house: House) -> None:
        if self.is_service_up and self.houses[house.name] is house and not house.node.is_service_up:
            self.connect(house)

    def _serve_over(self, house: House, channel: int, message: ToService) -> None:
        if self.channels[house.name] != channel:
            return
        if isinstance(message, WithdrawIntent) and (message.peer, house.name) in self._intents:
            self._say(message.peer, Withdrawn(house.name))
        self._serve(house, message)
