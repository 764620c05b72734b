"""The handshake: two ends that agree, a hostile network between them, and everything that must not be believed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from random import Random
from typing import Any

import pytest

from fabric.core import handshake as module
from fabric.core.gate import Freshness, check, gate_key, wrap
from fabric.core.handshake import (
    CheckPeer,
    ClientHandshake,
    Established,
    NoCommonSuiteError,
    Party,
    ServerHandshake,
)
from fabric.core.pieces import Reassembly, message_digest, split
from fabric.crypto.aead import Suite
from fabric.crypto.digest import join
from fabric.crypto.exchange import encapsulate
from fabric.crypto.schedule import FIRST_ROOT, next_root, root_keys
from fabric.crypto.signature import Ed25519Signer
from fabric.errors import AuthenticationError, CertificateError, DecodeError
from fabric.identity.authority import Authority
from fabric.identity.certificate import Certificate
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.request import Request
from fabric.identity.trust import Trust
from fabric.wire.datagram import MAX_GATED_BYTES, decode_gated
from fabric.wire.handshake import (
    Extension,
    MessageKind,
    ProofKind,
    decode_hello,
    decode_piece,
    encode_answer,
    encode_credentials,
    encode_hello,
    kind_of,
)

NOW_UNIX = 1_800_000_000.0
NOW_MS = int(NOW_UNIX * 1000)
DAY_S = 86_400.0
FIRST = root_keys(FIRST_ROOT)
AES, CHACHA = Suite.AES_256_GCM, Suite.CHACHA20_POLY1305
BOTH = (AES, CHACHA)
DROPPED = (DecodeError, AuthenticationError)

LOW_ORDER_POINTS = [
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
]
"""All points of small order and their other encodings (https://cr.yp.to/ecdh.html#validate)."""


class Draws:
    """Seeded randomness that never repeats within a test."""

    def __init__(self, seed: int = 1) -> None:
        self._random = Random(seed)

    def __call__(self, count: int, /) -> bytes:
        return self._random.randbytes(count)


@functools.cache
def authority(seed: int = 1) -> Authority:
    key = Random(seed).randbytes(32)
    start = NOW_UNIX - 30 * DAY_S
    return Authority.create("home", seed=key, serial=seed, not_before=start, not_after=NOW_UNIX + 900 * DAY_S)


@functools.cache
def signer_of(name: str, key: int = 0) -> Ed25519Signer:
    return Ed25519Signer(Random(f"{name} {key}").randbytes(32))


@functools.cache
def certificate_of(
    name: str, issuer: int = 1, begins_s: float = -DAY_S, ends_s: float = DAY_S, serial: int = 100, key: int = 0
) -> bytes:
    return authority(issuer).issue_endpoint(
        Request(name, signer_of(name, key).public_key),
        name,
        addresses=[IPv4Address("100.64.0.7")],
        tags=["lab"],
        serial=serial,
        not_before=NOW_UNIX + begins_s,
        not_after=NOW_UNIX + ends_s,
    )


def party(name: str, suites: tuple[Suite, ...] = BOTH, certificate: bytes | None = None) -> Party:
    der = certificate_of(name) if certificate is None else certificate
    return Party(name, "home", der, signer_of(name), suites)


def checking(name: str, trust: Trust | None = None, pinned: bytes | None = None) -> CheckPeer:
    judge = trust or Trust(authority().root_der, "home", None)
    return lambda der: judge.check(der, name=name, unix=NOW_UNIX, pinned_key=pinned)


ALPHA, BETA = "alpha.home", "beta.home"


@dataclass
class Pair:
    """Both ends of an attempt, alpha being the client; override what a test is about."""

    alpha: Party = field(default_factory=lambda: party(ALPHA))
    beta: Party = field(default_factory=lambda: party(BETA))
    alpha_checks: CheckPeer = field(default_factory=lambda: checking(BETA))
    beta_checks: CheckPeer = field(default_factory=lambda: checking(ALPHA))
    seed: int = 1
    encapsulates: Callable[[bytes], tuple[bytes, bytes]] = encapsulate

    def __post_init__(self) -> None:
        draw = Draws(self.seed)
        self.client = ClientHandshake(self.alpha, BETA, self.alpha_checks, 0xA1, NOW_MS, draw)
        self.server = ServerHandshake(self.beta, ALPHA, self.beta_checks, 0xB2, draw, encapsulate=self.encapsulates)

    def answer(self) -> bytes:
        return self.server.handle_hello(self.client.hello)

    def finish(self) -> Established:
        self.client.handle_answer(self.answer())
        return self.client.finish(FIRST)

    def complete(self) -> tuple[Established, Established]:
        at_client = self.finish()
        self.server.handle_finish(at_client.finish_message)
        return at_client, self.server.establish(FIRST)


def agree(at_client: Established, at_server: Established) -> bool:
    client, server = at_client.keys, at_server.keys
    return (
        client.seal_key == server.open_key
        and client.open_key == server.seal_key
        and client.seal_key != client.open_key
        and at_client.exporter == at_server.exporter
        and (client.local_index, client.remote_index) == (server.remote_index, server.local_index)
        and client.suite is server.suite
    )


def state_of(machine: ClientHandshake | ServerHandshake) -> list[object]:
    return [getattr(machine, slot) for slot in machine.__slots__]


def flipped(message: bytes) -> Iterator[bytes]:
    """Every position once, a different bit each."""
    for at in range(len(message)):
        yield message[:at] + bytes((message[at] ^ (1 << at % 8),)) + message[at + 1 :]


# the two ends


def test_two_ends_agree_on_everything() -> None:
    pair = Pair()
    opened = pair.client.handle_answer(pair.answer())
    assert (opened.certificate.name, opened.remote_index, opened.suite) == (BETA, 0xB2, AES)
    assert opened.proof.kind is ProofKind.NONE
    at_client = pair.client.finish(FIRST)
    shown = pair.server.handle_finish(at_client.finish_message)
    assert (shown.certificate.name, shown.proof.kind) == (ALPHA, ProofKind.FIRST)
    at_server = pair.server.establish(FIRST)
    assert agree(at_client, at_server)
    assert (at_client.keys.peer, at_server.keys.peer) == (BETA, ALPHA)
    assert at_client.certificate.name == BETA
    assert at_server.certificate.name == ALPHA


def test_no_two_handshakes_share_a_key() -> None:
    keys = set()
    for seed in range(5):
        at_client, _ = Pair(seed=seed).complete()
        keys |= {at_client.keys.seal_key, at_client.keys.open_key, at_client.exporter}
    assert len(keys) == 15


def test_keys_differ_though_all_draws_are_repeated() -> None:
    one, two = Pair(seed=1).complete()[0], Pair(seed=1).complete()[0]
    assert one.keys.seal_key != two.keys.seal_key


@pytest.mark.parametrize(
    ("client", "server", "chosen"),
    [
        (BOTH, BOTH, AES),
        (BOTH, (CHACHA,), CHACHA),
        ((CHACHA,), BOTH, CHACHA),
        ((CHACHA,), (CHACHA,), CHACHA),
        ((AES,), BOTH, AES),
        ((CHACHA, AES), BOTH, CHACHA),
    ],
)
def test_aes_is_chosen_only_where_both_offer_it(
    client: tuple[Suite, ...], server: tuple[Suite, ...], chosen: Suite
) -> None:
    at_client, at_server = Pair(alpha=party(ALPHA, client), beta=party(BETA, server)).complete()
    assert at_client.keys.suite is chosen
    assert agree(at_client, at_server)


def test_nothing_in_common_is_said_by_its_own_error() -> None:
    pair = Pair(alpha=party(ALPHA, (AES,)), beta=party(BETA, (CHACHA,)))
    before = state_of(pair.server)
    with pytest.raises(NoCommonSuiteError):
        pair.answer()
    assert state_of(pair.server) == before


def test_the_lower_name_is_the_client() -> None:
    with pytest.raises(ValueError, match="not the client"):
        ClientHandshake(party(BETA), ALPHA, checking(ALPHA), 1, NOW_MS, Draws())
    with pytest.raises(ValueError, match="not the server"):
        ServerHandshake(party(ALPHA), BETA, checking(BETA), 1, Draws())
    with pytest.raises(ValueError, match="not the client"):
        ClientHandshake(party(ALPHA), ALPHA, checking(ALPHA), 1, NOW_MS, Draws())


def test_messages_fit_the_pieces_that_networks_carry() -> None:
    pair = Pair()
    answer = pair.answer()
    pair.client.handle_answer(answer)
    finish = pair.client.finish(FIRST).finish_message
    counts = [len(split(message, NOW_MS)) for message in (pair.client.hello, answer, finish)]
    assert counts == [2, 2, 1]
    datagrams = [wrap(1, bytes(32), body) for body in split(answer, NOW_MS)]
    assert max(map(len, datagrams)) <= MAX_GATED_BYTES


def test_a_later_version_may_append_what_this_one_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    later = (Extension(0xBEEF, b"of a later version"),)
    monkeypatch.setattr(module, "encode_hello", lambda hello: encode_hello(replace(hello, extensions=later)))
    monkeypatch.setattr(module, "encode_answer", lambda answer: encode_answer(replace(answer, extensions=later)))
    monkeypatch.setattr(module, "encode_credentials", lambda seal: encode_credentials(replace(seal, extensions=later)))
    assert agree(*Pair().complete())


def test_suites_of_a_later_version_are_passed_over() -> None:
    future: Any = (77, AES, CHACHA)
    at_client, _ = Pair(alpha=party(ALPHA, future)).complete()
    assert at_client.keys.suite is AES


# a network that changes what it carries


def test_no_hello_changed_on_its_way_leads_to_a_session() -> None:
    pair = Pair()
    before = state_of(pair.client)
    for damaged in flipped(pair.client.hello):
        try:
            answer = pair.server.handle_hello(damaged)
        except DROPPED:
            continue
        with pytest.raises(DROPPED):
            pair.client.handle_answer(answer)
    assert state_of(pair.client) == before
    assert agree(*pair.complete())


def test_no_answer_changed_on_its_way_is_taken_and_the_genuine_one_still_is() -> None:
    pair = Pair()
    answer = pair.answer()
    before = state_of(pair.client)
    for damaged in flipped(answer):
        with pytest.raises(DROPPED):
            pair.client.handle_answer(damaged)
        assert state_of(pair.client) == before
    pair.client.handle_answer(answer)
    at_client = pair.client.finish(FIRST)
    pair.server.handle_finish(at_client.finish_message)
    assert agree(at_client, pair.server.establish(FIRST))


def test_no_finish_changed_on_its_way_is_taken_and_the_genuine_one_still_is() -> None:
    pair = Pair()
    at_client = pair.finish()
    before = state_of(pair.server)
    for damaged in flipped(at_client.finish_message):
        with pytest.raises(DROPPED):
            pair.server.handle_finish(damaged)
        assert state_of(pair.server) == before
    pair.server.handle_finish(at_client.finish_message)
    assert agree(at_client, pair.server.establish(FIRST))


def test_no_shortened_or_lengthened_message_is_taken() -> None:
    pair = Pair()
    answer = pair.answer()
    for length in range(len(answer)):
        with pytest.raises(DROPPED):
            pair.client.handle_answer(answer[:length])
    for tail in (b"\0", bytes(1000), bytes(100_000)):
        with pytest.raises(DROPPED):
            pair.client.handle_answer(answer + tail)
    pair.client.handle_answer(answer)
    finish = pair.client.finish(FIRST).finish_message
    for damaged in [*(finish[:length] for length in range(len(finish))), finish + b"\0", finish + bytes(100_000)]:
        with pytest.raises(DROPPED):
            pair.server.handle_finish(damaged)
    pair.server.handle_finish(finish)


def test_a_cipher_list_made_shorter_on_its_way_is_noticed() -> None:
    pair = Pair()
    hello = replace(decode_hello(pair.client.hello), suites=(CHACHA,))
    answer = pair.server.handle_hello(encode_hello(hello))
    with pytest.raises(AuthenticationError):
        pair.client.handle_answer(answer)


def test_a_cipher_that_was_not_offered_is_refused() -> None:
    pair = Pair(alpha=party(ALPHA, (CHACHA,)))
    hello = replace(decode_hello(pair.client.hello), suites=BOTH)
    with pytest.raises(DecodeError, match="not offered"):
        pair.client.handle_answer(pair.server.handle_hello(encode_hello(hello)))


def test_unknown_bytes_added_to_a_hello_on_its_way_are_noticed() -> None:
    pair = Pair()
    answer = pair.server.handle_hello(pair.client.hello + b"\0\1\0\0")
    with pytest.raises(AuthenticationError):
        pair.client.handle_answer(answer)


def test_what_is_sent_back_to_its_sender_is_refused() -> None:
    pair = Pair()
    answer = pair.answer()
    with pytest.raises(DecodeError):
        pair.client.handle_answer(pair.client.hello)
    for reflected in (answer, pair.client.hello):
        with pytest.raises(DecodeError):
            pair.server.handle_finish(reflected)
    with pytest.raises(DecodeError):
        pair.server.handle_hello(answer)
    pair.client.handle_answer(answer)
    finish = pair.client.finish(FIRST).finish_message
    with pytest.raises(DecodeError):
        pair.client.handle_answer(finish)


def test_a_recorded_answer_does_not_fit_another_attempt() -> None:
    recorded = Pair(seed=1).answer()
    now = Pair(seed=2)
    with pytest.raises(AuthenticationError):
        now.client.handle_answer(recorded)
    other_index = ClientHandshake(now.alpha, BETA, now.alpha_checks, 0xA3, NOW_MS, Draws())
    with pytest.raises(DecodeError, match="another attempt"):
        other_index.handle_answer(recorded)
    assert agree(*now.complete())


def test_a_recorded_finish_does_not_fit_another_attempt() -> None:
    recorded = Pair(seed=1).finish().finish_message
    now = Pair(seed=2)
    at_client = now.finish()
    with pytest.raises(AuthenticationError):
        now.server.handle_finish(recorded)
    now.server.handle_finish(at_client.finish_message)
    assert agree(at_client, now.server.establish(FIRST))


def test_a_finish_to_an_answer_that_was_replaced_is_refused() -> None:
    pair = Pair()
    earlier = pair.finish()
    again = ClientHandshake(pair.alpha, BETA, pair.alpha_checks, 0xA4, NOW_MS, Draws(9))
    again.handle_answer(pair.server.handle_hello(again.hello))
    with pytest.raises(AuthenticationError):
        pair.server.handle_finish(earlier.finish_message)
    at_client = again.finish(FIRST)
    pair.server.handle_finish(at_client.finish_message)
    assert agree(at_client, pair.server.establish(FIRST))


def test_each_answer_to_one_hello_is_fresh_and_the_newest_counts() -> None:
    pair = Pair()
    one, two = pair.answer(), pair.answer()
    assert one[10:42] != two[10:42]
    assert one[1130:1162] != two[1130:1162]
    pair.client.handle_answer(one)
    with pytest.raises(AuthenticationError):
        pair.server.handle_finish(pair.client.finish(FIRST).finish_message)


def test_a_second_answer_is_not_taken() -> None:
    pair = Pair()
    one, two = pair.answer(), pair.answer()
    pair.client.handle_answer(one)
    for late in (one, two):
        with pytest.raises(DecodeError, match="taken already"):
            pair.client.handle_answer(late)


def test_a_finish_is_taken_once_and_known_when_it_comes_again() -> None:
    pair = Pair()
    finish = pair.finish().finish_message
    assert pair.server.finish_digest is None
    pair.server.handle_finish(finish)
    with pytest.raises(DecodeError):
        pair.server.handle_finish(finish)
    with pytest.raises(DecodeError):
        pair.server.handle_hello(pair.client.hello)
    assert pair.server.finish_digest == message_digest(finish)
    assert [decode_piece(body).digest for body in split(finish, NOW_MS + 5)] == [message_digest(finish)]


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=lambda point: point.hex()[:8])
def test_points_of_low_order_are_refused(point: bytes) -> None:
    pair = Pair()
    before = state_of(pair.server)
    with pytest.raises(AuthenticationError):
        pair.server.handle_hello(encode_hello(replace(decode_hello(pair.client.hello), exchange_key=point)))
    assert state_of(pair.server) == before
    answer = pair.answer()
    with pytest.raises(AuthenticationError):
        pair.client.handle_answer(answer[:10] + point + answer[42:])
    pair.client.handle_answer(answer)


