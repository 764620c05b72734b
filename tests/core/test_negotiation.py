"""Attempts between a client and a server: what is sent again, what is begun anew, what a copy of a message can do."""

from __future__ import annotations

import random

import pytest

from fabric.core.entanglement import UNMET, Entangled
from fabric.core.gate import Freshness
from fabric.core.handshake import Party
from fabric.core.machine import Calendar, drain
from fabric.core.negotiation import HELLO_BURST, Agreed, NegotiationEvent, RecordDue
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.core.pair import Pair
from fabric.crypto.aead import Suite
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.address import Address
from fabric.wire.handshake import MessageKind, kind_of
from tests.core.town import UNIX, Town

CLIENT = Address("198.51.100.1", 1)
SERVER = Address("198.51.100.2", 2)
FORGED = Address("203.0.113.66", 666)


class Side:
    """One end, with what it is handed and what it sends, and what it holds of the root."""

    entangled = UNMET

    def hold(self, entangled: Entangled) -> None:
        self.entangled = entangled

    def __init__(self, town: Town, me: str, peer: str) -> None:
        identity = town.identity(me)
        party = Party(me, "home", identity.certificate.der, identity.signer, (Suite.CHACHA20_POLY1305,))
        source = random.Random(me)
        pair = Pair(
            lambda: party,
            peer,
            lambda der: identity.trust.check(der, name=peer, unix=UNIX, pinned_key=None),
            Calendar(UNIX),
            source.randbytes,
            lambda: source.getrandbits(32),
            self,
        )
        self.machine = ClientNegotiation(pair) if pair.is_client else ServerNegotiation(pair)
        self.freshness = Freshness()

    def take(self, source: Address, message: bytes, now: float) -> None:
        self.machine.handle_message_untrusted(source, message, self.freshness, now)

    def sent(self) -> list[tuple[Address, bytes]]:
        return [(outgoing.to, outgoing.message) for outgoing in drain(self.machine.poll_outgoing)]

    def events(self) -> list[NegotiationEvent]:
        return list(drain(self.machine.poll_event))


@pytest.fixture
def pair() -> tuple[Side, Side]:
    town = Town()
    return Side(town, "a.home", "b.home"), Side(town, "b.home", "a.home")


def hello(client: Side, now: float = 0.0) -> bytes:
    assert isinstance(client.machine, ClientNegotiation)
    client.machine.begin(SERVER, 0.01, now)
    ((to, message),) = client.sent()
    assert to == SERVER
    return message


def answer(client: Side, server: Side, now: float = 0.0) -> bytes:
    server.take(CLIENT, hello(client, now), now)
    ((to, message),) = server.sent()
    assert to == CLIENT
    return message


def finish(client: Side, server: Side) -> bytes:
    client.take(SERVER, answer(client, server), 0.0)
    ((to, message),) = client.sent()
    assert to == SERVER
    return message


def test_both_agree_on_keys_in_one_round_trip_and_a_half(pair: tuple[Side, Side]) -> None:
    client, server = pair
    server.take(CLIENT, finish(client, server), 0.0)
    (ours,), (theirs,) = client.events(), server.events()
    assert isinstance(ours, Agreed)
    assert isinstance(theirs, Agreed)
    assert ours.awaiting
    assert not theirs.awaiting
    assert ours.keys.seal_key == theirs.keys.open_key
    assert ours.keys.open_key == theirs.keys.seal_key
    assert client.entangled.roots == server.entangled.roots != ()


def test_an_unanswered_hello_is_followed_by_a_fresh_one_ever_more_slowly(pair: tuple[Side, Side]) -> None:
    client, _ = pair
    seen, waits, now = set(), [], 0.0
    for _ in range(6):
        seen.add(hello(client, now))
        due = client.machine.next_timeout()
        assert due is not None
        waits.append(due - now)
        now = due
        assert client.machine.handle_timeout(now)
    assert len(seen) == 6
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(0.5)
    assert waits[-1] == pytest.approx(2.0)


