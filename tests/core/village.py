"""Nodes on one flat network under virtual time, with a service that does as it is told.

The lane here carries control messages in the clear and frames not at all: what is tested is who believes what and
when. Sealing is the data plane's, and tested there; both together run in `tests/sim`.
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fabric.core.events import Event, ForgetRecord, StoreRecord
from fabric.core.machine import Calendar, drain
from fabric.core.node import Node
from fabric.core.records import PeerRecord
from fabric.core.settings import Settings
from fabric.core.status import PeerState, PeerStatus
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_CONTROL_SERVER
from fabric.dataplane.contract import Control, Traffic
from fabric.wire.address import Address
from fabric.wire.rendezvous import (
    Authenticate,
    Challenge,
    DeliverOffer,
    IntentNoted,
    Introduction,
    PublishBundle,
    Revocations,
    SendOffer,
    StateIntent,
    ToEndpoint,
    ToService,
    Welcome,
    WithdrawIntent,
)
from tests.core.fake_lane import FakeLane
from tests.core.town import UNIX, Town

LATENCY_S = 0.01


@dataclass
class House:
    """One endpoint: its node, its lane, what it stored and told. `records` survive a restart."""

    name: str
    address: Address
    node: Node
    lane: FakeLane
    told: list[Event] = field(default_factory=list)
    records: dict[str, PeerRecord] = field(default_factory=dict)

    def status(self, peer: str, now: float) -> PeerStatus:
        return next(status for status in self.node.status(now) if status.name == peer)


class Village:
    """`drop` decides which datagrams are lost; `lie` may replace what the service says to somebody."""

    def __init__(self, *names: str, settings: Settings | None = None, seed: int = 1) -> None:
        self.town = Town()
        self.now = 1000.0
        self.settings = settings or Settings()
        self.houses: dict[str, House] = {}
        self.drop: Callable[[str, str], bool] = lambda _source, _target: False
        self.lie: Callable[[str, ToEndpoint], ToEndpoint | None] = lambda _to, message: message
        self.is_service_up = True
        self.datagrams: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._bundles: dict[str, bytes] = {}
        self._intents: dict[tuple[str, str], bytes] = {}
        self._nonces: dict[str, bytes] = {}
        for name in names:
            self.build(name)

    def build(self, name: str, records: dict[str, PeerRecord] | None = None) -> House:
        """Starts an endpoint, also again after a crash, with the records that had been stored."""
        lane = FakeLane()
        number = sum(name.encode()) % 250 + 1
        address = self.houses[name].address if name in self.houses else Address(f"198.51.100.{number}", 5000)
        kept = dict(records or {})
        node = Node(
            self.town.identity(name),
            lane,
            Calendar(UNIX - 1000.0),
            self._random.randbytes,
            self.settings,
            list(kept.values()),
            self.now,
        )
        house = self.houses[name] = House(name, address, node, lane, records=kept)
        node.handle_interfaces([ipaddress.ip_interface(f"{address.ip}/24")], address.port, self.now)
        self.settle(house)
        if self.is_service_up:
            self.connect(house)
        return house

    def connect(self, house: House) -> None:
        house.node.handle_service_connected(1, self.town.tls_certificate, self.now)
        self._nonces[house.name] = self._random.randbytes(32)
        self._say(house.name, Challenge(self._nonces[house.name]))

    def move(self, house: House, ip: str) -> None:
        """The host gets another address; nobody is told but itself."""
        house.address = Address(ip, house.address.port)
        house.node.handle_interfaces([ipaddress.ip_interface(f"{ip}/24")], house.address.port, self.now)
        self.settle(house)

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, condition: Callable[[], bool], seconds: float = 30.0) -> bool:
        end = self.now + seconds
        while not condition():
            at = self._next()
            if at > end:
                self.now = end
                return condition()
            self.now = max(self.now, at)
            while self._queue and self._queue[0][0] <= self.now:
                heapq.heappop(self._queue)[2]()
            for house in list(self.houses.values()):
                due = house.node.next_timeout()
                if due is not None and due <= self.now:
                    house.node.handle_timeout(self.now)
                    self.settle(house)
        return True

    def are_connected(self, one: str, two: str) -> bool:
        pairs = ((one, two), (two, one))
        return all(self.houses[a].status(b, self.now).state is PeerState.CONNECTED for a, b in pairs)

    def meet(self, one: str, two: str) -> None:
        for a, b in ((one, two), (two, one)):
            self.houses[a].node.add(b, None, self.now)
            self.settle(self.houses[a])
        assert self.run_until(lambda: self.are_connected(one, two)), [
            self.houses[one].status(two, self.now),
            self.houses[two].status(one, self.now),
        ]

    def send_frame(self, name: str, peer: str) -> None:
        """`name` seals some frames for `peer` under the session that is live."""
        house = self.houses[name]
        index = house.lane.sealing
        assert index is not None
        house.node.handle_traffic([Traffic(peer, index, 0, 10, None, self.now, 0, None)], self.now)
        self.settle(house)

    def settle(self, house: House) -> None:
        """The driver's rule: events, then transmits and messages, then what the lane has to send."""
        while events := self._take_events(house):
            house.told.extend(events)
            self.keep(house, events)
            house.node.handle_stored(self.now)
        for transmit in drain(house.node.poll_transmit):
            self._send(house, transmit.to, transmit.payload)
        for _link, message in drain(house.node.poll_message):
            self._later(LATENCY_S, lambda m=message: self._serve(house, m))  # type: ignore[misc]
        said, house.lane.said[:] = list(house.lane.said), []
        for index, payload, to in said:
            self._send(house, to, payload, index=index)

    @staticmethod
    def _take_events(house: House) -> list[Event]:
        return list(drain(house.node.poll_event))

    def keep(self, house: House, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case StoreRecord(record=record):
                    house.records[record.name] = record
                case ForgetRecord(name=name):
                    house.records.pop(name, None)
                case _:
                    pass

    def inject(self, source: Address, target: House, payload: bytes) -> None:
        """A stranger's datagram, delivered now."""
        target.node.handle_datagram(source, payload, self.now)
        self.settle(target)

    def tell(self, name: str, message: ToEndpoint) -> None:
        """The service says this to `name`, true or not."""
        self._say(name, message)

    def revoke(self, name: str) -> None:
        serial = self.town.identity(name).certificate.serial
        unix = UNIX - 1000.0 + self.now
        crl = self.town.authority.issue_crl({serial: unix}, 1, unix, unix + 86400)
        for house in self.houses:
            self._say(house, Revocations(crl))

    def _next(self) -> float:
        times = [house.node.next_timeout() for house in self.houses.values()]
        queue = [self._queue[0][0]] if self._queue else []
        return min([at for at in times if at is not None] + queue, default=float("inf"))

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), act))

    def _send(self, sender: House, to: Address, payload: bytes, index: int | None = None) -> None:
        source = sender.address
        target = next((h for h in self.houses.values() if h.address == to), None)
        self.datagrams[sender.name] += 1
        if target is not None and not self.drop(sender.name, target.name):
            name = target.name
            self._later(LATENCY_S, lambda: self._deliver(name, to, source, payload, index))

    def _deliver(self, name: str, to: Address, source: Address, payload: bytes, index: int | None) -> None:
        house = self.houses.get(name)
        if house is None or house.address != to:
            return
        if index is None:
            house.node.handle_datagram(source, payload, self.now)
        else:
            self._deliver_record(house, source, payload, index)
        self.settle(house)

    def _deliver_record(self, house: House, source: Address, payload: bytes, index: int) -> None:
        keys = house.lane.keys.get(index)
        if keys is None:
            return
        steered = house.lane.steered.get(keys.peer, (None, 0))[0]
        seen = source if source != steered else None
        house.node.handle_traffic([Traffic(keys.peer, index, 1, 0, self.now, None, 0, seen)], self.now)
        if payload:
            house.node.handle_control(Control(keys.peer, index, payload, source), self.now)

    # the service

    def _say(self, name: str, message: ToEndpoint) -> None:
        told = self.lie(name, message)
        if told is not None:
            self._later(LATENCY_S, lambda: self._hear(name, told))

    def _hear(self, name: str, message: ToEndpoint) -> None:
        house = self.houses.get(name)
        if self.is_service_up and house is not None:
            house.node.handle_service_message(1, message, self.now)
            self.settle(house)

    def _serve(self, house: House, message: ToService) -> None:
        if not self.is_service_up:
            return
        match message:
            case Authenticate(certificate=certificate, nonce=nonce):
                fields = (
                    b"home",
                    self._nonces[house.name],
                    nonce,
                    blake2b_256(self.town.tls_certificate),
                    blake2b_256(certificate),
                )
                signature = self.town.service_signer.sign(LABEL_CONTROL_SERVER, *fields)
                self._say(house.name, Welcome(signature, (), b"", UNIX))
            case PublishBundle(bundle=bundle):
                self._bundles[house.name] = bundle
            case StateIntent(intent=intent):
                self._introduce(house.name, intent)
            case WithdrawIntent(peer=peer):
                self._intents.pop((house.name, peer), None)
                self._say(house.name, IntentNoted(peer))
            case SendOffer(to=to, envelope=envelope) if to in self.houses:
                self._say(to, DeliverOffer(house.name, envelope))
            case _:
                pass

    def _introduce(self, name: str, intent: bytes) -> None:
        for other in self.houses:
            if self.town.states(intent, other):
                self._intents[name, other] = intent
                if (other, name) in self._intents:
                    self._say(name, self.introduction(other, name))
                    self._say(other, self.introduction(name, other))

    def introduction(self, of: str, to: str) -> Introduction:
        certificate = self.houses[of].node.certificate.der
        return Introduction(of, certificate, self._intents[of, to], self._bundles[of])