def test_bytes_that_are_no_kem_key_are_refused() -> None:
    pair = Pair()
    with pytest.raises(DecodeError):
        pair.server.handle_hello(encode_hello(replace(decode_hello(pair.client.hello), kem_key=b"\xff" * 1184)))


def test_without_the_kem_secret_no_answer_opens() -> None:
    def with_another_secret(public: bytes) -> tuple[bytes, bytes]:
        return encapsulate(public)[0], bytes(32)

    with pytest.raises(AuthenticationError):
        Pair(encapsulates=with_another_secret).finish()


# ends that are not who they should be


def refused_because(answer: Callable[[], object]) -> Fault:
    with pytest.raises(CertificateFaultError) as caught:
        answer()
    return caught.value.reason


def revoking(serial: int) -> Trust:
    crl = authority().issue_crl({serial: NOW_UNIX - 5}, 1, NOW_UNIX - 5, NOW_UNIX + DAY_S)
    return Trust(authority().root_der, "home", crl)


CERTIFICATES: list[tuple[str, Callable[[str], bytes], Fault]] = [
    ("expired", lambda name: certificate_of(name, ends_s=-1.0), Fault.EXPIRED),
    ("not valid yet", lambda name: certificate_of(name, begins_s=60.0), Fault.NOT_YET_VALID),
    ("foreign", lambda name: certificate_of(name, issuer=2), Fault.FOREIGN),
    ("revoked", lambda name: certificate_of(name, serial=666), Fault.REVOKED),
    ("of another name", lambda _: certificate_of("gamma.home"), Fault.WRONG_NAME),
    ("of the peer itself", lambda name: certificate_of(ALPHA if name == BETA else BETA), Fault.WRONG_NAME),
    ("no certificate", lambda _: b"\x30\x03\x02\x01\x05", Fault.MALFORMED),
]