def test_finish_is_sent_again_until_the_first_record_opens(pair: tuple[Side, Side]) -> None:
    client, server = pair
    message = finish(client, server)
    due = client.machine.next_timeout()
    assert due is not None
    assert not client.machine.handle_timeout(due)
    assert client.sent() == [(SERVER, message)]
    (agreed,) = client.events()
    assert isinstance(agreed, Agreed)
    client.machine.confirm(agreed.keys.local_index, 0.0)
    assert client.machine.next_timeout() is None


def test_a_repeated_finish_is_told_apart_and_answered_for_a_while_only(pair: tuple[Side, Side]) -> None:
    client, server = pair
    message = finish(client, server)
    server.take(CLIENT, message, 0.0)
    (agreed,) = server.events()
    assert isinstance(agreed, Agreed)
    server.take(FORGED, message, 1.0)
    assert server.events() == [RecordDue(agreed.keys.local_index, CLIENT)]
    with pytest.raises(AuthenticationError):
        server.take(CLIENT, message, 60.0)


def test_a_copied_answer_diverts_nothing_and_proves_no_address(pair: tuple[Side, Side]) -> None:
    client, server = pair
    client.take(FORGED, answer(client, server), 0.0)
    ((to, _),) = client.sent()
    assert to == SERVER
    (agreed,) = client.events()
    assert isinstance(agreed, Agreed)
    assert (agreed.source, agreed.remote) == (FORGED, SERVER)


def test_a_copied_finish_proves_no_address(pair: tuple[Side, Side]) -> None:
    client, server = pair
    server.take(FORGED, finish(client, server), 0.0)
    (agreed,) = server.events()
    assert isinstance(agreed, Agreed)
    assert (agreed.source, agreed.remote) == (FORGED, CLIENT)


def test_a_replayed_hello_is_refused_and_uses_nothing_up(pair: tuple[Side, Side]) -> None:
    client, server = pair
    message = hello(client)
    server.take(CLIENT, message, 0.0)
    for _ in range(3 * HELLO_BURST):
        with pytest.raises(AuthenticationError):
            server.take(CLIENT, message, 0.0)
    server.sent()
    server.take(CLIENT, hello(client, 0.1), 0.1)
    assert len(server.sent()) == 1


def test_hellos_beyond_the_bucket_cost_no_answer(pair: tuple[Side, Side]) -> None:
    client, server = pair
    for _ in range(HELLO_BURST):
        server.take(CLIENT, hello(client), 0.0)
    assert len(server.sent()) == HELLO_BURST
    with pytest.raises(AuthenticationError):
        server.take(CLIENT, hello(client), 0.0)
    server.take(CLIENT, hello(client), 1.0)


def test_only_one_answer_is_taken_and_only_to_the_newest_hello(pair: tuple[Side, Side]) -> None:
    client, server = pair
    old = answer(client, server)
    new = answer(client, server, 0.2)
    with pytest.raises((AuthenticationError, DecodeError)):
        client.take(SERVER, old, 0.3)
    client.take(SERVER, new, 0.3)
    with pytest.raises((AuthenticationError, DecodeError)):
        client.take(SERVER, new, 0.3)


def test_each_role_takes_only_its_own_messages(pair: tuple[Side, Side]) -> None:
    client, server = pair
    first = hello(client)
    with pytest.raises(DecodeError):
        client.take(SERVER, first, 0.0)
    server.take(CLIENT, first, 0.0)
    ((_, second),) = server.sent()
    assert kind_of(second) is MessageKind.ANSWER
    with pytest.raises(DecodeError):
        server.take(CLIENT, second, 0.0)


def test_a_server_forgets_an_answer_that_nobody_finishes(pair: tuple[Side, Side]) -> None:
    client, server = pair
    message = finish(client, server)
    due = server.machine.next_timeout()
    assert due is not None
    server.machine.handle_timeout(due)
    with pytest.raises(AuthenticationError):
        server.take(CLIENT, message, due)
