"""Continuing a root in one round trip: fresh keys as in a handshake, MACs under the root in place of signatures.

    client                                              server

    e_c, kem = fresh        -- RESUME:  ticket, mac -->
                                                        e_s, encapsulation = fresh
                            <-- RESUMED: mac --
    stores both roots       -- first record -->
                                                        stores the next root
                            <-- first record --

    th1    = H("fabric/1 resume" || network || name_c || name_s || RESUME before its MAC)
    mac_c  = B256(key=client, th1)
    th2    = H(th1 || mac_c || RESUMED before its MAC)
    mac_s  = B256(key=server, th2)
    traffic keys = schedule(crypto_kx(e_c, e_s), kem secret, H(th2 || mac_s), K_mix)

A ticket names one root and is good once: its use moves the root on. It proves state and no identity, so nothing is
concluded from one that does not fit: the client falls back to a full handshake, and only that can find a collision.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.core.handshake import Encapsulate, Party
from fabric.core.machine import Draw
from fabric.crypto import exchange
from fabric.crypto.digest import blake2b_256, equal
from fabric.crypto.exchange import KEM_SEED_BYTES, KX_SEED_BYTES, BaseKeys, KemPair, KxPair, kx_pair
from fabric.crypto.schedule import TicketKeys, TrafficKeys, next_root, root_keys, ticket_keys, traffic_keys
from fabric.dataplane.contract import SessionKeys
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.handshake import CHALLENGE_BYTES
from fabric.wire.ticket import Resume, Resumed, decode_resume, decode_resumed, encode_resume, encode_resumed

_PROTOCOL = b"fabric/1 resume"


@dataclass(frozen=True, slots=True)
class Continued:
    """The keys of a session that continues a root, and the root that follows."""

    keys: SessionKeys
    following: bytes = field(repr=False)


class ClientResume:
    """One attempt by the side with the lower name: `message`, then `handle_resumed`."""

    __slots__ = ("_ephemeral", "_local_index", "_me", "_peer", "_root", "_th1_mac", "_tickets", "message")

    def __init__(self, me: Party, peer_name: str, root: bytes, local_index: int, unix_ms: int, draw: Draw) -> None:
        self._me, self._peer, self._root, self._local_index = me, peer_name, root, local_index
        self._tickets = ticket_keys(root)
        kx, kem = kx_pair(draw(KX_SEED_BYTES)), KemPair(draw(KEM_SEED_BYTES))
        self._ephemeral: tuple[KxPair, KemPair] | None = (kx, kem)
        challenge = draw(CHALLENGE_BYTES)
        clear = encode_resume(
            Resume(local_index, unix_ms, kx.public, kem.public, challenge, me.suites, self._tickets.ticket)
        )
        th1 = _th1(me.network, me.name, peer_name, clear)
        mac = blake2b_256(th1, key=self._tickets.client)
        self._th1_mac = (th1, mac)
        self.message = clear + mac

    def handle_resumed(self, message: bytes) -> Continued:
        """Takes the first answer that proves the root; every secret of the attempt goes with it.

        Raises `DecodeError` or `AuthenticationError`, and is then as if nothing had come.
        """
        if self._ephemeral is None:
            raise DecodeError("an answer was taken already")
        resumed, clear, mac = decode_resumed(message)
        if resumed.client_index != self._local_index:
            raise DecodeError("an answer to another attempt")
        th2 = blake2b_256(*self._th1_mac, clear)
        if not equal(mac, blake2b_256(th2, key=self._tickets.server)):
            raise AuthenticationError("the server does not prove the root")
        suite = self._me.offered_suite(resumed.suite)
        kx, kem = self._ephemeral
        base = exchange.base_keys_as_client(kx, resumed.exchange_key)
        secret = kem.decapsulate(resumed.kem_ciphertext)
        self._ephemeral = None
        traffic = _traffic(base, secret, th2, mac, self._root)
        keys = SessionKeys(
            peer=self._peer,
            local_index=self._local_index,
            remote_index=resumed.server_index,
            suite=suite,
            seal_key=traffic.client_to_server,
            open_key=traffic.server_to_client,
        )
        return Continued(keys, next_root(root_keys(self._root), traffic.exporter))


def answer_resume(
    me: Party,
    peer_name: str,
    message: bytes,
    root: bytes,
    local_index: int,
    draw: Draw,
    *,
    encapsulate: Encapsulate = exchange.encapsulate,
) -> tuple[bytes, Continued]:
    """Returns RESUMED and the session that it leads to; it is fresh each time.

    Raises `DecodeError` (also as `NoCommonSuiteError`), or `AuthenticationError` where this is no ticket of `root`.
    """
    resume, clear, mac = decode_resume(message)
    tickets = ticket_keys(root)
    th1 = _verified(me, peer_name, resume, clear, mac, tickets)
    suite = me.choose_suite(resume.suites)
    kx = kx_pair(draw(KX_SEED_BYTES))
    base = exchange.base_keys_as_server(kx, resume.exchange_key)
    ciphertext, secret = encapsulate(resume.kem_key)
    challenge = draw(CHALLENGE_BYTES)
    answer = encode_resumed(Resumed(resume.client_index, local_index, kx.public, ciphertext, challenge, suite))
    th2 = blake2b_256(th1, mac, answer)
    own_mac = blake2b_256(th2, key=tickets.server)
    traffic = _traffic(base, secret, th2, own_mac, root)
    keys = SessionKeys(
        peer=peer_name,
        local_index=local_index,
        remote_index=resume.client_index,
        suite=suite,
        seal_key=traffic.server_to_client,
        open_key=traffic.client_to_server,
    )
    return answer + own_mac, Continued(keys, next_root(root_keys(root), traffic.exporter))


def _verified(me: Party, peer_name: str, resume: Resume, clear: bytes, mac: bytes, tickets: TicketKeys) -> bytes:
    """Returns th1."""
    if not equal(resume.ticket, tickets.ticket):
        raise AuthenticationError("a ticket that is not known, or was used")
    th1 = _th1(me.network, peer_name, me.name, clear)
    if not equal(mac, blake2b_256(th1, key=tickets.client)):
        raise AuthenticationError("the ticket's MAC does not hold")
    return th1


def _th1(network: str, client: str, server: str, clear: bytes) -> bytes:
    return blake2b_256(_PROTOCOL, network.encode(), client.encode(), server.encode(), clear)


def _traffic(base: BaseKeys, secret: bytes, th2: bytes, mac: bytes, root: bytes) -> TrafficKeys:
    return traffic_keys(base, secret, blake2b_256(th2, mac), root_keys(root).mix)