@pytest.mark.parametrize(("made", "fault"), [pytest.param(m, f, id=i) for i, m, f in CERTIFICATES])
def test_a_server_with_a_bad_certificate_is_refused(made: Callable[[str], bytes], fault: Fault) -> None:
    pair = Pair(beta=party(BETA, certificate=made(BETA)), alpha_checks=checking(BETA, revoking(666)))
    before = state_of(pair.client)
    answer = pair.answer()
    assert refused_because(lambda: pair.client.handle_answer(answer)) is fault
    assert state_of(pair.client) == before
    genuine = ServerHandshake(party(BETA), ALPHA, checking(ALPHA), 0xB3, Draws(5))
    pair.client.handle_answer(genuine.handle_hello(pair.client.hello))


@pytest.mark.parametrize(("made", "fault"), [pytest.param(m, f, id=i) for i, m, f in CERTIFICATES])
def test_a_client_with_a_bad_certificate_is_refused(made: Callable[[str], bytes], fault: Fault) -> None:
    pair = Pair(alpha=party(ALPHA, certificate=made(ALPHA)), beta_checks=checking(ALPHA, revoking(666)))
    finish = pair.finish().finish_message
    before = state_of(pair.server)
    assert refused_because(lambda: pair.server.handle_finish(finish)) is fault
    assert state_of(pair.server) == before
    with pytest.raises(ValueError, match="no FINISH"):
        pair.server.establish(FIRST)


