"""The relay against thieves, forgers, floods and the ordinary troubles of a network."""

from __future__ import annotations

import random
from collections.abc import Sized
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.core.relay import MAX_WAYS, Relay, RelaySettings
from discovery.core.settings import DAY_S
from fabric.core.machine import drain
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_RELAY, Ed25519Signer
from fabric.identity.grant import Grant, grant_id, sign_grant
from fabric.identity.trust import Trust
from fabric.wire.address import Address, Transport
from fabric.wire.datagram import DATA_TYPE, GATED_TYPE
from fabric.wire.relay import (
    NO_COOKIE,
    NO_SIGNATURE,
    Bind,
    Bound,
    Challenge,
    Refresh,
    Refreshed,
    Refused,
    RefusedReason,
    RelayMessage,
    decode_relay_message,
    encode_relay_message,
    unwrap_relayed,
    wrap_relayed,
)
from tests.discovery.town import NETWORK, Town, make_authority

HELLO = bytes((DATA_TYPE,)) + b"hello, other side"
GREETING = bytes((GATED_TYPE,)) + b"is that you, other side?"


def udp(number: int, place: int = 0) -> Address:
    return Address(f"198.51.100.{number}", 41_641, Transport.RELAY_UDP, place)


def tls(number: int, connection: int) -> Address:
    return Address(f"198.51.100.{number}", 50_000 + connection, Transport.RELAY_TLS, connection)


class Square:
    """A relay, and the service that gives grants for it."""

    def __init__(self, settings: RelaySettings | None = None) -> None:
        self.town = Town()
        trust = Trust(self.town.authority.root_der, NETWORK, None)
        self.relay = Relay(
            trust, NETWORK, self.town.draw, self.town.calendar, settings or RelaySettings(), self.town.now
        )
        self.sent: list[tuple[Address, bytes]] = []

    def grant(self, holder: Ed25519Signer, side: int, pair: bytes = b"p" * 16, **changes: object) -> bytes:
        unix = self.town.unix
        grant = Grant(NETWORK, pair, side, holder.public_key, unix, unix + DAY_S, 12_500_000, 1 << 36)
        identity = self.town.identity
        return sign_grant(identity.signer, identity.certificate, replace(grant, **changes))  # type: ignore[arg-type]

    def send(self, source: Address, payload: bytes, place: int = 0) -> list[tuple[Address, bytes]]:
        """Returns everything that leaves the relay because of it."""
        self.relay.handle_datagram(source, payload, self.town.now, place)
        sent = [(transmit.to, transmit.payload) for transmit in drain(self.relay.poll_transmit)]
        answers = sum(len(answer) for to, answer in sent if to == source)
        assert answers <= len(payload), "an answer longer than its question"
        self.sent += sent
        return sent

    def ask(self, source: Address, message: RelayMessage, place: int = 0) -> RelayMessage | None:
        sent = self.send(source, encode_relay_message(message), place)
        assert [to for to, _ in sent] in ([], [source])
        return decode_relay_message(sent[0][1]) if sent else None

    def pass_time(self, seconds: float) -> None:
        end = self.town.now + seconds
        while (due := self.relay.next_timeout()) is not None and due <= end:
            self.town.now = max(self.town.now, due)
            self.relay.handle_timeout(self.town.now)
        self.town.now = end

    def is_remembering(self) -> int:
        """How many things the relay keeps."""
        relay = self.relay
        kept: tuple[Sized, ...] = (
            relay._bindings,
            relay._pairs,
            relay._by_connection,
            relay._allowances,
            relay._void,
            relay._transmits,
        )
        return sum(len(table) for table in kept) + len(relay._sources._buckets)


