"""The key schedule of a handshake, every step with its label. `B256` and `B512` are BLAKE2b over joined fields.

    base       = client_to_server (32) + server_to_client (32)         crypto_kx, see `exchange`
    handshake  = B512(key=base, "fabric/1 handshake secret", kem_secret, th2)
      keys     = B256(key=handshake, "fabric/1 handshake key client to server" | "... server to client")
    traffic    = B512(key=base, "fabric/1 traffic secret", kem_secret, th4, K_mix)
      keys     = B256(key=traffic, "fabric/1 traffic key client to server" | "... server to client")
      exporter = B256(key=traffic, "fabric/1 exporter secret")

    R, the pair's root secret (32)                                      first: B256("fabric/1 first root")
      K_proof  = B256(key=R, "fabric/1 root proof")
      K_mix    = B256(key=R, "fabric/1 root mix")
      K_next   = B256(key=R, "fabric/1 root next")
      K_ticket = B256(key=R, "fabric/1 root ticket")
      ticket   = B256(key=K_ticket, "fabric/1 ticket") cut to 16
      MAC keys = B256(key=K_ticket, "fabric/1 ticket client" | "... server")
      proof    = B256(key=K_proof, role, th, H(certificate))
      R'       = B256(key=K_next, exporter)

The root secret enters the traffic keys and never the handshake keys: a root that does not match must show as a
proof that fails, not as a message that can't be read. `tests/vectors/schedule.json` has every step in numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.crypto.digest import blake2b_256, blake2b_512
from fabric.crypto.exchange import BaseKeys

_TICKET_BYTES = 16
FIRST_ROOT = blake2b_256(b"fabric/1 first root")
"""Stands for the root secret at the first meeting; known to everybody, so it adds nothing and spoils nothing."""


@dataclass(frozen=True, slots=True)
class HandshakeKeys:
    """Seal the inner parts of ANSWER (server to client) and FINISH (client to server); 32 bytes each."""

    client_to_server: bytes = field(repr=False)
    server_to_client: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrafficKeys:
    """Seal the records of a session; `exporter` moves the root secret on. 32 bytes each."""

    client_to_server: bytes = field(repr=False)
    server_to_client: bytes = field(repr=False)
    exporter: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RootKeys:
    """What a root secret is used for, each use with its own key of 32 bytes."""

    proof: bytes = field(repr=False)
    mix: bytes = field(repr=False)
    next: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TicketKeys:
    """For continuing a root without certificates: what names it (16 bytes), and a MAC key (32) for each end."""

    ticket: bytes = field(repr=False)
    client: bytes = field(repr=False)
    server: bytes = field(repr=False)


def handshake_keys(base: BaseKeys, kem_secret: bytes, th2: bytes) -> HandshakeKeys:
    secret = _secret(base, b"fabric/1 handshake secret", kem_secret, th2)
    return HandshakeKeys(
        client_to_server=blake2b_256(b"fabric/1 handshake key client to server", key=secret),
        server_to_client=blake2b_256(b"fabric/1 handshake key server to client", key=secret),
    )


def traffic_keys(base: BaseKeys, kem_secret: bytes, th4: bytes, k_mix: bytes) -> TrafficKeys:
    secret = _secret(base, b"fabric/1 traffic secret", kem_secret, th4, k_mix)
    return TrafficKeys(
        client_to_server=blake2b_256(b"fabric/1 traffic key client to server", key=secret),
        server_to_client=blake2b_256(b"fabric/1 traffic key server to client", key=secret),
        exporter=blake2b_256(b"fabric/1 exporter secret", key=secret),
    )


def root_keys(root: bytes) -> RootKeys:
    return RootKeys(
        proof=blake2b_256(b"fabric/1 root proof", key=root),
        mix=blake2b_256(b"fabric/1 root mix", key=root),
        next=blake2b_256(b"fabric/1 root next", key=root),
    )


def ticket_keys(root: bytes) -> TicketKeys:
    key = blake2b_256(b"fabric/1 root ticket", key=root)
    return TicketKeys(
        ticket=blake2b_256(b"fabric/1 ticket", key=key)[:_TICKET_BYTES],
        client=blake2b_256(b"fabric/1 ticket client", key=key),
        server=blake2b_256(b"fabric/1 ticket server", key=key),
    )


def root_proof(keys: RootKeys, role: bytes, th: bytes, certificate_hash: bytes) -> bytes:
    """Returns the 32-byte proof that the end in `role` (b"client", b"server") holds this root now."""
    return blake2b_256(role, th, certificate_hash, key=keys.proof)


def next_root(keys: RootKeys, exporter: bytes) -> bytes:
    """Returns the root that follows, once the handshake with this exporter secret is done."""
    return blake2b_256(exporter, key=keys.next)


def _secret(base: BaseKeys, *fields: bytes) -> bytes:
    return blake2b_512(*fields, key=base.client_to_server + base.server_to_client)
