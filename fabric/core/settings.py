"""What an operator or a test may tune in the core, each with the reason for its default. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.entanglement import Entangle
from fabric.crypto.aead import Suite


@dataclass(frozen=True, slots=True)
class Settings:
    suites: tuple[Suite, ...] = (Suite.CHACHA20_POLY1305,)
    """In order of preference; the daemon puts AES-256-GCM first where the CPU has it."""

    keepalive_s: float = 7.0
    """A silent primary is probed this often: well inside the shortest UDP mappings seen (30 s, see RFC 4787 REQ-5)."""

    rekey_after_s: float = 120.0
    """WireGuard's bound: how much traffic one traffic key covers in time."""

    session_life_s: float = 180.0
    """Without a re-key the session ends; room for a minute of failed attempts."""

    straggler_s: float = 10.0
    """How long replaced keys open what was still on its way."""

    rekey_after_records: int = 2**30
    path_mtu: int = 1500
    """The longest outer packet that is tried on a path."""

    relay_copies: int = 1
    """2: each datagram goes through two relays at once, so that either may fail without the loss of a frame."""

    ask_peers: bool = True
    """Without the service, offers to a peer that has met us before go through other peers; they learn of that pair."""

    find_on_lan: bool = True
    """Peers are looked for on the local network by multicast."""

    entangle: Entangle = Entangle.ENFORCE
    """What a collision of root secrets does here."""

    intent_life_s: float = 30 * 86400.0
    offer_life_s: int = 300
    stun_interval_s: float = 20.0
    """Keeps the reflexive mapping that offers speak of alive, and notices when it moves."""