@dataclass
class Guest:
    """One side of a pair."""

    square: Square
    signer: Ed25519Signer
    grant: bytes
    source: Address
    place: int = 0
    channel: int = 0

    def signed(self, cookie: bytes, grant: bytes | None = None) -> Bind:
        grant = grant or self.grant
        return Bind(cookie, self.signer.sign(LABEL_RELAY, NETWORK.encode(), cookie, grant_id(grant)), grant)

    def challenge(self) -> bytes:
        challenge = self.square.ask(self.source, Bind(NO_COOKIE, NO_SIGNATURE, self.grant), self.place)
        assert isinstance(challenge, Challenge)
        assert challenge.grant_id == grant_id(self.grant)
        return challenge.cookie

    def try_bind(self) -> RelayMessage | None:
        return self.square.ask(self.source, self.signed(self.challenge()), self.place)

    def bind(self) -> Bind:
        """Returns the message that bound it."""
        message = self.signed(self.challenge())
        bound = self.square.ask(self.source, message, self.place)
        assert isinstance(bound, Bound), bound
        self.channel = bound.channel
        return message

    def send(self, payload: bytes = HELLO) -> list[tuple[Address, bytes]]:
        return self.square.send(self.source, wrap_relayed(self.channel, payload), self.place)

    def refresh(self) -> RelayMessage | None:
        return self.square.ask(self.source, Refresh((self.channel,)), self.place)

    def gets(self, sent: list[tuple[Address, bytes]], payload: bytes = HELLO) -> bool:
        return [(to, unwrap_relayed(datagram)) for to, datagram in sent] == [(self.source, (self.channel, payload))]

    def over(self, source: Address, place: int = 0) -> Guest:
        """The same side, from somewhere else."""
        return replace(self, source=source, place=place, channel=0)


def make_pair(square: Square, one: Address | None = None, other: Address | None = None) -> tuple[Guest, Guest]:
    signers = Ed25519Signer(b"1" * 32), Ed25519Signer(b"2" * 32)
    sources = one or udp(1), other or udp(2)
    ada, bob = (Guest(square, signers[side], square.grant(signers[side], side), sources[side]) for side in (0, 1))
    ada.bind()
    bob.bind()
    return ada, bob


@pytest.fixture
def square() -> Square:
    return Square()


# forwarding


@pytest.mark.parametrize("one", [udp(1), tls(1, 7)])
@pytest.mark.parametrize("other", [udp(2), tls(2, 8)])
def test_two_that_hold_grants_reach_each_other_however_each_comes(square: Square, one: Address, other: Address) -> None:
    ada, bob = make_pair(square, one, other)
    assert bob.gets(ada.send())
    assert ada.gets(bob.send())
    assert square.relay.counters["forwarded"] == 2


def test_who_is_alone_reaches_nobody(square: Square) -> None:
    ada = Guest(square, signer := Ed25519Signer(b"1" * 32), square.grant(signer, 0), udp(1))
    ada.bind()
    assert ada.send() == []
    assert square.relay.counters["alone"] == 1


def test_one_side_never_hears_itself(square: Square) -> None:
    ada, _ = make_pair(square)
    again = ada.over(tls(1, 3))
    again.bind()
    assert all(to == udp(2) for to, _ in (*ada.send(), *again.send()))


def test_a_channel_is_worth_nothing_from_another_source(square: Square) -> None:
    ada, _ = make_pair(square)
    for source in (udp(3), replace(ada.source, port=1), replace(ada.source, via=1), tls(1, 0)):
        assert square.send(source, wrap_relayed(ada.channel, HELLO)) == []
    assert square.relay.counters["stranger"] == 4


@pytest.mark.parametrize("payload", [b"\x00" * 20, b"\xf3" + bytes(20), b"\xf4" + bytes(20), b"\xf1" * 9300])
def test_only_sealed_datagrams_of_a_possible_length_pass(square: Square, payload: bytes) -> None:
    ada, _ = make_pair(square)
    assert ada.send(payload) == []
    assert square.relay.counters["no_datagram"] == 1


def test_pairs_do_not_hear_each_other(square: Square) -> None:
    ada, bob = make_pair(square)
    eve = Guest(square, signer := Ed25519Signer(b"3" * 32), square.grant(signer, 1, pair=b"q" * 16), udp(3))
    eve.bind()
    assert bob.gets(ada.send())
    assert eve.send() == []


# who may bind


def test_a_grant_of_another_authority_binds_nothing(square: Square) -> None:
    ada = Guest(square, signer := Ed25519Signer(b"1" * 32), square.grant(signer, 0), udp(1))
    square.relay._trust = Trust(make_authority(random.Random(99)).root_der, NETWORK, None)
    assert ada.try_bind() == Refused(grant_id(ada.grant), RefusedReason.GRANT)
    assert square.relay.bindings == 0


