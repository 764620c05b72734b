"""What who watches, repeats, floods or has copied something can not do to a pair that shares a root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest

from fabric.core.entanglement import UNMET, Entangle, Entangled
from fabric.core.events import TrustAlarm
from fabric.core.gate import wrap
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.core.pieces import split
from fabric.core.settings import Settings
from fabric.core.status import Outcome, PeerState
from fabric.wire.address import Address
from fabric.wire.handshake import Hello, MessageKind, Piece, encode_hello, encode_piece
from fabric.wire.path import TOKEN_BYTES, GatedProbe, encode_gated_message
from fabric.wire.rendezvous import Withdrawn
from tests.core.test_entanglement import are_quarantined, copy, held, reset, restart, state, switch_off
from tests.core.town import UNIX
from tests.core.village import House, Village

A, B = "a.home", "b.home"
STRANGER = Address("203.0.113.66", 6666)


@pytest.fixture
def village() -> Village:
    return Village(A, B)


@pytest.fixture
def pair(village: Village) -> Village:
    village.meet(A, B)
    village.run(1.0)
    return village


def alarms(house: House) -> list[TrustAlarm]:
    return [event for event in house.told if isinstance(event, TrustAlarm)]


def test_a_reset_of_a_removed_peer_keeps_its_key_unless_a_new_one_is_asked_for(pair: Village) -> None:
    house = pair.houses[A]
    key = house.records[B].pinned_key
    house.node.remove(B, pair.now)
    pair.settle(house)
    pair.run(1.0)
    reset(pair, A, B)
    assert house.records[B].pinned_key == key is not None
    assert house.records[B].entangled == UNMET
    reset(pair, A, B, key=True)
    assert B not in house.records


def test_a_collision_that_is_let_pass_is_told_each_time(village: Village) -> None:
    village = Village(A, B, settings=Settings(entangle=Entangle.ALERT))
    village.meet(A, B)
    village.run(1.0)
    for told in (1, 2):
        records = dict(village.houses[A].records)
        forgetful = {B: msgspec.structs.replace(records[B], entangled=Entangled())}
        village.build(A, forgetful)
        assert village.run_until(lambda: village.are_connected(A, B) and bool(held(village, A, B).roots))
        village.run(1.0)
        assert len(alarms(village.houses[B])) == told
        alarm = held(village, B, A).alarm
        assert alarm is not None
        assert village.now + village.houses[B].node._calendar.offset - alarm.at.unix < 35.0


def test_a_ticket_that_comes_from_elsewhere_proves_no_path(pair: Village) -> None:
    """Whoever is on the way can take the client's first message and send it from any address first."""
    taken: list[bytes] = []
    victim = STRANGER
    original = pair._send

    def divert(sender: House, to: Address, payload: bytes, index: int | None = None) -> None:
        if sender.name == A and index is None and len(payload) > 300:
            taken.append(payload)
            return
        original(sender, to, payload, index)

    pair._send = divert  # type: ignore[method-assign]
    pair.build(A, pair.houses[A].records)
    assert pair.run_until(lambda: len(taken) >= 2, 5.0)
    for payload in taken[:2]:
        pair.inject(victim, pair.houses[B], payload)
    paths = pair.houses[B].status(A, pair.now)
    attempts = {attempt.remote: attempt for attempt in paths.attempts}
    assert victim not in attempts or attempts[victim].outcome is not Outcome.ANSWERS


@pytest.mark.parametrize("mode", [Entangle.ALERT, Entangle.OFF])
@pytest.mark.parametrize("lenient", [A, B])
def test_an_end_that_lets_collisions_pass_says_why_the_other_refuses_it(
    village: Village, mode: Entangle, lenient: str
) -> None:
    strict = B if lenient == A else A
    village.meet(A, B)
    village.run(1.0)
    village.settings = replace(village.settings, entangle=mode)
    records = dict(village.houses[lenient].records)
    village.build(lenient, {strict: msgspec.structs.replace(records[strict], entangled=Entangled())})
    village.run(20.0)
    assert state(village, strict, lenient) is PeerState.QUARANTINED
    assert "trust reset" in village.houses[lenient].status(strict, village.now).why
    reset(village, strict, lenient)
    village.run(20.0)
    if not village.are_connected(A, B):
        here = f"fabric trust reset {strict}"
        assert here in village.houses[lenient].status(strict, village.now).why
        reset(village, lenient, strict)
    assert village.run_until(lambda: village.are_connected(A, B), 10.0)


