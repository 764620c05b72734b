"""Relays and a service that want this endpoint's line, its signatures or somebody else's: how much they get."""

from __future__ import annotations

import cProfile
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.core.events import RelayLinkWanted
from fabric.core.machine import drain
from fabric.core.relays import CALL_PAUSE_S, CALLS_AT_ONCE, MAX_RELAYS, Relays, ResolvedRelay
from fabric.errors import DecodeError
from fabric.identity.grant import grant_id
from fabric.wire.address import Address, Transport
from fabric.wire.relay import (
    Bind,
    Bound,
    Challenge,
    Refreshed,
    Refused,
    RefusedReason,
    RelayMessage,
    decode_relay_message,
    encode_relay_message,
)
from fabric.wire.rendezvous import RelayPlace
from tests.core.relay_scene import IPV4, PLACE, TLS, UDP, Scene, no_udp, over_tls, settled

VICTIM = "192.0.2.66"


class Silence(Scene):
    """Nobody is there. Names are resolved to the victim, at up to four addresses each."""

    def __init__(self) -> None:
        super().__init__()
        self.machines.clear()

    def aim(self, places: tuple[RelayPlace, ...]) -> None:
        ips = (VICTIM, "192.0.2.67", "2001:db8::66", "2001:db8::67", "192.0.2.68")
        self.relays.handle_relays([ResolvedRelay(place, ips) for place in places], self.now)
        self.settle()

    def hour(self) -> int:
        since = len(self.sent)
        self.run(3600.0)
        return len(self.sent) - since


def test_relays_that_are_somebody_else_get_few_datagrams() -> None:
    scene = Silence()
    places = tuple(RelayPlace(f"r{n}.example", 53 + n, 0) for n in range(64))
    for n in range(16):
        scene.granted(f"p{n}.home", places=places[4 * n : 4 * n + 4])
    scene.aim(places)
    assert scene.hour() <= CALLS_AT_ONCE + 3600 / CALL_PAUSE_S + 2
    assert scene.hour() <= 3600 / CALL_PAUSE_S + 2
    to_one = sum(to == Address(VICTIM, 53, Transport.RELAY_UDP) for _, to, _ in scene.sent)
    assert to_one <= 2 * 80


@pytest.mark.slow
def test_relays_that_change_all_the_time_get_no_more() -> None:
    scene = Silence()
    for second in range(3600):
        place = RelayPlace("r.example", 1 + second, 0)
        scene.granted("b.home", places=(place,))
        scene.aim((place,))
        scene.run(1.0)
        assert len(scene.relays.states()) <= 2
    assert len(scene.sent) <= CALLS_AT_ONCE + 3600 / CALL_PAUSE_S + 1


@pytest.mark.slow
def test_a_relay_that_refuses_all_grants_gives_no_victim_beside_it_more() -> None:
    """A name leads to the hostile relay and to the victim; each refusal is a reason to look again."""
    scene = Scene()
    peers = [f"p{n}.home" for n in range(400)]
    for peer in peers:
        scene.relays.handle_granted(peer, scene.grant(peer)[:-1] + b"!", (PLACE,), scene.now)
    scene.relays.handle_relays([ResolvedRelay(PLACE, (IPV4, VICTIM))], scene.now)
    scene.settle()
    scene.run(60.0)
    assert sum(to.ip == VICTIM for _, to, _ in scene.sent) <= CALLS_AT_ONCE + 60 / CALL_PAUSE_S + 1


def test_doubts_without_end_call_strangers_no_more_often() -> None:
    scene = Silence()
    scene.granted("b.home")
    scene.aim((PLACE,))
    for _ in range(3600):
        scene.relays.doubt(scene.now)
        scene.run(1.0)
    assert len(scene.sent) <= CALLS_AT_ONCE + 3600 / CALL_PAUSE_S + 1


def test_a_move_makes_relays_called_again_at_once() -> None:
    scene = Silence()
    scene.granted("b.home")
    scene.aim((PLACE,))
    for _ in range(1000):
        scene.relays.doubt(scene.now)
        scene.run(1.0)
    since = scene.now
    scene.relays.handle_moved(scene.now)
    scene.settle()
    scene.run(0.1)
    assert sum(at >= since for at, _, _ in scene.sent) == 4