def test_a_forged_grant_binds_nothing(square: Square) -> None:
    ada = Guest(square, signer := Ed25519Signer(b"1" * 32), square.grant(signer, 0), udp(1))
    ada.grant = ada.grant[:-1] + b"\x77"  # a larger quota
    assert ada.try_bind() == Refused(grant_id(ada.grant), RefusedReason.GRANT)


def test_a_grant_binds_up_to_its_end_and_what_it_bound_ends_with_it(square: Square) -> None:
    signer = Ed25519Signer(b"1" * 32)
    ada = Guest(square, signer, square.grant(signer, 0, expires=square.town.unix + 60), udp(1))
    ada.bind()
    square.pass_time(59)
    assert ada.refresh() == Refreshed((ada.channel,))
    square.pass_time(1)
    assert ada.refresh() == Refreshed(())
    assert ada.try_bind() == Refused(grant_id(ada.grant), RefusedReason.GRANT)
    square.pass_time(square.relay._settings.sweep_s)
    assert square.relay.bindings == 0


def test_a_stolen_grant_binds_nothing_without_its_holders_key(square: Square) -> None:
    ada, _ = make_pair(square)
    thief = Guest(square, Ed25519Signer(b"t" * 32), ada.grant, udp(9))
    assert thief.try_bind() == Refused(grant_id(ada.grant), RefusedReason.SIGNATURE)
    assert ada.refresh() == Refreshed((ada.channel,))


def test_a_signature_for_another_use_binds_nothing(square: Square) -> None:
    ada = Guest(square, signer := Ed25519Signer(b"1" * 32), square.grant(signer, 0), udp(1))
    cookie = ada.challenge()
    signature = signer.sign(LABEL_CONTROL_CLIENT, NETWORK.encode(), cookie, grant_id(ada.grant))
    assert square.ask(ada.source, Bind(cookie, signature, ada.grant)) == Refused(
        grant_id(ada.grant), RefusedReason.SIGNATURE
    )


def test_a_forged_source_binds_nothing_since_its_owner_gets_the_cookie(square: Square) -> None:
    ada = Guest(square, signer := Ed25519Signer(b"1" * 32), square.grant(signer, 0), udp(1))
    cookie = ada.challenge()
    for source in (udp(2), replace(udp(1), port=9), replace(udp(1), via=1), tls(1, 0)):
        assert isinstance(square.ask(source, ada.signed(cookie)), Challenge)
    assert square.relay.bindings == 0
    assert square.relay.counters["cookie"] == 4


def test_a_cookie_is_for_one_grant_and_for_two_minutes(square: Square) -> None:
    signer = Ed25519Signer(b"1" * 32)
    ada = Guest(square, signer, square.grant(signer, 0), udp(1))
    cookie = ada.challenge()
    other = square.grant(signer, 0, pair=b"q" * 16)
    assert isinstance(square.ask(ada.source, ada.signed(cookie, other)), Challenge)
    square.pass_time(61)
    assert isinstance(square.ask(ada.source, ada.signed(cookie)), Bound)
    late = ada.over(udp(2))
    cookie = late.challenge()
    square.pass_time(121)
    assert isinstance(square.ask(late.source, late.signed(cookie)), Challenge)


def test_a_bind_that_is_repeated_gets_the_same_answer_and_changes_nothing(square: Square) -> None:
    ada, bob = make_pair(square)
    message = ada.over(ada.source).bind()
    first = square.ask(ada.source, message)
    assert square.ask(ada.source, message) == first
    assert square.relay.bindings == 2
    assert bob.gets(ada.send())


def test_a_recorded_bind_does_not_bring_back_an_address_that_was_left(square: Square) -> None:
    ada, bob = make_pair(square)
    recorded = ada.over(ada.source).bind()
    moved = ada.over(udp(5))
    moved.bind()
    assert isinstance(square.ask(ada.source, recorded), Challenge)
    assert moved.gets(bob.send())


def test_garbage_gets_no_answer(square: Square) -> None:
    grant = square.grant(Ed25519Signer(b"1" * 32), 0)
    bare = encode_relay_message(Bind(NO_COOKIE, NO_SIGNATURE, b"no grant at all"))
    answers = (encode_relay_message(Challenge(bytes(16), bytes(16))), encode_relay_message(Refreshed((1,))))
    for payload in (b"", b"\xf4", b"\xf3", b"\xf3\0\0\0\0\0\0\0", b"\xf4\x01\0\0", bare, *answers, grant):
        assert square.send(udp(1), payload) == []


