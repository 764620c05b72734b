"""The endpoint between a real node, a real keystore, and whoever asks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from fabric.core.events import (
    CertificateReplaced,
    PathChanged,
    PeerChanged,
    Pong,
    RelayContested,
    RenewalDue,
    ServiceRefused,
    ServiceRejected,
    StunNames,
)
from fabric.core.identity import Identity
from fabric.core.machine import Calendar
from fabric.core.node import Node
from fabric.core.settings import Settings
from fabric.core.status import PathKind, PeerState
from fabric.custody.identity_file import open_identity
from fabric.custody.vault import SEALING_FILE, Vault
from fabric.dataplane.reference import ReferenceLane
from fabric.errors import DecodeError
from fabric.identity.bundle import peek_bundle
from fabric.shell.control_wire import (
    AskAdd,
    AskDisable,
    AskPing,
    AskRemove,
    AskStatus,
    AskWait,
    AskWishes,
    Done,
    Failed,
    Status,
)
from fabric.shell.endpoint import Endpoint, Surroundings, Way
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.keystore import Keystore
from fabric.shell.papers import load_papers
from fabric.shell.questions import Questions
from fabric.shell.wishes import Verb, make_wish
from fabric.wire.address import Address
from fabric.wire.rendezvous import RelayPlace, ToService
from tests.shell.homestead import Homestead, found, kept_in


@dataclass
class Outside:
    """The way out, and the service: notes what leaves."""

    sent: list[tuple[Address, bytes]] = field(default_factory=list)
    said: list[ToService] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    flushes: int = 0
    moves: int = 0
    doubts: int = 0

    def transmit(self, to: Address, payload: bytes) -> None:
        self.sent.append((to, payload))

    def flush(self) -> None:
        self.flushes += 1

    def send(self, link: int, message: ToService) -> None:
        self.said.append(message)

    def close(self, link: int, why: str) -> None:
        self.closed.append(why)

    def handle_accepted(self, link: int) -> None:
        pass

    def handle_refused(self, why: str) -> None:
        self.refused.append(why)

    def handle_moved(self, own: Collection[str]) -> None:
        self.moves += 1

    def handle_doubt(self) -> None:
        self.doubts += 1


@dataclass
class House:
    """An endpoint that may be taken down and put up again over one state directory."""

    homestead: Homestead
    state: Path
    vault: Vault
    keystore: Keystore
    endpoint: Endpoint
    node: Node
    outside: Outside
    stun_names: list[tuple[str, ...]]
    ways: list[Way]

    def restart(self) -> House:
        self.keystore.__exit__()
        return put_up(self.homestead, self.state)


def put_up(homestead: Homestead, state: Path) -> House:
    papers = load_papers(state)
    vault = Vault(kept_in(state))
    vault.begin(papers.certificate.name)
    keystore = Keystore(state, vault.storage_key, os.urandom)
    identity = Identity(
        papers.certificate.name,
        papers.network_name,
        papers.certificate,
        papers.trust(),
        vault,
        vault,
        vault.bundle,
    )
    calendar, stun_names = Calendar(time.time()), list[tuple[str, ...]]()
    records, _ = keystore.load_records()
    lane = ReferenceLane(papers.certificate.mac, papers.certificate.addresses)
    node = Node(identity, lane, calendar, os.urandom, Settings(), records, 0.0)
    ways: list[Way] = []
    around = Surroundings(state, identity, calendar, keystore, vault, lambda: 0.0, stun_names.append, ways.append)
    outside = Outside()
    endpoint = Endpoint(around, node, outside)
    endpoint.attach(outside)
    endpoint.settle()
    endpoint.fulfil_waiting()
    return House(homestead, state, vault, keystore, endpoint, node, outside, stun_names, ways)


@pytest.fixture
def house(tmp_path: Path) -> House:
    homestead = found(tmp_path)
    return put_up(homestead, homestead.settle("alice"))


def names(house: House) -> list[str]:
    return [peer.name for peer in house.endpoint.peers()]


def test_a_wish_is_on_stable_storage_when_it_is_answered(house: House) -> None:
    assert house.endpoint.wish(Verb.ADD, "bob") == "bob.home"
    house.endpoint.wish(Verb.ADD, "carol")
    house.endpoint.wish(Verb.DISABLE, "carol.home")
    again = house.restart()
    assert [(peer.name, peer.state) for peer in again.endpoint.peers()] == [
        ("bob.home", PeerState.PENDING),
        ("carol.home", PeerState.DISABLED),
    ]


def test_a_removed_peer_stays_removed(house: House) -> None:
    house.endpoint.wish(Verb.ADD, "bob")
    house.endpoint.wish(Verb.REMOVE, "bob")
    assert names(house) == []
    assert names(house.restart()) == []


def test_wishes_made_without_a_daemon_are_fulfilled_once_when_it_starts(house: House) -> None:
    make_wish(house.state, Verb.ADD, "bob")
    make_wish(house.state, Verb.ADD, "carol")
    make_wish(house.state, Verb.DISABLE, "carol")
    again = house.restart()
    assert names(again) == ["bob.home", "carol.home"]
    again.endpoint.wish(Verb.REMOVE, "bob")
    assert names(again.restart()) == ["carol.home"]


def test_unknown_peers_and_the_own_name_are_refused(house: House) -> None:
    for verb in (Verb.REMOVE, Verb.ENABLE, Verb.DISABLE):
        with pytest.raises(CommandError) as raised:
            house.endpoint.wish(verb, "bob")
        assert raised.value.code is ExitCode.NO_SUCH_THING
    with pytest.raises(CommandError) as raised:
        house.endpoint.wish(Verb.ADD, "alice.home")
    assert raised.value.code is ExitCode.WRONG_USAGE
    with pytest.raises(DecodeError):
        house.endpoint.wish(Verb.ADD, "bob.elsewhere")
    with pytest.raises(DecodeError):
        house.endpoint.wish(Verb.ADD, "bob", "nonsense")


def test_a_key_bundle_is_made_stored_and_never_has_an_older_serial(house: House) -> None:
    house.endpoint.handle_clock(time.time(), has_slept=False)
    assert house.vault.bundle is not None
    serial = peek_bundle(house.vault.bundle).serial
    assert serial == house.vault.keys.held[0].serial >= int(time.time()) - 60
    assert house.restart().vault.bundle == house.vault.bundle
    (house.state / SEALING_FILE).unlink()
    again = house.restart()
    assert again.vault.bundle is None
    again.endpoint.handle_clock(time.time(), has_slept=False)
    assert again.vault.bundle is not None
    assert peek_bundle(again.vault.bundle).serial > serial


def test_a_new_certificate_is_stored(house: House) -> None:
    secrets = open_identity(kept_in(house.state))
    renewed = house.homestead.issue(secrets, "alice.home", 1)
    house.endpoint.handle_event(CertificateReplaced(renewed))
    assert load_papers(house.state).certificate.der == renewed


def test_a_renewal_that_is_due_is_asked_for_over_the_same_key(house: House) -> None:
    house.endpoint.handle_event(RenewalDue())  # not connected: the node drops it, and asks again
    assert house.outside.said == []


def test_events_reach_whom_they_concern(house: House) -> None:
    house.endpoint.handle_event(ServiceRejected(1, "a wrong signature"))
    house.endpoint.handle_event(StunNames(("stun.example:3478",)))
    assert house.outside.closed == ["a wrong signature"]
    assert house.stun_names == [("stun.example:3478",)]


def test_a_relay_that_tells_of_somebody_else_with_the_own_key_is_logged(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        house.endpoint.handle_event(RelayContested(RelayPlace("relay.example", 3478, 443)))
    (record,) = caplog.records
    assert "with this endpoint's key, or the relay is wrong" in record.getMessage()
    assert "relay.example" in record.getMessage()


def test_what_the_service_refuses_about_the_own_papers_is_kept_for_the_status(house: House) -> None:
    house.endpoint.handle_event(ServiceRefused("StateIntent", "too many wishes"))
    assert house.outside.refused == []
    house.endpoint.handle_event(ServiceRefused("Authenticate", "it was revoked"))
    assert house.outside.refused == ["it was revoked"]


def test_waking_up_makes_the_service_channel_doubtful(house: House) -> None:
    house.endpoint.handle_clock(time.time(), has_slept=False)
    assert house.outside.moves == 0
    house.endpoint.handle_clock(time.time(), has_slept=True)
    assert house.outside.moves == 1


def test_a_lost_path_makes_the_service_channel_doubtful_and_a_new_one_does_not(house: House) -> None:
    house.endpoint.handle_event(PathChanged("bob.home", PathKind.LAN, Address("192.0.2.1", 1)))
    assert house.outside.doubts == 0
    house.endpoint.handle_event(PathChanged("bob.home", None, None))
    assert house.outside.doubts == 1


# over the control socket's questions


def questions(house: House) -> Questions:
    def no_report() -> None:
        return None

    return Questions(house.endpoint, no_report)  # type: ignore[arg-type]


async def test_questions_are_answered_with_full_names(house: House) -> None:
    clerk = questions(house)
    assert await clerk.answer(AskAdd("bob")) == Done("bob.home")
    assert await clerk.answer(AskDisable("bob")) == Done("bob.home")
    answer = await clerk.answer(AskStatus("bob"))
    assert isinstance(answer, Status)
    assert [(peer.name, peer.state) for peer in answer.report.peers] == [("bob.home", "disabled")]
    assert await clerk.answer(AskRemove("bob")) == Done("bob.home")
    with pytest.raises(CommandError):
        await clerk.answer(AskStatus("bob"))


async def test_a_wish_stored_while_the_daemon_started_is_taken_on_demand(house: House) -> None:
    make_wish(house.state, Verb.ADD, "bob")
    assert await questions(house).answer(AskWishes()) == Done()
    assert names(house) == ["bob.home"]


async def test_a_wait_ends_with_why_when_it_takes_too_long(house: House, autojump_clock: object) -> None:
    house.endpoint.wish(Verb.ADD, "bob")
    answer = await questions(house).answer(AskWait("bob", "direct", 5.0))
    assert isinstance(answer, Failed)
    assert answer.code == ExitCode.NOT_SO
    assert answer.why.startswith("bob.home is not connected over a direct path after 5 s: pending, ")


async def test_a_wait_ends_when_the_peer_is_removed(house: House, autojump_clock: object) -> None:
    house.endpoint.wish(Verb.ADD, "bob")
    async with trio.open_nursery() as nursery:

        async def remove() -> None:
            await trio.sleep(1)
            house.endpoint.wish(Verb.REMOVE, "bob")

        nursery.start_soon(remove)
        with pytest.raises(CommandError) as raised:
            await questions(house).answer(AskWait("bob", "any", 100.0))
        assert raised.value.code is ExitCode.NO_SUCH_THING
    assert trio.current_time() < 1_000_000


async def test_a_wait_ends_as_soon_as_the_condition_holds(house: House, autojump_clock: object) -> None:
    holds = False
    started = trio.current_time()

    async def change() -> None:
        nonlocal holds
        for at in (1.0, 2.0):
            await trio.sleep(1)
            holds = at == 2.0
            house.endpoint.handle_event(PeerChanged("bob.home", PeerState.CONNECTED, "directly"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert await house.endpoint.wait_until(lambda: holds, 100)
        assert trio.current_time() - started == pytest.approx(2)


async def test_a_ping_to_a_peer_that_is_not_connected_says_why(house: House) -> None:
    house.endpoint.wish(Verb.ADD, "bob")
    answer = await questions(house).answer(AskPing("bob"))
    assert isinstance(answer, Failed)
    assert "pending" in answer.why


async def test_a_pong_reaches_the_ping_with_its_token_and_no_other(
    house: House, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[int] = []

    def ping(_peer: str, token: int, _now: float) -> bool:
        tokens.append(token)
        return True

    monkeypatch.setattr(house.node, "ping", ping)
    pongs: list[Pong | None] = []

    async def one() -> None:
        pongs.append(await house.endpoint.ping("bob.home", 5))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        await trio.sleep(1)
        house.endpoint.handle_event(_pong(tokens[0] ^ 1))
        await trio.sleep(1)
        assert not pongs
        house.endpoint.handle_event(_pong(tokens[0]))
    assert pongs == [_pong(tokens[0])]
    assert await house.endpoint.ping("bob.home", 5) is None, "nobody answers the second"


def _pong(token: int) -> Pong:
    return Pong("bob.home", token, 0.001, PathKind.LAN, Address("192.0.2.1", 1))