@pytest.mark.parametrize("ip", ["224.0.0.251", "255.255.255.255", "0.0.0.0", "ff02::fb", "::", "::ffff:192.0.2.1"])
def test_a_relay_is_one_host(ip: str) -> None:
    scene = Scene()
    scene.granted("b.home")
    scene.resolve(ip)
    scene.run(10.0)
    assert not scene.sent


def test_a_tls_relay_that_never_answers_is_connected_ever_more_rarely() -> None:
    scene = Scene()
    scene.carries = lambda relay: False
    scene.granted("b.home", places=(RelayPlace("relay.example", 0, 443),))
    scene.resolve(place=RelayPlace("relay.example", 0, 443))
    connected = 0
    for _ in range(3600):
        wanted = sum(isinstance(event, RelayLinkWanted) for event in scene.events)
        if wanted > connected:
            connected = wanted
            scene.connect()
        scene.run(1.0)
    assert 5 <= connected <= 25
    scene.relays.handle_moved(scene.now)
    scene.settle()
    scene.run(5.0)
    assert sum(isinstance(event, RelayLinkWanted) for event in scene.events) > connected


def test_a_tls_relay_that_comes_and_goes_is_wanted_again_at_once() -> None:
    scene = over_tls()
    for _ in range(5):
        scene.run(1200.0)
        assert scene.way() == TLS
        wanted = scene.events.count(RelayLinkWanted(PLACE, TLS))
        scene.carries = lambda relay: False
        scene.until(lambda: scene.way() is None, 60.0)
        scene.run(0.1)
        assert scene.events.count(RelayLinkWanted(PLACE, TLS)) == wanted + 1
        scene.carries = no_udp
        scene.connect()
        scene.until(lambda: scene.way() == TLS, 2.0)


@pytest.mark.slow
def test_a_relay_that_opens_and_goes_silent_all_the_time_is_not_bound_without_end() -> None:
    scene = settled(*(f"p{n}.home" for n in range(20)))
    since = len(scene.sent)
    relay = scene.machines[IPV4]
    for _ in range(360):
        relay._bindings.clear()
        scene.carries = lambda relay: False
        scene.relays.handle_moved(scene.now)
        scene.settle()
        scene.run(3.0)
        scene.carries = lambda relay: True
        scene.run(7.0)
    binds = [message for _, _, message in scene.sent[since:] if isinstance(message, Bind) and any(message.cookie)]
    assert len(binds) <= 20 * 3600 / 60 * 2


def test_a_refused_channel_is_not_asked_for_again_when_it_ends() -> None:
    scene = settled()
    relay, grant = scene.machines.pop(IPV4), scene.relays.grants("b.home")
    assert grant is not None
    scene.relays.handle_moved(scene.now)
    scene.settle()
    scene.run(0.1)
    scene.hand(UDP, encode_relay_message(Refused(grant_id(grant.grant), RefusedReason.GRANT)))
    scene.machines[IPV4] = relay
    relay._bindings.clear()
    since = scene.now
    scene.run(300.0)
    assert scene.channel() is None
    assert not scene.asked(Bind, since)


def test_two_thousand_answers_to_one_question_count_once() -> None:
    scene = Scene()
    grant = scene.grant("b.home")
    scene.relays.handle_granted("b.home", grant, (PLACE,), 0.0)
    scene.machines.clear()
    scene.resolve()
    scene.step()
    scene.hand(UDP, encode_relay_message(Challenge(grant_id(grant), bytes(16))))
    scene.step()
    for channel in range(1, 2001):
        scene.hand(UDP, encode_relay_message(Bound(grant_id(grant), channel, 60)))
    scene.settle()
    assert scene.channel() == replace(UDP, via=1)
    assert scene.faults == 1999