def test_a_peer_that_shows_another_key_than_the_known_one_is_refused() -> None:
    pair = Pair(alpha_checks=checking(BETA, pinned=bytes(32)))
    answer = pair.answer()
    assert refused_because(lambda: pair.client.handle_answer(answer)) is Fault.WRONG_KEY


def test_a_certificate_without_its_key_proves_nothing() -> None:
    thief = replace(party(BETA), signer=signer_of("gamma.home"))
    pair = Pair(beta=thief)
    answer = pair.answer()
    before = state_of(pair.client)
    with pytest.raises(AuthenticationError, match="signature"):
        pair.client.handle_answer(answer)
    assert state_of(pair.client) == before

    pair = Pair(alpha=replace(party(ALPHA), signer=signer_of("gamma.home")))
    finish = pair.finish().finish_message
    with pytest.raises(AuthenticationError, match="signature"):
        pair.server.handle_finish(finish)


class WrongSigner:
    """Signs with the right key, but something else."""

    def __init__(
        self, name: str, change: Callable[[bytes, tuple[bytes, ...]], tuple[bytes, tuple[bytes, ...]]]
    ) -> None:
        self._inner = signer_of(name)
        self._change = change

    @property
    def public_key(self) -> bytes:
        return self._inner.public_key

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        label, fields = self._change(label, fields)
        return self._inner.sign(label, *fields)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _, fields: (b"fabric/1 handshake client", fields), id="the other role"),
        pytest.param(lambda _, fields: (b"fabric/1 intent", fields), id="another use"),
        pytest.param(lambda label, fields: (label, (bytes(32), fields[1])), id="another transcript"),
        pytest.param(lambda label, fields: (label, (fields[0], bytes(32))), id="another certificate"),
        pytest.param(lambda label, fields: (label, (fields[0],)), id="no certificate"),
        pytest.param(lambda label, fields: (label, (b"".join(fields),)), id="fields run together"),
    ],
)
def test_a_signature_over_anything_else_is_refused(change: Any) -> None:
    pair = Pair(beta=replace(party(BETA), signer=WrongSigner(BETA, change)))
    answer = pair.answer()
    with pytest.raises(AuthenticationError, match="signature"):
        pair.client.handle_answer(answer)