@settings(max_examples=200)
@given(st.binary(max_size=300).map(lambda rest: b"\xf4" + rest) | st.binary(max_size=300))
def test_nothing_that_may_come_raises_or_gets_a_longer_answer(payload: bytes) -> None:
    SHARED.send(udp(77), payload)


SHARED = Square()


# moving


def test_an_end_that_moves_is_reached_at_once_and_its_old_address_is_nobody(square: Square) -> None:
    ada, bob = make_pair(square)
    moved = ada.over(udp(5))
    moved.bind()
    assert moved.gets(bob.send())
    assert bob.gets(moved.send())
    assert ada.send() == []
    assert square.relay.bindings == 2


def test_an_end_that_goes_over_to_the_websocket_is_reached_there_at_once(square: Square) -> None:
    ada, bob = make_pair(square)
    moved = ada.over(tls(1, 4))
    moved.bind()
    assert moved.gets(bob.send())
    assert bob.gets(moved.send())
    square.relay.handle_lost(moved.source)
    assert ada.gets(bob.send())


def test_two_ways_in_use_at_a_time_stay_apart(square: Square) -> None:
    ada, bob = make_pair(square)
    ada_too, bob_too = ada.over(udp(1, place=1)), bob.over(udp(2, place=1))
    ada_too.bind()
    bob_too.bind()
    square.town.now += 1
    for guest in (ada, bob, ada_too, bob_too):
        guest.send()
    assert bob.gets(ada.send())
    assert bob_too.gets(ada_too.send())
    assert ada.gets(bob.send())
    assert ada_too.gets(bob_too.send())


def test_what_may_begin_a_session_goes_to_all_ways_of_a_side_and_once_to_each(square: Square) -> None:
    """Where an endpoint was copied, the original is behind one of them and the copy behind another."""
    ada, bob = make_pair(square)
    copy = ada.over(tls(7, 3))
    copy.bind()
    square.town.now += 1
    for guest in (ada, copy):
        assert bob.gets(guest.send(GREETING), GREETING)
        sent = bob.send(GREETING)
        assert len(sent) == 2
        for one in (ada, copy):
            assert one.gets([(to, datagram) for to, datagram in sent if to == one.source], GREETING)
        assert len(bob.send(HELLO)) == 1


def slow_pair(square: Square) -> tuple[Guest, Guest]:
    """Two who are bound, and have 10,000 bytes a second between them."""
    signers = Ed25519Signer(b"1" * 32), Ed25519Signer(b"2" * 32)
    ada, bob = (
        Guest(square, signers[side], square.grant(signers[side], side, rate_bytes_s=10_000), udp(side + 1))
        for side in (0, 1)
    )
    ada.bind()
    bob.bind()
    return ada, bob


def test_copies_of_what_may_begin_a_session_count_for_the_rate_of_the_pair(square: Square) -> None:
    ada, bob = slow_pair(square)
    for number in range(1, MAX_WAYS):
        ada.over(tls(1, number), place=number).bind()
    payload = bytes((GATED_TYPE,)) + bytes(991)  # 1,000 with its header
    sent = [to for _ in range(10) for to, _ in bob.send(payload)]
    assert len(sent) == 10
    assert len(set(sent)) == MAX_WAYS
    assert square.relay.counters["copied"] + square.relay.counters["forwarded"] == 10


def test_two_websockets_at_two_places_stay_apart_and_one_place_has_one(square: Square) -> None:
    ada, bob = make_pair(square)
    first, second = ada.over(tls(1, 1), place=1), ada.over(tls(1, 2), place=2)
    first.bind()
    second.bind()
    assert square.relay.bindings == 4
    ada.over(tls(1, 3), place=2).bind()
    assert square.relay.bindings == 4
    assert second.send() == []
    assert bob.gets(first.send())


def test_a_side_has_only_so_many_ways(square: Square) -> None:
    ada, bob = make_pair(square)
    for number in range(2 * MAX_WAYS):
        square.town.now += 1
        ada.over(tls(1, number), place=number).bind()
    assert square.relay.bindings == MAX_WAYS + 1
    assert [to.via for to, _ in bob.send()] == [2 * MAX_WAYS - 1]


