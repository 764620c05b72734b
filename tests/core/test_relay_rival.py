"""Somebody else with the own key at a relay: told of as what it is, a hint, and never where nobody else is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.events import RelayContested
from fabric.core.machine import drain
from fabric.core.relay_rival import TAKINGS, TAKINGS_WITHIN_S, TOLD_AGAIN_S, Moves, explain_rival, first_contested
from fabric.crypto.signature import LABEL_RELAY
from fabric.identity.grant import grant_id
from fabric.wire.address import Address, Transport
from fabric.wire.relay import (
    NO_COOKIE,
    NO_SIGNATURE,
    Bind,
    Bound,
    Challenge,
    decode_relay_message,
    encode_relay_message,
)
from fabric.wire.rendezvous import RelayPlace
from tests.core.relay_scene import IPV4, PLACE, TLS, UDP, Scene, no_udp, settled

CHANNEL = replace(UDP, via=77)
OTHER = RelayPlace("other.example", 3478, 443)


class Rival:
    """A copy of the scene's endpoint, on a host of its own."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.port = 1000

    def bind(self, peer: str = "b.home") -> None:
        """Takes the channel over UDP."""
        self.port += 1
        granted = self.scene.relays.grants(peer)
        assert granted is not None
        grant, identity = granted.grant, self.scene.identity
        source = Address("203.0.113.66", self.port, Transport.RELAY_UDP)
        challenge = self._ask(source, Bind(NO_COOKIE, NO_SIGNATURE, grant))
        assert isinstance(challenge, Challenge)
        signature = identity.signer.sign(LABEL_RELAY, b"home", challenge.cookie, grant_id(grant))
        assert isinstance(self._ask(source, Bind(challenge.cookie, signature, grant)), Bound)

    def _ask(self, source: Address, message: Bind) -> object:
        relay = self.scene.machines[IPV4]
        relay.handle_datagram(source, encode_relay_message(message), self.scene.now)
        (answer,) = drain(relay.poll_transmit)
        return decode_relay_message(answer.payload)


def hints(scene: Scene) -> list[RelayPlace]:
    return [event.place for event in scene.events if isinstance(event, RelayContested)]


def take(scene: Scene, rival: Rival, peer: str = "b.home") -> None:
    """Takes the channel, and waits until the endpoint has it back."""
    rival.bind(peer)
    mine = scene.channel(peer)
    scene.until(lambda: scene.channel(peer) is None, within_s=25.0)
    scene.until(lambda: scene.channel(peer) == mine, within_s=65.0)


def test_a_channel_that_is_taken_again_and_again_is_told_of_once_in_an_hour() -> None:
    scene = settled("b.home", "c.home")
    rival = Rival(scene)
    for number in range(TAKINGS):
        assert not hints(scene)
        assert scene.relays.contested("b.home", scene.now) is None, number
        take(scene, rival)
    assert scene.relays.contested("b.home", scene.now) == PLACE
    assert scene.relays.contested("c.home", scene.now) is None
    for _ in range(TAKINGS):
        take(scene, rival, "c.home")
    assert scene.relays.contested("c.home", scene.now) == PLACE
    assert hints(scene) == [PLACE]
    scene.run(TOLD_AGAIN_S)
    for _ in range(TAKINGS):
        take(scene, rival)
    assert hints(scene) == [PLACE, PLACE]


def test_a_rival_that_is_gone_is_forgotten() -> None:
    scene = settled()
    rival = Rival(scene)
    for _ in range(TAKINGS):
        take(scene, rival)
    scene.run(TAKINGS_WITHIN_S)
    assert scene.relays.contested("b.home", scene.now) is None


def test_who_takes_the_channel_twice_in_an_hour_is_no_rival() -> None:
    scene = settled()
    rival = Rival(scene)
    for _ in range(2 * TAKINGS):
        take(scene, rival)
        scene.run(TAKINGS_WITHIN_S)
    assert not hints(scene)


@pytest.mark.parametrize("every_s", [2.0, 19.0, 21.0, 100.0])
def test_a_nat_that_gives_ever_new_addresses_is_no_rival(every_s: float) -> None:
    scene = settled()
    for number in range(100):
        scene.outside = f"198.51.100.{number + 2}"
        scene.run(every_s)
    assert not hints(scene)