def test_an_old_certificate_of_the_same_key_needs_its_own_signature() -> None:
    """Certificate and signature belong together: neither can be swapped for another of the same identity."""
    renewed = certificate_of(BETA, serial=200)

    def over_the_old(label: bytes, fields: tuple[bytes, ...]) -> tuple[bytes, tuple[bytes, ...]]:
        return label, (fields[0], module._hash(certificate_of(BETA)))

    pair = Pair(beta=replace(party(BETA, certificate=renewed), signer=WrongSigner(BETA, over_the_old)))
    answer = pair.answer()
    with pytest.raises(AuthenticationError, match="signature"):
        pair.client.handle_answer(answer)


def test_names_that_differ_in_the_transcript_never_meet() -> None:
    """An insider relays alpha's HELLO to beta under its own name: beta's ANSWER is of no use to alpha."""
    client = ClientHandshake(party(ALPHA), BETA, checking(BETA), 1, NOW_MS, Draws())
    server = ServerHandshake(party(BETA), "adam.home", checking("adam.home"), 2, Draws(2))
    answer = server.handle_hello(client.hello)
    with pytest.raises(AuthenticationError):
        client.handle_answer(answer)


def test_another_network_of_the_same_names_never_meets() -> None:
    pair = Pair(beta=replace(party(BETA), network="work"))
    answer = pair.answer()
    with pytest.raises(AuthenticationError):
        pair.client.handle_answer(answer)


