"""What introduced pairs are granted at relays, and the end of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discovery.core import events
from discovery.core.settings import DAY_S, Settings
from fabric.core.machine import drain
from fabric.identity.grant import Grant, open_grant
from fabric.identity.trust import Trust
from fabric.wire.rendezvous import Granted, Introduction, RelayPlace, ToEndpoint
from tests.discovery.conftest import MakeTown
from tests.discovery.town import NETWORK, Resident, Town

RELAYS = tuple((RelayPlace(f"relay-{number}.example", 3478, 443),) for number in range(10))
SETTINGS = Settings(relays=RELAYS, pair_secret=b"s" * 32)


@pytest.fixture
def town(make_town: MakeTown) -> Town:
    return make_town(SETTINGS)


def introduced(town: Town, one: str = "ada", other: str = "bob") -> tuple[Resident, Resident]:
    ada, bob = town.online(one), town.online(other)
    ada.state_intent(bob.name)
    bob.state_intent(ada.name)
    return ada, bob


def granted(messages: list[ToEndpoint]) -> Granted:
    (message,) = [message for message in messages if isinstance(message, Granted)]
    return message


def opened(town: Town, message: Granted) -> Grant:
    return open_grant(message.grant, Trust(town.authority.root_der, NETWORK, None), town.unix)


def pairs_ended(town: Town) -> list[bytes]:
    return [event.pair for event in drain(town.service.poll_event) if isinstance(event, events.PairEnded)]


def test_each_side_is_granted_its_own_side_of_one_pair_right_behind_the_introduction(town: Town) -> None:
    ada, bob = introduced(town)
    heard = ada.hear()
    assert [type(message) for message in heard[-2:]] == [Introduction, Granted]
    to_ada, to_bob = granted(heard), granted(bob.hear())
    assert (to_ada.peer, to_bob.peer) == (bob.name, ada.name)
    for_ada, for_bob = opened(town, to_ada), opened(town, to_bob)
    assert for_ada.pair == for_bob.pair
    assert (for_ada.side, for_bob.side) == (0, 1)
    assert (for_ada.holder, for_bob.holder) == (ada.signer.public_key, bob.signer.public_key)
    assert for_ada.expires == town.unix + DAY_S
    assert to_ada.relays == to_bob.relays
    assert len(to_ada.relays) == 8


def test_without_relays_nothing_is_granted(make_town: MakeTown) -> None:
    ada, bob = introduced(make_town())
    assert not any(isinstance(message, Granted) for message in (*ada.hear(), *bob.hear()))


def test_load_spreads_over_the_relays(town: Town) -> None:
    ada = town.online("ada")
    first = []
    for number in range(40):
        peer = town.online(f"peer-{number}")
        peer.state_intent(ada.name)
        ada.state_intent(peer.name)
        first.append(granted(peer.hear()).relays[0])
        assert granted(ada.hear()).relays[0] == first[-1]
    assert len(set(first)) >= 6


def test_the_first_two_relays_are_never_one_with_two_addresses(make_town: MakeTown) -> None:
    double = tuple(RelayPlace(host, 3478, 443) for host in ("192.0.2.1", "2001:db8::1"))
    single = (RelayPlace("relay.example", 3478, 0),)
    town = make_town(replace(SETTINGS, relays=(double, single)))
    ada, _ = introduced(town)
    relays = granted(ada.hear()).relays
    assert set(relays[:2]) == {double[0], single[0]}
    assert relays[2:] == double[1:]


def test_pairs_have_names_of_their_own_that_outlive_the_process(town: Town) -> None:
    ada, bob = introduced(town)
    eve = town.online("eve")
    eve.state_intent(ada.name)
    before = opened(town, granted(ada.hear())).pair
    bob.hear()
    ada.state_intent(eve.name)
    assert opened(town, granted(ada.hear())).pair != before
    town.start_service()
    bob.connect()
    assert opened(town, granted(bob.hear())).pair == before


def test_a_grant_ends_with_the_intent_or_certificate_that_ends_first(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name, life_s=600)
    bob.state_intent(ada.name)
    assert opened(town, granted(bob.hear())).expires == town.unix + 600
    eve = town.online("eve")
    town.pass_time(6.5 * DAY_S)
    for resident in (bob, eve):
        resident.connect()
    eve.state_intent(bob.name)
    bob.state_intent(eve.name)
    assert opened(town, granted(eve.hear())).expires == min(bob.certificate.not_after, eve.certificate.not_after)


def test_a_grant_is_given_again_on_arrival_and_while_three_quarters_of_it_are_left(town: Town) -> None:
    ada, bob = introduced(town)
    first = opened(town, granted(ada.hear()))
    bob.hear()
    for _ in range(4):
        town.pass_time(SETTINGS.regrant_s + town.settings.sweep_s)
        again = opened(town, granted(ada.hear()))
        assert opened(town, granted(bob.hear())).pair == again.pair == first.pair
        assert again.expires - town.unix > 0.7 * DAY_S
    bob.disconnect()
    bob.connect()
    assert granted(bob.hear()).peer == ada.name
    assert granted(ada.hear()).peer == bob.name


def test_a_short_grant_is_renewed_when_half_of_it_is_over(make_town: MakeTown) -> None:
    town = make_town(replace(SETTINGS, grant_life_s=4000.0))
    ada, _ = introduced(town)
    ada.hear()
    town.pass_time(2000 + town.settings.sweep_s)
    assert granted(ada.hear())


def test_who_is_gone_is_not_granted_anything_anew(town: Town) -> None:
    ada, bob = introduced(town)
    bob.disconnect()
    ada.hear()
    town.pass_time(SETTINGS.regrant_s + town.settings.sweep_s)
    assert granted(ada.hear()).peer == bob.name
    ada.withdraw(bob.name)
    ada.hear()
    town.pass_time(SETTINGS.regrant_s + town.settings.sweep_s)
    assert ada.hear() == []


def test_relays_are_told_of_each_end_of_an_introduced_pair_and_of_no_other(town: Town) -> None:
    ada, bob = introduced(town)
    pair = opened(town, granted(ada.hear())).pair
    ada.withdraw("nobody.home")
    ada.state_intent("eve.home")
    ada.withdraw("eve.home")
    assert pairs_ended(town) == []
    ada.withdraw(bob.name)
    assert pairs_ended(town) == [pair]
    ada.withdraw(bob.name)
    assert pairs_ended(town) == []


def test_relays_are_told_when_an_intent_runs_out(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    ada.state_intent(bob.name, life_s=600)
    bob.state_intent(ada.name)
    pair = opened(town, granted(bob.hear())).pair
    town.pass_time(600 + town.settings.sweep_s)
    assert pairs_ended(town) == [pair]


def test_relays_are_told_of_a_revocation(town: Town) -> None:
    ada, bob = introduced(town)
    pair = opened(town, granted(ada.hear())).pair
    town.service.revoke(bob.name, "", town.now)
    told = list(drain(town.service.poll_event))
    assert events.PairEnded(pair) in told
    assert events.EndpointRevoked(bob.name, bob.signer.public_key) in told


def test_a_certificate_that_leaves_no_room_grants_nothing_and_breaks_nothing(town: Town) -> None:
    ada, bob = town.online("ada"), town.online("bob")
    hosts = tuple(f"{'x' * 40}-{number}.example" for number in range(20))
    identity = town.identity
    long = town.authority.issue_service(
        identity.signer.public_key, hosts, serial=7, not_before=town.unix, not_after=town.unix + DAY_S
    )
    town.service.replace_identity(replace(identity, certificate=long))
    ada.state_intent(bob.name)
    bob.state_intent(ada.name)
    assert isinstance(ada.hear()[-1], Introduction)
