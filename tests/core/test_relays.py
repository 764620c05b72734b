"""An endpoint's side of relays, against the relay's own machine behind a network that can be cut."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.core.relay import RelaySettings
from fabric.core.events import RelayLinkUnwanted, RelayLinkWanted, RelaysNamed
from fabric.core.relay_binding import BINDS_AT_ONCE, BINDS_PER_S
from fabric.core.relay_station import FULL_PAUSE_S, MAX_CHALLENGES
from fabric.core.relay_tls import RELEASE_S
from fabric.core.relay_upkeep import LOOKS_S
from fabric.core.relays import DUMMY_IP, INTERVAL_S, MAX_RELAYS, ChannelsChanged, ResolvedRelay
from fabric.errors import DecodeError
from fabric.identity.grant import grant_id
from fabric.wire.address import Address, Transport
from fabric.wire.relay import (
    MAX_GRANT_BYTES,
    RELAY_CONTROL_TYPE,
    Bind,
    Bound,
    Challenge,
    Refresh,
    Refreshed,
    Refused,
    RefusedReason,
    RelayMessage,
    encode_relay_message,
)
from fabric.wire.rendezvous import RelayPlace
from tests.core.relay_scene import HALF_TRIP_S, IPV4, IPV6, PLACE, TLS, UDP, UDP6, Scene, no_udp, over_tls, settled

SILENCE_S = sum(LOOKS_S)


def test_a_channel_stands_after_two_round_trips() -> None:
    scene = Scene()
    scene.granted("b.home")
    assert scene.events == [RelaysNamed((PLACE,))]
    scene.resolve()
    took = scene.until(lambda: scene.way() == UDP, 1.0)
    assert took == pytest.approx(4 * HALF_TRIP_S)
    assert scene.events[-1] == ChannelsChanged("b.home")
    (binding,) = scene.machines[IPV4]._bindings.values()
    assert scene.channel() == replace(UDP, via=binding.channel)


def test_a_second_peer_uses_the_relay_without_another_look() -> None:
    scene = settled()
    scene.granted("c.home")
    assert scene.until(lambda: scene.way("c.home") == UDP, 1.0) == pytest.approx(4 * HALF_TRIP_S)
    assert scene.events.count(RelaysNamed((PLACE,))) == 1


def test_lost_datagrams_are_asked_for_again() -> None:
    for seed in range(20):
        scene = Scene()
        luck = random.Random(seed)
        scene.carries = lambda relay, luck=luck: luck.random() > 0.3  # type: ignore[misc]
        scene.granted("b.home")
        scene.resolve()
        scene.until(lambda scene=scene: scene.channel() is not None, 60.0)  # type: ignore[misc]


def test_one_refresh_keeps_all_channels() -> None:
    scene = settled(*(f"p{n}.home" for n in range(40)))
    began, before = scene.now, [scene.channel(f"p{n}.home") for n in range(40)]
    scene.run(300.0)
    assert [scene.channel(f"p{n}.home") for n in range(40)] == before
    refreshes = scene.asked(Refresh, began)
    assert len(refreshes) == pytest.approx(300 / INTERVAL_S, abs=1)
    assert not scene.asked(Bind, began)


def test_more_channels_than_fit_one_refresh_are_kept_too() -> None:
    peers = [f"p{n}.home" for n in range(600)]
    scene = settled(*peers)
    scene.run(30.0)
    assert all(scene.channel(peer) for peer in peers)
    since = len(scene.events)
    scene.run(600.0)
    assert len(scene.events) == since


def test_binds_are_paced() -> None:
    scene = Scene()
    scene.granted(*(f"p{n}.home" for n in range(500)))
    scene.resolve()
    scene.run(20.0)
    asked = scene.asked(Bind)
    first = [sum(1 for at in asked if begin <= at < begin + 1) for begin in range(10)]
    assert max(first) <= 2 * (BINDS_AT_ONCE + BINDS_PER_S) + 1  # each question is asked again with its cookie
    assert all(scene.channel(f"p{n}.home") for n in range(500))


def test_a_timeout_does_not_look_at_every_peer() -> None:
    scene = settled(*(f"p{n}.home" for n in range(300)))
    scene.run(20.0)
    began = scene.now
    steps = 0
    while scene.next_due() < began + 60:
        scene.now = scene.next_due()
        scene.step()
        steps += 1
    assert steps < 40


# TLS


def test_tls_is_wanted_after_a_silence_and_used_when_it_is_up() -> None:
    scene = Scene()
    scene.carries = no_udp
    scene.granted("b.home")
    scene.resolve()
    took = scene.until(lambda: RelayLinkWanted(PLACE, TLS) in scene.events, 2.0)
    assert took == pytest.approx(SILENCE_S)
    scene.connect()
    assert scene.until(lambda: scene.way() == TLS, 1.0) == pytest.approx(4 * HALF_TRIP_S)


def test_udp_is_taken_when_it_answers_and_tls_let_go_a_minute_later() -> None:
    scene = over_tls()
    scene.run(100.0)
    assert scene.way() == TLS
    scene.carries = lambda relay: True
    scene.until(lambda: scene.way() == UDP, 330.0)
    changes = [event for event in scene.events if isinstance(event, ChannelsChanged)]
    assert len(changes) == 2, "no gap between the two"
    assert RelayLinkUnwanted(TLS) not in scene.events
    assert scene.ways() == [UDP, TLS], "nobody has proved yet that the new one carries"
    took = scene.until(lambda: RelayLinkUnwanted(TLS) in scene.events, 70.0)
    assert took == pytest.approx(RELEASE_S, abs=0.2)
    assert scene.ways() == [UDP]


def test_a_channel_over_tls_that_still_stands_serves_when_udp_goes_again() -> None:
    scene = over_tls()
    scene.run(2.0)
    first = scene.channel()
    scene.carries = lambda relay: True
    scene.until(lambda: scene.way() == UDP, 330.0)
    scene.carries = no_udp
    scene.until(lambda: scene.way() != UDP, 60.0)
    assert scene.ways() == [TLS]
    scene.run(10.0)
    assert scene.channel() == first, "bound again in the same way it is the same"
    assert scene.ways() == [TLS]


def test_a_peer_that_is_forgotten_has_no_channel_over_either_way() -> None:
    scene = over_tls()
    scene.run(2.0)
    scene.carries = lambda relay: True
    scene.until(lambda: scene.ways() == [UDP, TLS], 330.0)
    scene.relays.forget("b.home")
    assert scene.ways() == []


def test_looks_over_udp_become_rare_while_tls_serves() -> None:
    scene = over_tls()
    scene.run(1800.0)
    since = scene.now
    scene.run(3600.0)
    looks = [at for at, to, _ in scene.sent if to == UDP and at >= since]
    assert 9 <= len(looks) <= 17
    assert scene.way() == TLS


def test_a_relay_that_nothing_reaches_is_looked_for_within_seconds_of_its_return() -> None:
    scene = settled()
    scene.carries = lambda relay: False
    scene.run(1000.0)
    assert scene.channel() is None
    scene.carries = lambda relay: True
    assert scene.until(lambda: scene.way() == UDP, 20.0) < 13.0


def test_a_doubt_looks_at_once_for_a_relay_that_is_not_reached() -> None:
    scene = settled()
    scene.carries = lambda relay: False
    scene.run(1000.0)
    scene.carries = lambda relay: True
    scene.relays.doubt(scene.now)
    scene.step()
    assert scene.until(lambda: scene.way() == UDP, 1.0) < 0.2


def test_a_doubt_finds_a_relay_that_restarted() -> None:
    scene = settled()
    scene.start(IPV4)
    scene.relays.doubt(scene.now)
    scene.step()
    scene.run(0.2)
    assert scene.machines[IPV4].bindings == 1


def test_many_doubts_cost_few_datagrams() -> None:
    scene = settled()
    since = len(scene.sent)
    for _ in range(1000):
        scene.relays.doubt(scene.now)
        scene.run(0.01)
    assert len(scene.sent) - since <= 6
    scene.carries = lambda relay: False
    scene.run(60.0)
    since = len(scene.sent)
    for _ in range(1000):
        scene.relays.doubt(scene.now)
        scene.run(0.01)
    assert len(scene.sent) - since <= 20


def test_a_relay_without_udp_is_reached_over_tls_at_once() -> None:
    place = RelayPlace("relay.example", 0, 443)
    scene = Scene()
    scene.granted("b.home", places=(place,))
    scene.resolve(place=place)
    assert scene.events[-1] == RelayLinkWanted(place, TLS)
    scene.connect()
    scene.until(lambda: scene.way() == TLS, 1.0)


def test_a_name_that_does_not_resolve_is_left_to_a_proxy() -> None:
    scene = Scene()
    other = RelayPlace("other.example", 3478, 443)
    scene.granted("b.home", places=(PLACE, other))
    scene.relays.handle_relays([ResolvedRelay(PLACE, ()), ResolvedRelay(other, ())], scene.now)
    scene.settle()
    wanted = [event for event in scene.events if isinstance(event, RelayLinkWanted)]
    assert [event.place for event in wanted] == [PLACE, other]
    assert {event.relay.ip for event in wanted} == {DUMMY_IP}
    assert len({event.relay for event in wanted}) == 2
    assert not scene.sent
    scene.start(DUMMY_IP)
    scene.connect(wanted[0].relay)
    scene.until(lambda: scene.way() == wanted[0].relay, 1.0)


def test_channels_go_with_the_tls_connection_and_come_back_with_the_next() -> None:
    scene = over_tls()
    scene.run(1.0)
    scene.relays.handle_relay_link(TLS, False, scene.now)
    scene.settle()
    assert scene.channel() is None
    scene.connect()
    scene.until(lambda: scene.way() == TLS, 1.0)
    assert scene.events.count(RelayLinkWanted(PLACE, TLS)) == 1


def test_a_tls_connection_over_which_nobody_answers_is_opened_anew() -> None:
    scene = Scene()
    scene.carries = lambda relay: False
    scene.granted("b.home")
    scene.resolve()
    scene.run(2.0)
    scene.connect()
    scene.until(lambda: RelayLinkUnwanted(TLS) in scene.events, 5.0)
    assert scene.events[-1] == RelayLinkWanted(PLACE, TLS)


# loss, restart, move


def test_a_dead_relay_is_noticed_by_three_unanswered_refreshes() -> None:
    scene = settled()
    scene.run(INTERVAL_S)
    scene.carries = lambda relay: False
    scene.until(lambda: scene.channel() is None, INTERVAL_S + 3.0)
    assert scene.events[-1] == ChannelsChanged("b.home")


def test_a_relay_that_restarted_is_bound_again_at_the_next_refresh() -> None:
    scene = settled()
    scene.start(IPV4)
    old = scene.channel()
    scene.until(lambda: scene.channel() not in (None, old), INTERVAL_S + 1.0)
    assert scene.machines[IPV4].bindings == 1


def test_a_move_is_told_to_the_relay_at_once() -> None:
    scene = settled("b.home", "c.home")
    scene.outside = "198.51.100.2"
    scene.relays.handle_moved(scene.now)
    scene.step()
    scene.run(1.0)
    sources = {binding.source[0] for binding in scene.machines[IPV4]._bindings.values()}
    assert sources == {"198.51.100.2"}
    assert scene.way() == scene.way("c.home") == UDP


def test_a_move_that_changes_nothing_costs_no_channel() -> None:
    scene = settled()
    before, since = scene.channel(), len(scene.events)
    scene.relays.handle_moved(scene.now)
    scene.step()
    scene.run(5.0)
    assert scene.channel() == before
    assert len(scene.events) == since


def test_a_move_to_a_network_without_ipv4_takes_ipv6_within_two_seconds() -> None:
    scene = Scene()
    scene.granted("b.home")
    scene.resolve(IPV4, IPV6)
    scene.run(5.0)
    scene.carries = lambda relay: relay.is_ipv6
    scene.relays.handle_moved(scene.now)
    scene.step()
    assert scene.until(lambda: scene.way() == UDP6, 2.0) < 1.3


def test_of_two_families_one_is_used() -> None:
    scene = Scene()
    scene.granted("b.home")
    scene.resolve(IPV4, IPV6)
    scene.run(30.0)
    assert scene.machines[IPV4].bindings == 1
    scene.carries = lambda relay: relay.is_ipv6
    scene.until(lambda: scene.way() == UDP6, INTERVAL_S + 4.0)


def test_a_relay_that_moved_is_followed() -> None:
    scene = settled()
    scene.start("203.0.113.99")
    scene.resolve("203.0.113.99")
    scene.until(lambda: scene.way() == Address("203.0.113.99", 3478, Transport.RELAY_UDP), 1.0)


# grants


def test_two_relays_serve_a_peer_the_service_s_first_first() -> None:
    scene = Scene()
    places = tuple(RelayPlace(f"r{n}.example", 3478, 443) for n in range(3))
    for number, _ in enumerate(places):
        scene.start(f"203.0.113.{number}")
    scene.granted("b.home", places=places)
    assert scene.events == [RelaysNamed(places[:2])]
    for number, place in reversed(list(enumerate(places))):
        scene.resolve(f"203.0.113.{number}", place=place)
    scene.run(1.0)
    assert [channel.ip for channel in scene.relays.channels("b.home")] == ["203.0.113.0", "203.0.113.1"]


def test_udp_at_the_second_relay_comes_before_tls_at_the_first() -> None:
    scene = Scene()
    other = RelayPlace("other.example", 3478, 443)
    scene.start("203.0.113.2")
    scene.carries = lambda relay: relay != UDP
    scene.granted("b.home", places=(PLACE, other))
    scene.resolve()
    scene.resolve("203.0.113.2", place=other)
    scene.run(2.0)
    scene.connect()
    scene.run(1.0)
    assert [channel.transport for channel in scene.relays.channels("b.home")] == [
        Transport.RELAY_UDP,
        Transport.RELAY_TLS,
    ]


def test_a_new_grant_replaces_the_old_without_a_gap() -> None:
    scene = settled()
    before, since = scene.channel(), len(scene.events)
    scene.relays.handle_granted("b.home", fresh := scene.grant("b.home", serial=1), (PLACE,), scene.now)
    scene.step()
    scene.run(1.0)
    assert scene.channel() == before
    assert len(scene.events) == since
    (binding,) = scene.machines[IPV4]._bindings.values()
    assert binding.grant_id == grant_id(fresh)


def test_the_same_grant_again_changes_nothing() -> None:
    scene = Scene()
    grant = scene.grant("b.home")
    scene.relays.handle_granted("b.home", grant, (PLACE,), 0.0)
    scene.resolve()
    scene.run(1.0)
    since = len(scene.sent)
    scene.relays.handle_granted("b.home", grant, (PLACE,), scene.now)
    scene.step()
    assert len(scene.sent) == since
    kept = scene.relays.grants("b.home")
    assert kept is not None
    assert (kept.grant, kept.places) == (grant, (PLACE,))


def test_a_refused_grant_is_not_shown_again_until_a_new_one_comes() -> None:
    scene = Scene()
    scene.relays.handle_granted("b.home", scene.grant("b.home")[:-1] + b"!", (PLACE,), 0.0)
    scene.resolve()
    scene.run(2.0)
    since = scene.now
    scene.run(1000.0)
    assert not scene.asked(Bind, since)
    scene.granted("b.home")
    scene.step()
    scene.until(lambda: scene.channel() is not None, 2.0)


@pytest.mark.parametrize("carries", [no_udp, lambda _relay: True])
def test_one_refused_grant_keeps_no_other_from_its_channel(carries: Callable[[Address], bool]) -> None:
    scene = Scene()
    scene.carries = carries
    for peer in ("p1.home", "p2.home", "p3.home"):
        scene.relays.handle_granted(peer, scene.grant(peer)[:-1] + b"!", (PLACE,), 0.0)
    scene.granted("b.home")
    scene.resolve()
    scene.run(2.0)
    scene.connect()
    scene.until(lambda: scene.channel() is not None, 2.0)


def test_a_full_relay_is_left_in_peace_for_a_minute() -> None:
    scene = Scene()
    scene.settings = replace(scene.settings, max_bindings=0)
    scene.start(IPV4)
    scene.granted("b.home")
    scene.resolve()
    scene.run(1.0)
    since = scene.now
    scene.settings = RelaySettings()
    scene.start(IPV4)
    scene.until(lambda: scene.channel() is not None, FULL_PAUSE_S + 1.0)
    assert min(scene.asked(Bind, since)) - since > FULL_PAUSE_S - 2


def test_a_forgotten_peer_leaves_nothing() -> None:
    scene = settled()
    scene.relays.forget("b.home")
    scene.settle()
    assert scene.events[-2:] == [ChannelsChanged("b.home"), RelaysNamed(())]
    assert scene.relays.channels("b.home") == ()
    assert scene.relays.next_timeout() is None
    assert scene.relays.grants("b.home") is None


def test_a_relay_that_only_one_of_two_peers_leaves_stays() -> None:
    scene = settled("b.home", "c.home")
    scene.relays.forget("b.home")
    scene.run(100.0)
    assert scene.way("c.home") == UDP


def test_a_grant_beyond_measure_is_none() -> None:
    scene = Scene()
    scene.relays.handle_granted("b.home", bytes(MAX_GRANT_BYTES + 1), (PLACE,), 0.0)
    scene.relays.handle_granted("c.home", b"", (PLACE,), 0.0)
    scene.settle()
    assert not scene.events


def test_the_service_can_t_name_relays_without_end() -> None:
    scene = Scene()
    for number in range(100):
        scene.granted(f"p{number}.home", places=(RelayPlace(f"r{number}.example", 3478, 443),))
    (*_, last) = (event for event in scene.events if isinstance(event, RelaysNamed))
    assert len(last.places) == MAX_RELAYS


def test_one_grant_shown_for_two_peers_serves_the_first() -> None:
    scene = Scene()
    grant = scene.grant("b.home")
    for peer in ("b.home", "c.home"):
        scene.relays.handle_granted(peer, grant, (PLACE,), 0.0)
    scene.resolve()
    scene.run(1.0)
    assert scene.channel("b.home")
    assert not scene.channel("c.home")
    scene.relays.forget("c.home")
    scene.run(100.0)
    assert scene.channel("b.home")


# hostile answers


def test_what_answers_no_question_changes_nothing() -> None:
    scene = settled("b.home", "c.home")
    mine = grant_id(scene.relays.grants("b.home").grant)  # type: ignore[union-attr]
    channel = scene.channel()
    assert channel is not None
    forged: list[RelayMessage] = [
        Challenge(mine, bytes(16)),
        Challenge(bytes(16), bytes(16)),
        Bound(mine, 77, 60),
        Refreshed(()),
        Refreshed((channel.via,)),
        Refused(mine, RefusedReason.GRANT),
        Refused(bytes(16), RefusedReason.FULL),
        Refresh((channel.via,)),
        Bind(bytes(16), bytes(64), b"grant"),
    ]
    since = len(scene.sent), len(scene.events)
    timeout = scene.relays.next_timeout()
    for message in forged:
        for source in (UDP, TLS, Address("192.0.2.1", 3478, Transport.RELAY_UDP), replace(UDP, via=3)):
            with pytest.raises(DecodeError):
                scene.relays.handle_datagram_untrusted(source, encode_relay_message(message), scene.now)
    scene.settle()
    assert (len(scene.sent), len(scene.events)) == since
    assert scene.relays.next_timeout() == timeout


def test_a_relay_that_always_challenges_gets_no_signatures_without_end() -> None:
    scene = Scene()
    grant = scene.grant("b.home")
    scene.relays.handle_granted("b.home", grant, (PLACE,), 0.0)
    scene.machines.clear()
    scene.resolve()
    scene.step()
    challenge = encode_relay_message(Challenge(grant_id(grant), bytes(16)))
    scene.hand(UDP, challenge)
    scene.step()
    for _ in range(50):
        scene.hand(UDP, challenge)
        scene.settle()
    assert len(scene.sent) <= 2 + MAX_CHALLENGES + 1
    assert scene.faults >= 50 - MAX_CHALLENGES - 1


def test_a_relay_can_t_give_two_peers_one_channel() -> None:
    scene = Scene()
    grants = {peer: scene.grant(peer) for peer in ("b.home", "c.home")}
    for peer, grant in grants.items():
        scene.relays.handle_granted(peer, grant, (PLACE,), 0.0)
    scene.machines.clear()
    scene.resolve()
    scene.step()
    scene.hand(UDP, encode_relay_message(Challenge(grant_id(grants["b.home"]), bytes(16))))
    scene.step()
    for grant in grants.values():
        scene.hand(UDP, encode_relay_message(Bound(grant_id(grant), 5, 60)))
    assert scene.channel("b.home") == replace(UDP, via=5)
    assert scene.channel("c.home") is None


def test_a_channel_s_short_life_makes_no_storm_of_refreshes() -> None:
    scene = Scene()
    scene.settings = replace(scene.settings, life_s=1)
    scene.start(IPV4)
    scene.granted("b.home")
    scene.resolve()
    scene.run(100.0)
    assert len(scene.asked(Refresh)) <= 21


@given(body=st.binary(max_size=60), kind=st.integers(0, 255))
def test_no_bytes_do_more_than_raise_a_decode_error(body: bytes, kind: int) -> None:
    scene = Scene()
    scene.granted("b.home")
    scene.resolve()
    with pytest.raises(DecodeError):
        scene.relays.handle_datagram_untrusted(UDP, bytes((RELAY_CONTROL_TYPE, kind, 0, 0)) + body, scene.now)


def test_the_interval_can_be_longer_where_mappings_live_longer_but_not_too_long() -> None:
    scene = settled()
    scene.relays.set_interval(1000.0)
    scene.run(INTERVAL_S)
    began = scene.now
    scene.run(500.0)
    assert len(scene.asked(Refresh, began)) == pytest.approx(10, abs=1)


def test_an_idle_channel_sends_little() -> None:
    scene = settled()
    began, since = scene.now, len(scene.sent)
    scene.run(600.0)
    sizes = [len(encode_relay_message(message)) + 28 for _, _, message in scene.sent[since:]]
    assert 2 * sum(sizes) / (scene.now - began) * 60 < 300
