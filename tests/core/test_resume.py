"""Tickets: one round trip after a restart, each good once; what does not fit concludes nothing."""

from __future__ import annotations

import random

import pytest

from fabric.core.handshake import NoCommonSuiteError, Party
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.negotiation_server import ServerNegotiation
from fabric.core.resume import ClientResume, Continued, answer_resume
from fabric.core.status import PeerState
from fabric.crypto.aead import Suite
from fabric.crypto.schedule import ticket_keys
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.handshake import MessageKind, kind_of
from tests.core.town import Town
from tests.core.village import Village

A, B = "a.home", "b.home"
ROOT, OTHER_ROOT = b"r" * 32, b"s" * 32
SUITES = (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)


def party(name: str, suites: tuple[Suite, ...] = SUITES) -> Party:
    identity = Town().identity(name)
    return Party(name, "home", identity.certificate.der, identity.signer, suites)


def client(root: bytes = ROOT, seed: int = 1) -> ClientResume:
    return ClientResume(party(A), B, root, 7, 1_800_000_000_000, random.Random(seed).randbytes)


def answered(message: bytes, root: bytes = ROOT, suites: tuple[Suite, ...] = SUITES) -> tuple[bytes, Continued]:
    return answer_resume(party(B, suites), A, message, root, 9, random.Random(2).randbytes)


def test_both_continue_the_root_to_the_same_keys() -> None:
    asking = client()
    answer, at_server = answered(asking.message)
    at_client = asking.handle_resumed(answer)
    assert at_client.following == at_server.following != ROOT
    assert at_client.keys.seal_key == at_server.keys.open_key
    assert at_client.keys.open_key == at_server.keys.seal_key
    assert (at_client.keys.local_index, at_client.keys.remote_index) == (7, 9)
    assert at_client.keys.suite is at_server.keys.suite is Suite.AES_256_GCM


def test_no_two_answers_have_the_same_keys() -> None:
    asking = client()
    _, one = answered(asking.message)
    _, other = answer_resume(party(B), A, asking.message, ROOT, 9, random.Random(3).randbytes)
    assert one.keys.seal_key != other.keys.seal_key
    assert one.following != other.following


def test_a_ticket_of_another_root_is_none() -> None:
    with pytest.raises(AuthenticationError, match="not known"):
        answered(client(OTHER_ROOT).message)


def test_who_knows_the_ticket_and_not_the_root_proves_nothing() -> None:
    message = client(OTHER_ROOT).message
    forged = message.replace(ticket_keys(OTHER_ROOT).ticket, ticket_keys(ROOT).ticket)
    with pytest.raises(AuthenticationError, match="MAC"):
        answered(forged)


@pytest.mark.parametrize("at", [1, 5, 40, 1_240, -1])
def test_a_changed_byte_of_either_message_is_refused(at: int) -> None:
    asking = client()
    answer, _ = answered(asking.message)
    with pytest.raises((AuthenticationError, DecodeError)):
        answered(changed(asking.message, at))
    with pytest.raises((AuthenticationError, DecodeError)):
        asking.handle_resumed(changed(answer, min(at, 1_000)))
    assert asking.handle_resumed(answer)


def changed(message: bytes, at: int) -> bytes:
    edited = bytearray(message)
    edited[at] ^= 1
    return bytes(edited)


def test_one_answer_is_taken() -> None:
    asking = client()
    answer, _ = answered(asking.message)
    asking.handle_resumed(answer)
    with pytest.raises(DecodeError, match="taken"):
        asking.handle_resumed(answer)


def test_an_answer_to_another_attempt_is_refused() -> None:
    answer, _ = answered(client(seed=3).message)
    with pytest.raises(AuthenticationError):
        client().handle_resumed(answer)


def test_who_shares_no_cipher_does_not_meet() -> None:
    message = ClientResume(party(A, (Suite.AES_256_GCM,)), B, ROOT, 7, 1, random.Random(1).randbytes).message
    with pytest.raises(NoCommonSuiteError):
        answered(message, suites=(Suite.CHACHA20_POLY1305,))