def test_a_websocket_that_ends_takes_its_bindings_along(square: Square) -> None:
    ada, bob = make_pair(square, one=tls(1, 7))
    assert square.relay.is_bound(ada.source)
    square.relay.handle_lost(ada.source)
    square.relay.handle_lost(ada.source)
    assert not square.relay.is_bound(ada.source)
    assert bob.send() == []
    ada.bind()
    assert bob.gets(ada.send())


# life


def test_a_binding_lives_on_refreshes_from_its_own_address(square: Square) -> None:
    ada, bob = make_pair(square)
    for _ in range(10):
        square.pass_time(100)
        assert square.ask(udp(9), Refresh((ada.channel,))) == Refreshed(())
        assert ada.refresh() == Refreshed((ada.channel,))
    assert bob.send() == []
    assert bob.refresh() == Refreshed(())
    assert square.relay.bindings == 1


def test_without_refresh_nothing_is_kept_but_what_was_sent_today(square: Square) -> None:
    make_pair(square)
    square.pass_time(135)
    assert square.relay.bindings == 0
    assert len(square.relay._pairs) == 0
    assert square.is_remembering() == 2 + len(square.relay._sources._buckets)
    square.pass_time(DAY_S)
    assert square.is_remembering() == len(square.relay._sources._buckets)
    assert square.relay.next_timeout() is None


def test_a_refresh_names_many_and_is_told_which_stand(square: Square) -> None:
    ada, _ = make_pair(square)
    other = replace(ada, grant=square.grant(ada.signer, 0, pair=b"q" * 16), channel=0)
    other.bind()
    asked = Refresh((1, ada.channel, 2, other.channel))
    assert square.ask(ada.source, asked) == Refreshed((ada.channel, other.channel))


def test_a_new_grant_carries_on_where_the_old_one_ends(square: Square) -> None:
    ada, bob = make_pair(square)
    square.pass_time(100)
    ada.refresh()
    bob.refresh()
    square.town.now += 1
    channel, ada.grant = ada.channel, square.grant(ada.signer, 0)
    ada.bind()
    assert ada.channel == channel
    assert ada.gets(bob.send())
    assert square.relay.bindings == 2


# bounds


def test_a_pair_has_one_rate_for_both_directions(square: Square) -> None:
    ada, bob = slow_pair(square)
    payload = bytes((DATA_TYPE,)) + bytes(991)  # 1,000 with its header
    passed = sum(len(guest.send(payload)) for _ in range(10) for guest in (ada, bob))
    assert passed == 10
    square.town.now += 0.5
    assert sum(len(ada.send(payload)) for _ in range(10)) == 5
    square.town.now += 60
    assert sum(len(ada.send(payload)) for _ in range(20)) == 10
    assert square.relay.counters["rate"] == 10 + 5 + 10


def test_a_quota_is_for_a_day_and_binding_again_does_not_refill_it(square: Square) -> None:
    signer = Ed25519Signer(b"1" * 32)
    ada = Guest(square, signer, square.grant(signer, 0, quota_bytes=2000), udp(1))
    ada.bind()
    _, bob = make_pair(square)
    ada.bind()
    payload = bytes((DATA_TYPE,)) + bytes(991)
    assert [len(ada.send(payload)) for _ in range(3)] == [1, 1, 0]
    square.pass_time(200)
    ada.grant = square.grant(signer, 0, quota_bytes=2000)
    ada.bind()
    bob.bind()
    assert ada.send(payload) == []
    assert ada.gets(bob.send())
    for _ in range(int(DAY_S / 60)):
        square.pass_time(60)
        ada.refresh()
        bob.refresh()
    ada.grant, bob.grant = square.grant(signer, 0, quota_bytes=2000), square.grant(bob.signer, 1)
    ada.bind()
    bob.bind()
    assert bob.gets(ada.send(payload), payload)