def test_the_certificate_is_not_looked_at_before_the_seal_holds_nor_the_signature_before_the_certificate() -> None:
    asked = []

    def refusing(der: bytes) -> Certificate:
        asked.append(der)
        raise CertificateError("refused")

    pair = Pair(alpha_checks=refusing, beta=replace(party(BETA), signer=signer_of("gamma.home")))
    answer = pair.answer()
    with pytest.raises(AuthenticationError):
        pair.client.handle_answer(answer[:-1] + bytes((answer[-1] ^ 1,)))
    assert asked == []
    with pytest.raises(CertificateError, match="refused"):
        pair.client.handle_answer(answer)
    assert asked == [certificate_of(BETA)]


# the root secret's place


ROOT, OTHER_ROOT = root_keys(b"r" * 32), root_keys(b"o" * 32)


def test_two_ends_that_hold_one_root_prove_it_and_move_it_on() -> None:
    pair = Pair()
    opened = pair.client.handle_answer(pair.server.handle_hello(pair.client.hello, ROOT, ProofKind.PROOF))
    assert opened.proof.kind is ProofKind.PROOF
    assert pair.client.proof_matches(ROOT)
    assert not pair.client.proof_matches(OTHER_ROOT)
    at_client = pair.client.finish(ROOT, ProofKind.PROOF)
    assert pair.server.handle_finish(at_client.finish_message).proof.kind is ProofKind.PROOF
    assert pair.server.proof_matches(ROOT)
    assert not pair.server.proof_matches(OTHER_ROOT)
    at_server = pair.server.establish(ROOT)
    assert agree(at_client, at_server)
    assert next_root(ROOT, at_client.exporter) == next_root(ROOT, at_server.exporter)


def test_the_root_is_mixed_into_the_traffic_keys() -> None:
    pair = Pair()
    at_client = pair.finish()
    pair.server.handle_finish(at_client.finish_message)
    assert not agree(at_client, pair.server.establish(ROOT))