# in whole nodes


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[Village, list[MessageKind]]:
    """Two that have met, and the kinds of all messages that are exchanged from now on."""
    village = Village(A, B)
    kinds: list[MessageKind] = []
    village.meet(A, B)
    village.run(1.0)
    note_messages(monkeypatch, ClientNegotiation, kinds)
    note_messages(monkeypatch, ServerNegotiation, kinds)
    return village, kinds


def note_messages(
    monkeypatch: pytest.MonkeyPatch,
    negotiation: type[ClientNegotiation] | type[ServerNegotiation],
    kinds: list[MessageKind],
) -> None:
    taken = negotiation.handle_message_untrusted

    def note(machine: object, source: object, message: bytes, freshness: object, now: float) -> None:
        kinds.append(kind_of(message))
        taken(machine, source, message, freshness, now)  # type: ignore[arg-type]

    monkeypatch.setattr(negotiation, "handle_message_untrusted", note)


def roots(village: Village, of: str, peer: str) -> tuple[bytes, ...]:
    return village.houses[of].records[peer].entangled.roots


def test_a_restart_of_the_client_takes_one_round_trip_and_no_service(pair: tuple[Village, list[MessageKind]]) -> None:
    village, kinds = pair
    village.is_service_up = False
    before = roots(village, A, B)
    village.build(A, village.houses[A].records)
    assert village.run_until(lambda: village.are_connected(A, B) and roots(village, A, B) != before)
    village.run(2.0)
    assert kinds == [MessageKind.RESUME, MessageKind.RESUMED]
    assert roots(village, A, B) == roots(village, B, A)
    assert len(roots(village, A, B)) == 1


def test_each_ticket_is_another(pair: tuple[Village, list[MessageKind]]) -> None:
    village, _ = pair
    seen = set()
    for _ in range(3):
        seen.add(ticket_keys(roots(village, A, B)[0]).ticket)
        before = roots(village, A, B)
        village.build(A, village.houses[A].records)
        assert village.run_until(lambda was=before: village.are_connected(A, B) and roots(village, A, B) != was)  # type: ignore[misc]
        village.run(1.0)
    assert len(seen) == 3


def test_a_rekey_is_a_full_handshake(pair: tuple[Village, list[MessageKind]]) -> None:
    village, kinds = pair
    village.send_frame(A, B)
    village.run(150.0)
    assert kinds == [MessageKind.HELLO, MessageKind.ANSWER, MessageKind.FINISH]


def test_a_ticket_that_is_not_known_is_followed_by_a_full_handshake(pair: tuple[Village, list[MessageKind]]) -> None:
    village, kinds = pair
    house = village.houses[B]
    house.node.reset_trust(A, key=False, now=village.now)
    village.settle(house)
    assert village.run_until(lambda: village.houses[A].status(B, village.now).state is PeerState.QUARANTINED)
    village.run(1.0)
    assert kinds[0] is MessageKind.RESUME
    assert MessageKind.FINISH in kinds


def test_the_first_record_may_be_lost(pair: tuple[Village, list[MessageKind]]) -> None:
    village, _ = pair
    before = roots(village, A, B)
    village.build(A, village.houses[A].records)
    assert village.run_until(lambda: len(roots(village, A, B)) == 2)
    village.drop = lambda source, _: source == A
    village.run(0.1)
    village.drop = lambda _source, _target: False
    assert village.run_until(lambda: roots(village, B, A) != before)
    village.run(2.0)
    assert village.are_connected(A, B)
    assert roots(village, A, B) == roots(village, B, A)
    assert village.houses[A].records[B].entangled.alarm is None


@pytest.mark.parametrize("lost_s", [0.05, 0.5, 3.0, 30.0])
@pytest.mark.parametrize("who", [A, B])
def test_whatever_is_lost_they_meet_again_and_nobody_is_alarmed(
    pair: tuple[Village, list[MessageKind]], who: str, lost_s: float
) -> None:
    village, _ = pair
    village.build(A, village.houses[A].records)
    village.run_until(lambda: len(roots(village, A, B)) == 2, 5.0)
    village.drop = lambda source, _: source == who
    village.run(lost_s)
    village.drop = lambda _source, _target: False
    assert village.run_until(lambda: village.are_connected(A, B), 90.0)
    village.run(5.0)
    assert roots(village, A, B) == roots(village, B, A)
    assert village.houses[A].records[B].entangled.alarm is None
    assert village.houses[B].records[A].entangled.alarm is None