def test_a_full_relay_says_so_and_serves_on() -> None:
    square = Square(RelaySettings(max_bindings=2))
    ada, bob = make_pair(square)
    late = Guest(square, signer := Ed25519Signer(b"3" * 32), square.grant(signer, 0, pair=b"q" * 16), udp(3))
    assert late.try_bind() == Refused(grant_id(late.grant), RefusedReason.FULL)
    assert bob.gets(ada.send())
    ada.bind()
    square.relay.withdraw(b"p" * 16, square.town.now)
    late.bind()


def test_proofs_are_checked_for_one_source_at_a_bounded_rate() -> None:
    square = Square(RelaySettings(bind_rate=1, bind_burst=2))
    thief = Guest(square, Ed25519Signer(b"t" * 32), square.grant(Ed25519Signer(b"1" * 32), 0), udp(9))
    reasons = [thief.try_bind() for _ in range(4)]
    assert [answer.reason for answer in reasons if isinstance(answer, Refused)] == [
        *[RefusedReason.SIGNATURE] * 2,
        *[RefusedReason.FULL] * 2,
    ]
    make_pair(square)


def test_a_flood_of_questions_is_answered_in_part_and_keeps_nobody_from_answering_a_challenge() -> None:
    square = Square(RelaySettings(question_rate=10))
    ada, bob = make_pair(square)
    late = Guest(square, signer := Ed25519Signer(b"3" * 32), square.grant(signer, 0, pair=b"q" * 16), udp(3))
    cookie = late.challenge()
    question = Bind(NO_COOKIE, NO_SIGNATURE, ada.grant)
    assert sum(square.ask(udp(number % 200), question) is not None for number in range(1000)) < 10
    assert isinstance(square.ask(late.source, late.signed(cookie)), Bound)
    assert bob.gets(ada.send())
    assert ada.refresh() == Refreshed((ada.channel,))
    square.town.now += 1
    ada.over(udp(4)).bind()


@pytest.mark.slow
def test_a_million_datagrams_of_strangers_leave_nothing_behind(square: Square) -> None:
    ada, bob = make_pair(square)
    kept = square.is_remembering()
    rng = random.Random(5)
    unproven = encode_relay_message(Bind(rng.randbytes(16), rng.randbytes(64), ada.grant))
    shapes = [
        wrap_relayed(rng.getrandbits(32), HELLO),
        encode_relay_message(Refresh((rng.getrandbits(32),))),
        unproven[:-1],
        rng.randbytes(40),
    ]
    # A million of the one that costs a stranger least, and enough of the others to fill any table.
    for number in range(250_000):
        source = Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1 + number % 65_535, Transport(3))
        for _ in range(4):
            square.relay.forward((source.ip, source.port, source.transport, 0), shapes[0], square.town.now)
        if number % 20 == 0:
            for shape in (unproven, *shapes):
                square.relay.handle_datagram(source, shape, square.town.now)
                list(drain(square.relay.poll_transmit))
    assert square.is_remembering() == kept
    assert bob.gets(ada.send())


# who may no longer


def test_a_revoked_key_is_out_at_once_and_its_grant_is_void(square: Square) -> None:
    ada, bob = make_pair(square)
    square.town.now += 1
    square.relay.revoke(ada.signer.public_key, square.town.now)
    assert ada.send() == []
    assert bob.send() == []
    assert ada.try_bind() == Refused(grant_id(ada.grant), RefusedReason.GRANT)
    assert bob.refresh() == Refreshed((bob.channel,))
    square.town.now += 1
    ada.grant = square.grant(ada.signer, 0)  # enrolled again with the same key
    ada.bind()
    assert bob.gets(ada.send())


def test_a_withdrawn_pair_is_out_until_it_is_introduced_anew(square: Square) -> None:
    ada, bob = make_pair(square)
    square.town.now += 1
    square.relay.withdraw(b"p" * 16, square.town.now)
    assert square.relay.bindings == 0
    for guest in (ada, bob):
        assert guest.try_bind() == Refused(grant_id(guest.grant), RefusedReason.GRANT)
    ada, bob = make_pair(square)
    assert bob.gets(ada.send())


def test_what_is_void_is_remembered_for_a_day_and_within_bounds() -> None:
    square = Square(RelaySettings(max_void=3))
    for number in range(5):
        square.relay.withdraw(bytes((number,)) * 16, square.town.now)
    assert len(square.relay._void) == 3
    square.pass_time(DAY_S + 20)
    assert len(square.relay._void) == 0