def test_a_root_that_does_not_match_is_told_and_makes_no_session() -> None:
    pair = Pair()
    pair.client.handle_answer(pair.server.handle_hello(pair.client.hello, OTHER_ROOT, ProofKind.PROOF))
    with pytest.raises(AuthenticationError, match="does not fit"):
        pair.client.finish(ROOT, ProofKind.PROOF)
    finish = pair.client.refuse(ProofKind.MISMATCH)
    assert pair.server.handle_finish(finish).proof.kind is ProofKind.MISMATCH
    with pytest.raises(AuthenticationError, match="MISMATCH"):
        pair.server.establish(OTHER_ROOT)


@pytest.mark.parametrize("said", [ProofKind.PROOF, ProofKind.ALARM])
def test_a_first_meeting_is_not_what_a_server_with_a_root_or_an_alarm_has(said: ProofKind) -> None:
    pair = Pair()
    pair.client.handle_answer(pair.server.handle_hello(pair.client.hello, ROOT, said))
    with pytest.raises(AuthenticationError, match="does not fit"):
        pair.client.finish(FIRST)
    assert pair.server.handle_finish(pair.client.refuse(ProofKind.ALARM)).proof.kind is ProofKind.ALARM


def test_a_server_that_proved_a_root_takes_no_first_meeting(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.client.handle_answer(pair.server.handle_hello(pair.client.hello, ROOT, ProofKind.PROOF))
    with monkeypatch.context() as lawless:
        lawless.setattr(module, "_FINISH_THAT_FITS", {ProofKind.PROOF: ProofKind.FIRST})
        at_client = pair.client.finish(FIRST)
    assert pair.server.handle_finish(at_client.finish_message).proof.kind is ProofKind.FIRST
    with pytest.raises(AuthenticationError, match="FIRST"):
        pair.server.establish(FIRST)


def test_a_client_whose_proof_is_by_another_root_makes_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    pair.client.handle_answer(pair.server.handle_hello(pair.client.hello, ROOT, ProofKind.PROOF))
    with monkeypatch.context() as lawless:
        lawless.setattr(ClientHandshake, "proof_matches", lambda *_: True)
        at_client = pair.client.finish(OTHER_ROOT, ProofKind.PROOF)
    pair.server.handle_finish(at_client.finish_message)
    with pytest.raises(AuthenticationError, match="does not hold"):
        pair.server.establish(ROOT)


def test_an_answer_can_be_refused_once_and_then_not_finished() -> None:
    pair = Pair()
    with pytest.raises(ValueError, match="no ANSWER"):
        pair.client.finish(FIRST)
    pair.client.handle_answer(pair.answer())
    with pytest.raises(ValueError, match="refuses nothing"):
        pair.client.refuse(ProofKind.FIRST)
    pair.client.refuse(ProofKind.ALARM)
    with pytest.raises(ValueError, match="answered already"):
        pair.client.finish(FIRST)


# secrets


def test_secrets_are_dropped_after_their_use() -> None:
    pair = Pair()
    at_client = pair.finish()
    pair.server.handle_finish(at_client.finish_message)
    pair.server.establish(FIRST)
    assert pair.client._ephemeral is None
    assert pair.client._opened is None
    assert pair.server._answered is None
    assert pair.server._opened is None
    with pytest.raises(ValueError, match="used already"):
        pair.server.establish(FIRST)


def test_no_secret_shows_in_a_repr() -> None:
    pair = Pair()
    answer = pair.answer()
    shown = [repr(pair.client), repr(pair.server), repr(pair.client._ephemeral), repr(pair.server._answered)]
    opened = pair.client.handle_answer(answer)
    assert pair.client._opened is not None
    secrets = pair.client._opened.secrets
    shown += [repr(opened), repr(pair.client._opened), repr(pair.alpha)]
    at_client = pair.client.finish(FIRST)
    shown.append(repr(at_client))
    hidden = [
        at_client.keys.seal_key,
        at_client.keys.open_key,
        at_client.exporter,
        secrets.kem_secret,
        secrets.base.client_to_server,
        secrets.keys.client_to_server,
    ]
    text = "\n".join(shown)
    for secret in hidden:
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text


# a network that loses, repeats and reorders


class Gateway:
    """One endpoint's gate towards the other, with what passes it put together."""

    def __init__(self, name: str, peer: str, share: bytes, peer_share: bytes) -> None:
        self._opens = gate_key(share, "home", peer, name)
        self._wraps = gate_key(peer_share, "home", name, peer)
        self._reassembly = Reassembly()

    def datagrams(self, message: bytes, unix_ms: int) -> list[bytes]:
        return [wrap(1, self._wraps, body) for body in split(message, unix_ms)]

    def messages(self, datagrams: list[bytes], now: float) -> Iterator[bytes]:
        for gated in map(decode_gated, datagrams):
            assert check(gated, self._opens)
            message = self._reassembly.add(decode_piece(gated.body), now)
            if message is not None:
                yield message


class Hostile:
    """Loses a third of the datagrams, repeats and reorders the rest, and sends recorded ones again at will."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._recorded: list[bytes] = []

    def carry(self, datagrams: list[bytes]) -> list[bytes]:
        arriving = [datagram for datagram in datagrams if self._random.random() > 0.33]
        arriving += self._random.choices(arriving, k=2) if arriving else []
        arriving += self._random.choices(self._recorded, k=3) if self._recorded else []
        self._recorded += datagrams
        self._random.shuffle(arriving)
        return arriving


class Responder:
    """Beta: answers every fresh HELLO, and ends at the first FINISH that it takes."""

    def __init__(self, draw: Draws) -> None:
        self._draw = draw
        self._freshness = Freshness()
        self._indices = iter(range(1000, 10_000))
        self._pending: ServerHandshake | None = None
        self.established: Established | None = None

    def reply(self, message: bytes, unix_ms: int) -> list[bytes]:
        """Raises what the handshake raises."""
        if kind_of(message) is MessageKind.HELLO:
            hello = decode_hello(message)
            if self.established or not self._freshness.accept(hello.unix_ms, hello.challenge, unix_ms / 1000):
                return []
            fresh = ServerHandshake(party(BETA), ALPHA, checking(ALPHA), next(self._indices), self._draw)
            answer = fresh.handle_hello(message)
            self._pending = fresh
            return [answer]
        if self._pending is not None and self._pending.finish_digest != message_digest(message):
            self._pending.handle_finish(message)
            self.established = self._pending.establish(FIRST)
        return []


class Initiator:
    """Alpha in one attempt: says HELLO until an ANSWER is taken, then FINISH."""

    def __init__(self, index: int, unix_ms: int, draw: Draws) -> None:
        self._handshake = ClientHandshake(party(ALPHA), BETA, checking(BETA), index, unix_ms, draw)
        self.established: Established | None = None

    @property
    def says(self) -> bytes:
        return self.established.finish_message if self.established else self._handshake.hello

    def take(self, message: bytes) -> None:
        """Raises what the handshake raises."""
        self._handshake.handle_answer(message)
        self.established = self._handshake.finish(FIRST)


@pytest.mark.parametrize("seed", range(20))
def test_a_hostile_network_delays_a_session_and_never_splits_it(seed: int) -> None:
    random, draw = Random(seed), Draws(seed)
    shares = draw(32), draw(32)
    at_alpha, at_beta = Gateway(ALPHA, BETA, *shares), Gateway(BETA, ALPHA, *reversed(shares))
    there, back = Hostile(random), Hostile(random)
    beta = Responder(draw)
    made: dict[bytes, Established] = {}
    for attempt in range(200):
        now, unix_ms = float(attempt), NOW_MS + 1000 * attempt
        alpha = Initiator(attempt, unix_ms, draw)
        for _ in range(4):
            to_alpha = []
            for message in at_beta.messages(there.carry(at_alpha.datagrams(alpha.says, unix_ms)), now):
                with contextlib.suppress(*DROPPED):
                    to_alpha += [
                        part for reply in beta.reply(message, unix_ms) for part in at_beta.datagrams(reply, unix_ms)
                    ]
            for message in at_alpha.messages(back.carry(to_alpha), now):
                with contextlib.suppress(*DROPPED):
                    alpha.take(message)
            if alpha.established is not None:
                made[alpha.established.exporter] = alpha.established
        if beta.established is not None:
            break
    assert beta.established is not None
    assert agree(made[beta.established.exporter], beta.established)


def test_joined_fields_cannot_be_shifted_into_each_other() -> None:
    assert join(b"ab", b"c") != join(b"a", b"bc")