class Whimsical:
    """Answers every question, whenever and however it likes; and says things that nobody asked."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.grants: list[bytes] = [bytes(16)]
        self.channels: list[int] = [1]

    def note(self, message: RelayMessage) -> None:
        match message:
            case Bind(grant=grant):
                self.grants.append(grant_id(grant))
            case _:
                pass

    def say(self) -> RelayMessage:
        identifier = self.chance.choice(self.grants[-8:])
        channel = self.chance.choice([1, 2, 3, self.chance.getrandbits(32) or 1])
        self.channels = [*self.channels[-5:], channel]
        some = tuple(self.chance.sample(self.channels, self.chance.randrange(len(self.channels) + 1)))
        sayings: list[RelayMessage] = [
            Challenge(identifier, self.chance.randbytes(16)),
            Bound(identifier, channel, self.chance.choice([0, 1, 60, 65_535])),
            Refreshed(some),
            Refused(identifier, self.chance.choice(list(RefusedReason))),
        ]
        return self.chance.choice(sayings)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_relays_say_and_the_network_does_there_is_a_next_time_and_few_datagrams(seed: int) -> None:
    """And hours of sleep in between, moves, doubts, grants, names, and TLS connections."""
    chance = random.Random(seed)
    scene = Scene()
    relays, whim = scene.relays, Whimsical(chance)
    places = tuple(RelayPlace(f"r{n}.example", *ports) for n, ports in enumerate([(3478, 443), (3478, 0), (0, 443)]))
    ips = (IPV4, "203.0.113.9", "2001:db8::10")
    now, sent = 0.0, 0
    for _ in range(400):
        now += chance.choice([0.0, 0.0, 0.01, 0.3, 2.0, 20.0, 7200.0])
        match chance.randrange(12):
            case 0:
                relays.handle_moved(now)
            case 1:
                relays.doubt(now)
            case 2:
                peer = f"p{chance.randrange(5)}.home"
                relays.handle_granted(peer, scene.grant(peer, chance.randrange(3)), chance.sample(places, 2), now)
            case 3:
                relays.forget(f"p{chance.randrange(5)}.home")
            case 4:
                relays.handle_relays([ResolvedRelay(chance.choice(places), tuple(chance.sample(ips, 2)))], now)
            case 5:
                link = Address(chance.choice(ips), 443, Transport.RELAY_TLS)
                relays.handle_relay_link(link, chance.random() < 0.7, now)
            case 6:
                relays.want_more(f"p{chance.randrange(5)}.home", now)
            case 7:
                peer = f"p{chance.randrange(5)}.home"
                relays.handle_carried(peer, relays.channels(peer)[: chance.randrange(4)], now)
            case _:
                say(relays, whim, chance, ips, now)
        for _ in range(3):
            relays.handle_timeout(now)
        transmits = list(drain(relays.poll_transmit))
        for transmit in transmits:
            whim.note(decode_relay_message(transmit.payload))
        sent += len(transmits)
        list(drain(relays.poll_event))
        due = relays.next_timeout()
        assert due is None or due > now, "a timeout that is never done"
        assert len(relays.states()) <= MAX_RELAYS
    assert sent < 400 * 12


def say(relays: Relays, whim: Whimsical, chance: random.Random, ips: tuple[str, ...], now: float) -> None:
    source = Address(chance.choice(ips), *chance.choice([(3478, Transport.RELAY_UDP), (443, Transport.RELAY_TLS)]))
    for _ in range(chance.choice([1, 1, 5])):
        try:
            relays.handle_datagram_untrusted(source, encode_relay_message(whim.say()), now)
        except DecodeError:
            continue


@pytest.mark.slow
def test_the_news_of_one_peer_cost_no_work_for_all_others() -> None:
    """Counted in function calls, as no clock of this host can be relied on."""
    few, many = (settled(*(f"p{n}.home" for n in range(count))) for count in (10, 1000))
    for scene in (few, many):
        scene.run(30.0)
    for call in CALLS:
        assert calls_of(call, many) <= calls_of(call, few) + 5


CALLS: list[Callable[[Scene], object]] = [
    lambda scene: scene.relays.doubt(scene.now),
    lambda scene: scene.relays.states(),
    lambda scene: scene.relays.set_interval(20.0),
    lambda scene: scene.relays.channels("p7.home"),
    lambda scene: scene.relays.handle_carried("p7.home", scene.relays.channels("p7.home"), scene.now),
    lambda scene: scene.relays.want_more("p7.home", scene.now),
    lambda scene: scene.relays.handle_granted("p7.home", scene.grant("p7.home", 9), (PLACE,), scene.now),
    lambda scene: scene.relays.handle_timeout(scene.now),
    lambda scene: scene.relays.forget("p7.home"),
]


def calls_of(call: Callable[[Scene], object], scene: Scene) -> int:
    call(scene)
    profile = cProfile.Profile()
    profile.runcall(call, scene)
    return int(sum(entry.callcount for entry in profile.getstats()))