def test_nothing_hides_why_a_pair_is_quarantined(pair: Village) -> None:
    reset(pair, B, A)
    assert pair.run_until(lambda: state(pair, A, B) is PeerState.QUARANTINED)
    false = pair.introduction(B, A)
    pair.tell(A, msgspec.structs.replace(false, certificate=pair.houses[A].node.certificate.der))
    pair.run(1.0)
    assert state(pair, A, B) is PeerState.QUARANTINED
    assert "trust reset" in pair.houses[A].status(B, pair.now).why


def test_after_a_reset_with_a_new_key_who_copied_the_old_gate_finds_none(pair: Village) -> None:
    before = pair.houses[A].records[B]
    reset(pair, A, B, key=True)
    reset(pair, B, A, key=True)
    assert pair.run_until(lambda: pair.are_connected(A, B), 90.0)
    after = pair.houses[A].records[B]
    assert after.gate_share != before.gate_share


def test_a_reset_of_a_disabled_peer_starts_nothing(pair: Village) -> None:
    house = pair.houses[A]
    house.node.disable(B, pair.now)
    pair.settle(house)
    pair.run(2.0)
    pair.datagrams.clear()
    reset(pair, A, B)
    pair.run(30.0)
    assert state(pair, A, B) is PeerState.DISABLED
    assert pair.datagrams[A] == 0


def test_a_copy_of_the_server_that_calls_without_end_is_found_all_the_same(pair: Village) -> None:
    """It sits at the end of the client's path, and calls more often than the real one, which is to be asked as well."""
    real, records = pair.houses[B].address, switch_off(pair, B)
    copied = copy(pair, B, records)
    assert pair.run_until(lambda: copied.status(A, pair.now).state is PeerState.CONNECTED)
    pair.run(1.0)
    pair.houses[B] = House(B, real, copied.node, copied.lane)  # the address that `build` takes up again
    restart(pair, B, records)
    gateway = copied.node._peers[A]._gateway
    end = pair.now + 30.0
    while pair.now < end and state(pair, A, B) is not PeerState.QUARANTINED:
        pair._send(copied, pair.houses[A].address, gateway.wrap_call(pair.now))
        pair.run(0.02)
    assert state(pair, A, B) is PeerState.QUARANTINED
    assert pair.run_until(lambda: state(pair, B, A) is PeerState.QUARANTINED, 5.0)


@pytest.mark.parametrize("first", [A, B])
@pytest.mark.parametrize("pause_s", [1.0, 20.0, 200.0])
def test_the_two_meet_at_once_when_the_second_of_them_was_reset(pair: Village, first: str, pause_s: float) -> None:
    second = B if first == A else A
    before = dict(pair.houses[A].records)
    restart(pair, A)
    assert pair.run_until(lambda: pair.are_connected(A, B) and held(pair, A, B).roots != before[B].entangled.roots)
    pair.run(1.0)
    restart(pair, A, before)
    assert pair.run_until(lambda: are_quarantined(pair, (A, B), (B, A)))
    reset(pair, first, second)
    pair.run(pause_s)
    reset(pair, second, first)
    assert pair.run_until(lambda: pair.are_connected(A, B), 5.0)


def test_an_end_that_is_refused_for_days_goes_on_asking(pair: Village) -> None:
    reset(pair, A, B)
    assert pair.run_until(lambda: state(pair, B, A) is PeerState.QUARANTINED)
    negotiation = pair.houses[A].node._peers[B]._keying._negotiation
    assert isinstance(negotiation, ClientNegotiation)
    negotiation._refusals = 2_000
    began = negotiation._begun_at
    pair.run(150.0)
    assert negotiation._refusals > 2_000
    assert pair.now - 70.0 < negotiation._begun_at
    assert negotiation._begun_at > began


def test_a_service_that_says_the_peer_is_gone_does_not_silence_an_alarm(pair: Village) -> None:
    before = dict(pair.houses[A].records)
    restart(pair, A)
    assert pair.run_until(lambda: pair.are_connected(A, B) and held(pair, A, B).roots != before[B].entangled.roots)
    pair.run(1.0)
    pair.drop = lambda source, _: source == A and state(pair, A, B) is PeerState.QUARANTINED
    restart(pair, A, before)
    assert pair.run_until(lambda: state(pair, A, B) is PeerState.QUARANTINED)
    pair.run(0.5)
    assert held(pair, B, A).alarm is None
    pair.lie = lambda _to, _message: None
    pair._later(0.0, lambda: pair._hear(A, Withdrawn(B)))
    pair.run(0.5)
    pair.drop = lambda _source, _target: False
    assert pair.run_until(lambda: state(pair, B, A) is PeerState.QUARANTINED, 60.0)