def test_a_host_on_the_move_is_no_rival() -> None:
    scene = settled()
    for number in range(60):
        scene.outside = f"198.51.100.{number % 3}"
        scene.relays.handle_moved(scene.now)
        scene.settle()
        scene.run(scene.random.choice((0.01, 0.1, 1.0, 10.0)))
    assert not hints(scene)


def test_answers_that_are_lost_make_no_rival() -> None:
    scene = settled()
    for number in range(200):
        scene.outside = f"198.51.100.{number % 200 + 2}"
        scene.carries = lambda _relay: scene.random.random() < 0.5
        scene.run(scene.random.choice((0.1, 1.0, 10.0)))
    assert scene.asked(Bind)
    assert not hints(scene)


def test_a_second_way_to_the_relay_is_no_rival() -> None:
    scene = settled()
    for _ in range(10):
        scene.carries = no_udp
        scene.until(lambda: scene.way() is None, within_s=60.0)
        scene.run(2.0)
        scene.connect(TLS)
        scene.until(lambda: scene.way() == TLS, within_s=60.0)
        scene.carries = lambda _relay: True
        scene.until(lambda: scene.way() == UDP, within_s=400.0)
        scene.run(100.0)  # TLS is let go
    assert not hints(scene)


def test_relays_that_begin_anew_make_no_rival() -> None:
    scene = settled()
    for _ in range(20):
        scene.start(IPV4)
        scene.run(65.0)
        assert scene.channel()
    assert not hints(scene)


def test_an_endpoint_that_begins_anew_is_no_rival_of_itself() -> None:
    before = settled()
    for number in range(20):
        scene = Scene()
        scene.machines, scene.now, scene.outside = before.machines, before.now, f"198.51.100.{number + 2}"
        scene.granted("b.home")
        scene.resolve()
        scene.run(65.0)
        assert scene.channel()
        assert not hints(scene)
        before = scene


# the count by itself


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_no_count_of_own_moves_makes_a_rival(steps: list[tuple[int, bool]]) -> None:
    """Each question moves the channel once at most, whatever becomes of its answer."""
    moves, told, now = Moves(), 1, 0.0
    moves.note_told(CHANNEL, told, now)
    for asked, is_answered in steps:
        now += 1.0
        for _ in range(asked):
            moves.note_asked()
        told += asked
        if is_answered:
            moves.note_told(CHANNEL, told, now)
    assert not moves.is_contested(now)


def taken(channel: Address, step: int = 2) -> Moves:
    moves = Moves()
    for number in range(TAKINGS + 1):
        moves.note_asked()
        moves.note_told(channel, 1 + number * step, float(number))
    return moves


def test_one_move_more_than_asked_for_is_a_rivals() -> None:
    assert taken(CHANNEL, step=2).is_contested(10.0)
    assert not taken(CHANNEL, step=1).is_contested(10.0)


def test_a_relay_of_before_that_tells_nothing_accuses_nobody() -> None:
    assert not taken(CHANNEL, step=0).is_contested(10.0)
    moves = Moves()
    for number in range(10):
        moves.note_told(CHANNEL, 0 if number % 2 else 100 * number + 1, float(number))
    assert not moves.is_contested(10.0)


def test_another_channel_is_counted_anew() -> None:
    moves = Moves()
    for number in range(10):
        moves.note_told(replace(CHANNEL, via=number + 1), 1 + 5 * number, float(number))
    assert not moves.is_contested(10.0)


def test_two_names_of_one_relay_are_no_rivals_of_each_other() -> None:
    twice = {PLACE: taken(CHANNEL), OTHER: taken(replace(CHANNEL, ip="192.0.0.8"))}
    assert first_contested(twice, 10.0) is None
    assert first_contested({PLACE: None, OTHER: taken(CHANNEL)}, 10.0) == OTHER
    assert first_contested({PLACE: Moves(), OTHER: taken(CHANNEL)}, 10.0) == OTHER


def test_what_is_said_of_it_is_no_more_than_a_hint() -> None:
    assert explain_rival(PLACE) == (
        "the relay relay.example says that somebody else binds there with this endpoint's key, again and again: "
        "a copy of this endpoint may be in use, or the relay is wrong"
    )
