"""Time and wires of the simulated world."""

from __future__ import annotations

import random
from functools import partial

from tests.sim.link import Link, Packet, Quality
from tests.sim.schedule import Schedule

PACKET = Packet(("192.0.2.1", 1), ("192.0.2.2", 2), bytes(100))


def arrivals(schedule: Schedule, chance: random.Random, quality: Quality, count: int) -> list[tuple[int, float]]:
    """Sends `count` numbered packets 1 ms apart; returns (number, delay) in order of arrival."""
    link = Link(schedule, chance, quality)
    arrived: list[tuple[int, float]] = []

    def send(number: int) -> None:
        sent_at = schedule.now
        packet = Packet(PACKET.source, (PACKET.destination[0], number + 1), PACKET.payload)
        link.carry(packet, lambda p: arrived.append((p.destination[1] - 1, schedule.now - sent_at)))

    for number in range(count):
        schedule.after(number / 1000, partial(send, number))
    schedule.run_for(10.0)
    return arrived


def test_actions_run_in_order_of_time_and_then_of_asking(schedule: Schedule) -> None:
    done: list[str] = []
    schedule.after(2.0, lambda: done.append("late"))
    schedule.after(1.0, lambda: done.append("first"))
    schedule.after(1.0, lambda: done.append("second"))
    schedule.after(1.5, lambda: done.append("cancelled")).cancel()
    schedule.run_for(1.0)
    assert done == ["first", "second"]
    schedule.run_for(5.0)
    assert done == ["first", "second", "late"]
    assert schedule.now == 1006.0


def test_an_action_asked_for_in_the_past_runs_now(schedule: Schedule) -> None:
    seen: list[float] = []
    schedule.at(3.0, lambda: seen.append(schedule.now))
    schedule.run_for(0.0)
    assert seen == [1000.0]


def test_waiting_for_a_condition_stops_at_the_instant_when_it_holds(schedule: Schedule) -> None:
    done: list[int] = []
    for number in range(10):
        schedule.after(float(number), partial(done.append, number))
    assert schedule.run_until_true(lambda: len(done) == 4, within_s=100.0)
    assert schedule.now == 1003.0
    assert not schedule.run_until_true(lambda: len(done) == 99, within_s=2.5)
    assert schedule.now == 1005.5


def test_a_clean_link_delivers_everything_in_order_after_its_latency(schedule: Schedule, chance: random.Random) -> None:
    got = arrivals(schedule, chance, Quality(latency_s=0.02), 50)
    assert [number for number, _ in got] == list(range(50))
    assert all(abs(delay - 0.02) < 1e-9 for _, delay in got)


def test_a_link_loses_and_doubles_about_as_often_as_it_says(schedule: Schedule, chance: random.Random) -> None:
    lossy = arrivals(schedule, chance, Quality(loss=0.3), 2000)
    assert 1300 < len(lossy) < 1500
    doubled = arrivals(schedule, chance, Quality(duplication=0.25), 2000)
    assert 2400 < len(doubled) < 2600


def test_packets_overtake_each_other_only_where_the_link_says_so(schedule: Schedule, chance: random.Random) -> None:
    got = [number for number, _ in arrivals(schedule, chance, Quality(reordering=0.2), 500)]
    assert sorted(got) == list(range(500))
    assert got != sorted(got)


def test_a_link_swallows_what_is_longer_than_its_mtu(schedule: Schedule, chance: random.Random) -> None:
    assert len(arrivals(schedule, chance, Quality(mtu=128), 5)) == 5
    assert arrivals(schedule, chance, Quality(mtu=127), 5) == []


def test_a_pulled_cable_carries_nothing(schedule: Schedule, chance: random.Random) -> None:
    link = Link(schedule, chance, Quality())
    link.up = False
    got: list[Packet] = []
    link.carry(PACKET, got.append)
    schedule.run_for(1.0)
    assert got == []
    assert link.lost == 1


def test_the_same_seed_makes_the_same_world() -> None:
    quality = Quality(jitter_s=0.01, loss=0.2, duplication=0.1, reordering=0.1)
    runs = [arrivals(Schedule(), random.Random(7), quality, 200) for _ in range(2)]
    assert runs[0] == runs[1]