@dataclass
class Flooder:
    """Holds the gate of B for A, as a copy of A does, and no identity key that it would show."""

    village: Village
    index: int
    key: bytes
    sent: int = 0

    @property
    def unix_ms(self) -> int:
        return int((UNIX - 1000.0 + self.village.now) * 1000)

    def send(self, body: bytes) -> None:
        self.village.inject(STRANGER, self.village.houses[B], wrap(self.index, self.key, body))

    def hello(self) -> None:
        self.sent += 1
        ephemeral = self.sent.to_bytes(32)
        message = encode_hello(Hello(self.sent, self.unix_ms, ephemeral, bytes(1184), ephemeral, (1, 2)))
        for body in split(message, self.unix_ms):
            self.send(body)

    def piece(self) -> None:
        for kind in (MessageKind.HELLO, MessageKind.RESUME, MessageKind.FINISH):
            self.sent += 1
            self.send(encode_piece(Piece(kind, 0, 2, 2**63, self.sent.to_bytes(16), b"x")))

    def dates(self) -> None:
        if self.sent < 5_000:
            for _ in range(500):
                self.sent += 1
                token = self.sent.to_bytes(TOKEN_BYTES)
                self.send(encode_gated_message(GatedProbe(self.unix_ms + 290_000, token)))


@pytest.mark.parametrize("flood", [Flooder.hello, Flooder.piece, Flooder.dates])
def test_a_copy_that_floods_the_gate_does_not_keep_the_real_one_out(
    pair: Village, flood: Callable[[Flooder], None]
) -> None:
    """It would else never be found: who gets no answer is not alarmed, and alarms nobody."""
    papers, real = pair.houses[A].node._peers[B].papers, pair.houses[A].records
    assert papers.offer is not None
    flooder = Flooder(pair, papers.offer.gate_index, papers.gate_out)
    before = held(pair, A, B).roots
    for _ in range(100):
        flood(flooder)
        pair.run(0.02)
    restart(pair, A, real)
    end = pair.now + 15.0
    while pair.now < end and not (pair.are_connected(A, B) and held(pair, A, B).roots != before):
        flood(flooder)
        pair.run(0.02)
    assert pair.are_connected(A, B)
    assert held(pair, A, B).roots != before


def test_a_copy_of_the_server_that_only_listens_hears_no_more_than_some_seconds(pair: Village) -> None:
    """It takes a ticket, says and stores nothing after, and so goes unseen: the client seals before it hears more."""
    records = switch_off(pair, B)
    keying = pair.build(B, records).node._peers[A]._keying
    keying.handle_opened = lambda *_: False  # type: ignore[method-assign]
    keying.pursue = lambda *_: False  # type: ignore[method-assign]
    pair.houses[B].lane.send_control = lambda *_args, **_options: None  # type: ignore[method-assign]
    assert isinstance(keying._negotiation, ServerNegotiation)
    keying._negotiation._handle_hello = lambda *_: None  # type: ignore[method-assign]
    restart(pair, A)
    client = pair.houses[A].lane
    assert pair.run_until(lambda: client.sealing is not None, 5.0)
    began = pair.now
    assert pair.run_until(lambda: client.sealing is None, 60.0)
    assert pair.now - began < 9.0
    pair.run(120.0)
    assert client.sealing is None


def test_who_was_enrolled_anew_is_refused_until_a_person_says_so(pair: Village) -> None:
    switch_off(pair, B)
    pair.town._identities[B] = pair.town.make_identity(B)
    pair.build(B)
    pair.houses[B].node.add(A, None, pair.now)
    pair.settle(pair.houses[B])
    restart(pair, A)
    pair.run(20.0)
    assert not pair.are_connected(A, B)
    assert "trust reset b.home --new-key" in pair.houses[A].status(B, pair.now).why
    reset(pair, A, B, key=True)
    assert pair.run_until(lambda: pair.are_connected(A, B), 30.0)
