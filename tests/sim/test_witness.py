"""The witness objects to each thing that must never be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fabric.crypto.aead import Suite
from fabric.dataplane.contract import SessionKeys
from tests.sim.frames import BROADCAST, Marked, make_frame
from tests.sim.sealing import witnessed_cipher, witnessed_seal
from tests.sim.witness import InvariantError, Witness

ALPHA, BETA, GAMMA = "alpha.home", "beta.home", "gamma.home"
MACS = {ALPHA: b"\x02\xfa\0\0\0\x01", BETA: b"\x02\xfa\0\0\0\x02", GAMMA: b"\x02\xfa\0\0\0\x03"}
K1, K2, K3 = (bytes((number,)) * 32 for number in (1, 2, 3))


def keys(peer: str, seal_key: bytes, open_key: bytes, index: int = 7) -> SessionKeys:
    return SessionKeys(peer, index, index + 1, Suite.CHACHA20_POLY1305, seal_key, open_key)


def frame(sender: str, to: str | None, number: int = 1) -> Marked:
    return Marked(number, sender, to, make_frame(number, MACS[sender], MACS[to] if to else BROADCAST, 64))


@pytest.fixture
def witness() -> Witness:
    """alpha and beta wish for each other and have a session."""
    witness = Witness()
    for name, mac in MACS.items():
        witness.name_mac(name, mac)
    witness.wish(ALPHA, BETA)
    witness.wish(BETA, ALPHA)
    witness.see_install(ALPHA, keys(BETA, K1, K2))
    witness.see_install(BETA, keys(ALPHA, K2, K1))
    return witness


def test_a_nonce_may_seal_once_under_a_key_and_again_under_another(witness: Witness) -> None:
    nonce = bytes(12)
    seal = witnessed_cipher(witness)(Suite.CHACHA20_POLY1305, K1).encrypt
    seal(nonce, b"one", None)
    witnessed_seal(witness)(Suite.CHACHA20_POLY1305, K2, nonce, b"one", b"")
    with pytest.raises(InvariantError, match="twice"):
        seal(nonce, b"two", None)


def test_a_witnessed_cipher_opens_what_it_sealed(witness: Witness) -> None:
    cipher = witnessed_cipher(witness)(Suite.AES_256_GCM, K1)
    assert cipher.decrypt(bytes(12), cipher.encrypt(bytes(12), b"frame", b"head"), b"head") == b"frame"


def test_a_frame_between_two_that_wish_it_is_fine_once(witness: Witness) -> None:
    witness.see_sent(sent := frame(ALPHA, BETA))
    assert witness.see_delivered(BETA, sent.data, 1.0) == sent
    with pytest.raises(InvariantError, match="twice"):
        witness.see_delivered(BETA, sent.data, 1.0)


def test_a_changed_frame_is_objected_to(witness: Witness) -> None:
    witness.see_sent(sent := frame(ALPHA, BETA))
    with pytest.raises(InvariantError, match="changed"):
        witness.see_delivered(BETA, sent.data[:-1] + b"x", 1.0)


def test_a_frame_under_anothers_mac_is_objected_to(witness: Witness) -> None:
    sent = frame(ALPHA, BETA)
    forged = replace(sent, data=sent.data[:6] + MACS[GAMMA] + sent.data[12:])
    witness.see_sent(forged)
    with pytest.raises(InvariantError, match="changed"):
        witness.see_delivered(BETA, forged.data, 1.0)


def test_a_frame_to_another_peer_is_objected_to(witness: Witness) -> None:
    witness.wish(ALPHA, GAMMA)
    witness.wish(GAMMA, ALPHA)
    witness.see_sent(sent := frame(ALPHA, BETA))
    with pytest.raises(InvariantError, match="to beta"):
        witness.see_delivered(GAMMA, sent.data, 1.0)


def test_a_frame_behind_a_withdrawn_wish_is_objected_to(witness: Witness) -> None:
    witness.see_sent(sent := frame(ALPHA, BETA))
    witness.withdraw(BETA, ALPHA)
    with pytest.raises(InvariantError, match="without wishing"):
        witness.see_delivered(BETA, sent.data, 1.0)


def test_a_frame_that_its_sender_did_not_wish_to_send_there_is_objected_to(witness: Witness) -> None:
    witness.withdraw(ALPHA, BETA)
    witness.see_sent(sent := frame(ALPHA, BETA))
    witness.wish(ALPHA, BETA)
    with pytest.raises(InvariantError, match="without wishing"):
        witness.see_delivered(BETA, sent.data, 1.0)


def test_a_frame_without_a_session_is_objected_to(witness: Witness) -> None:
    witness.see_sent(sent := frame(ALPHA, BETA))
    witness.see_retire(BETA, 7)
    with pytest.raises(InvariantError, match="without a session"):
        witness.see_delivered(BETA, sent.data, 1.0)


def test_a_frame_that_nobody_sent_is_objected_to(witness: Witness) -> None:
    with pytest.raises(InvariantError, match="nobody sent"):
        witness.see_delivered(BETA, frame(ALPHA, BETA, number=99).data, 1.0)


def test_a_key_with_two_owners_on_one_side_is_objected_to(witness: Witness) -> None:
    with pytest.raises(InvariantError, match="again"):
        witness.see_install(ALPHA, keys(BETA, K1, K3, index=9))


def test_a_session_whose_sides_name_different_peers_is_objected_to(witness: Witness) -> None:
    for who, whom in ((ALPHA, GAMMA), (BETA, GAMMA), (GAMMA, ALPHA)):
        witness.wish(who, whom)
    witness.see_install(GAMMA, keys(ALPHA, K3, bytes(32), index=9))
    with pytest.raises(InvariantError, match="joins"):
        witness.see_install(BETA, keys(GAMMA, b"\x09" * 32, K3, index=11))


def test_a_handshake_with_somebody_unasked_for_is_objected_to(witness: Witness) -> None:
    with pytest.raises(InvariantError, match="never asked for"):
        witness.see_install(ALPHA, keys(GAMMA, K3, bytes(32)))


def test_an_answer_to_a_stranger_is_objected_to(witness: Witness) -> None:
    with pytest.raises(InvariantError, match="stranger gets"):
        witness.see_datagram_to_stranger("stranger", ("192.0.2.1", 1), b"hello")
