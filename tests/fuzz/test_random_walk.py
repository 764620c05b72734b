"""Whatever happened before: when all is calm, those who both wish it are connected, and nobody else.

Each walk is a few hundred steps of weather, crashes, moves, wrong clocks, changed minds and a service that comes and
goes, and repeats itself. `FABRIC_WALKS=N` walks N seeds instead of the few of every day.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from fabric.core.settings import Settings
from fabric.wire.address import Address
from fabric.wire.rendezvous import Challenge, Renewed, Welcome
from tests.core.town import UNIX
from tests.core.village import House
from tests.fuzz.storm import OFFSET, Storm

pytestmark = pytest.mark.slow

WALKS = int(os.environ.get("FABRIC_WALKS", "5"))
STEPS = 60
NAMES = ("a.home", "b.home", "zz.home")
CALM_S = 60.0


class Walk:
    """One seed's way through the storm; `did` is what to look at when it ends badly."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        settings = Settings(intent_life_s=self.random.choice([600.0, 86400.0 * 30]))
        self.storm = Storm(*NAMES, seed=seed, settings=settings)
        self.did: list[str] = []

    def step(self) -> None:
        steps: list[tuple[int, Callable[[], object]]] = [
            (30, self.wait),
            (12, self.change_wish),
            (8, self.change_weather),
            (6, self.move),
            (6, self.crash),
            (6, self.break_channel),
            (3, self.lose_service),
            (3, self.set_clock),
            (3, self.renew),
            (6, self.repeat_datagram),
            (4, self.repeat_message),
            (4, self.call_without_need),
            (4, self.ping),
        ]
        (act,) = self.random.choices([act for _, act in steps], [weight for weight, _ in steps])
        self.did.append(f"{self.storm.now:.2f} {act.__name__}: {act()}")

    def house(self) -> House:
        return self.storm.houses[self.random.choice(NAMES)]

    def wait(self) -> float:
        seconds = self.random.choice([0.01, 0.03, 0.2, 1.0, 3.0, 10.0, 30.0, 130.0])
        self.storm.endure(seconds)
        return seconds

    def change_wish(self) -> tuple[str, str, bool, bool]:
        one, two = self.random.sample(NAMES, 2)
        is_wished, by_enabling = self.random.random() < 0.75, self.random.random() < 0.5
        self.storm.wish(one, two, is_wished=is_wished, by_enabling=by_enabling)
        return one, two, is_wished, by_enabling

    def change_weather(self) -> tuple[float, float, float]:
        self.storm.loss = self.random.choice([0.0, 0.05, 0.3, 1.0])
        self.storm.doubling = self.random.choice([0.0, 0.3])
        self.storm.jitter_s = self.random.choice([0.0, 0.05, 0.8])
        return self.storm.loss, self.storm.doubling, self.storm.jitter_s

    def move(self) -> tuple[str, str]:
        house = self.house()
        taken = {other.address.ip for other in self.storm.houses.values()}
        ip = self.random.choice([f"203.0.113.{n}" for n in range(1, 250) if f"203.0.113.{n}" not in taken])
        self.storm.move(house, ip)
        return house.name, ip

    def crash(self) -> str:
        house = self.house()
        self.storm.build(house.name, house.records)
        return house.name

    def break_channel(self) -> tuple[str, bool]:
        house, is_back = self.house(), self.random.random() < 0.7
        self.storm.disconnect(house)
        if is_back and self.storm.is_service_up:
            self.storm.connect(house)
        return house.name, is_back

    def lose_service(self) -> bool:
        storm = self.storm
        storm.is_service_up = not storm.is_service_up
        for house in storm.houses.values():
            storm.connect(house) if storm.is_service_up else storm.disconnect(house)
        return storm.is_service_up

    def set_clock(self) -> tuple[str, float]:
        """One clock at a time is wrong: two that were equally wrong have to wait until the time they believed in."""
        house, offset_s = self.house(), self.random.choice([0.0, -2.0, 100.0, -7200.0, 7200.0, 8 * 86400.0])
        for other in self.storm.houses.values():
            if other is not house and abs(self.storm.offsets[other.name]) > 1:
                self.storm.set_clock(other, 0.0)
        self.storm.set_clock(house, offset_s)
        return house.name, offset_s

    def renew(self) -> str:
        house = self.house()
        unix = OFFSET + self.storm.now
        self.storm.tell(house.name, Renewed(self.storm.town.certify(house.name, unix - 60, UNIX + 30 * 86400.0)))
        return house.name

    def repeat_datagram(self) -> str:
        if not self.storm.old_datagrams:
            return "none"
        name, source, payload = self.random.choice(self.storm.old_datagrams)
        if self.random.random() < 0.3:
            source = Address("192.0.2.66", 66)
        self.storm.inject(source, self.storm.houses[name], payload)
        return name

    def repeat_message(self) -> str:
        if not self.storm.old_messages:
            return "none"
        name, message = self.random.choice(self.storm.old_messages)
        if not isinstance(message, Challenge | Welcome):
            self.storm.houses[name].node.handle_service_message(1, message, self.storm.now)
            self.storm.settle(self.storm.houses[name])
        return f"{name} {type(message).__name__}"

    def call_without_need(self) -> str:
        house = self.house()
        house.node.handle_timeout(self.storm.now)
        house.node.handle_traffic([], self.storm.now)
        house.node.handle_clock_set(OFFSET + self.storm.offsets[house.name], self.storm.now)
        house.node.enable("nobody.home", self.storm.now)
        house.node.remove("nobody.home", self.storm.now)
        self.storm.settle(house)
        return house.name

    def ping(self) -> bool:
        one, two = self.random.sample(NAMES, 2)
        house = self.storm.houses[one]
        is_sent = house.node.ping(two, self.random.getrandbits(32), self.storm.now)
        self.storm.settle(house)
        return is_sent

    def calm_down(self) -> None:
        """Nothing is lost any more, the clocks are right, and the service is there; channels that stand are kept."""
        storm = self.storm
        storm.loss, storm.doubling, storm.jitter_s = 0.0, 0.0, 0.0
        for house in storm.houses.values():
            if storm.offsets[house.name]:
                storm.set_clock(house, 0.0)
        storm.is_service_up = True
        for house in storm.houses.values():
            if not house.node.is_service_up:
                storm.connect(house)

    def must_be_connected(self) -> list[tuple[str, str]]:
        wishes = self.storm.wishes
        return [(one, two) for one, two in sorted(wishes) if one < two and (two, one) in wishes]


@pytest.mark.parametrize("seed", range(WALKS))
def test_after_any_storm_those_who_both_wish_it_are_connected_and_nobody_else(seed: int) -> None:
    walk = Walk(seed)
    storm = walk.storm
    for one, two in ((NAMES[0], NAMES[1]), (NAMES[1], NAMES[0])):
        storm.wish(one, two, is_wished=True, by_enabling=False)
    for _ in range(STEPS):
        walk.step()
    walk.calm_down()
    pairs = walk.must_be_connected()
    began = storm.now
    while storm.now < began + CALM_S and not all(storm.are_connected(*pair) for pair in pairs):
        storm.endure(1.0)
    shown = [(h.name, s.name, s.state, s.why) for h in storm.houses.values() for s in h.node.status(storm.now)]
    assert all(storm.are_connected(*pair) for pair in pairs), (seed, pairs, shown, walk.did[-40:])
    storm.endure(200.0)
    assert all(storm.are_connected(*pair) for pair in pairs), (seed, pairs, shown)
