"""What is thrown at a daemon in a flood, from what stood on the wire and what a hostile peer knows.

Each kind is a few thousand datagrams, all of them different. None of them is of any use to who gets it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from fabric.core.gate import gate_key, wrap
from fabric.core.pieces import split
from fabric.crypto.exchange import KEM_SEED_BYTES, KX_SEED_BYTES, KemPair, kx_pair
from fabric.wire.datagram import DATA_TYPE, GATED_TYPE
from fabric.wire.handshake import CHALLENGE_BYTES, Hello, encode_hello
from fabric.wire.path import GatedProbe, encode_gated_message

COUNT = 4096
SHORT_BYTES = 64
"""Of most: short ones are the most in number that a sender gets out."""

HELLOS = 1024
RANDOM = random.Random(1)


@dataclass(frozen=True, slots=True)
class Gate:
    """What a peer was told in an offer: where to knock, and with what."""

    index: int
    share: bytes = field(repr=False)
    network: str = ""
    sender: str = ""
    recipient: str = ""

    def wrap(self, body: bytes) -> bytes:
        return wrap(self.index, gate_key(self.share, self.network, self.sender, self.recipient), body)


@dataclass(frozen=True, slots=True)
class Wire:
    """What was recorded of what went to one port: as it came, by kind."""

    data: tuple[bytes, ...]
    gated: tuple[bytes, ...]

    @classmethod
    def of(cls, payloads: Sequence[bytes]) -> Wire:
        kinds = {
            kind: tuple(each for each in payloads if each[:1] == bytes((kind,))) for kind in (DATA_TYPE, GATED_TYPE)
        }
        return cls(kinds[DATA_TYPE], kinds[GATED_TYPE])

    @property
    def session_index(self) -> bytes:
        """Of the newest session."""
        return self.data[-1][4:8]

    @property
    def gate_index(self) -> bytes:
        return self.gated[-1][4:8]


def noise() -> list[bytes]:
    return [b"\x42" + os.urandom(SHORT_BYTES - 1) for _ in range(COUNT)]


def data_unknown() -> list[bytes]:
    return [b"\xf1\0\0\0" + os.urandom(SHORT_BYTES - 4) for _ in range(COUNT)]


def data_forged(wire: Wire) -> list[bytes]:
    """Under the index of the running session, with counters that it has not seen."""
    head = b"\xf1\0\0\0" + wire.session_index
    return [head + (2**40 + RANDOM.getrandbits(32)).to_bytes(8) + os.urandom(SHORT_BYTES - 16) for _ in range(COUNT)]


def data_replayed(wire: Wire) -> list[bytes]:
    return list(wire.data[:COUNT])


def gated_unknown() -> list[bytes]:
    return [b"\xf2\0\0\0" + os.urandom(SHORT_BYTES - 4) for _ in range(COUNT)]


def gated_forged(wire: Wire) -> list[bytes]:
    """Under a gate index that is in use, seen on the wire."""
    return [b"\xf2\0\0\0" + wire.gate_index + os.urandom(SHORT_BYTES - 8) for _ in range(COUNT)]


def gated_replayed(wire: Wire) -> list[bytes]:
    """Real handshakes and probes, again."""
    return list(wire.gated[:COUNT])


def stun() -> list[bytes]:
    return [
        b"\x01\x01\0\x0c\x21\x12\xa4\x42" + os.urandom(12) + b"\0\x20\0\x08\0\1" + os.urandom(6) for _ in range(COUNT)
    ]


def relayed() -> list[bytes]:
    """As if a relay had carried handshakes here."""
    return [b"\xf3" + os.urandom(7) + each for each in gated_unknown()]


def relay_control() -> list[bytes]:
    return [bytes((0xF4, RANDOM.randrange(1, 7), 0, 0)) + os.urandom(SHORT_BYTES - 4) for _ in range(COUNT)]


def hellos(gate: Gate) -> list[bytes]:
    """Handshakes that are begun and never ended, by who was let in."""
    unix_ms, datagrams = int(time.time() * 1000), []
    for number in range(HELLOS):
        exchange, kem = kx_pair(os.urandom(KX_SEED_BYTES)), KemPair(os.urandom(KEM_SEED_BYTES))
        index = int.from_bytes(os.urandom(4))
        hello = Hello(index, unix_ms + number, exchange.public, kem.public, os.urandom(CHALLENGE_BYTES), (1, 2))
        datagrams += [gate.wrap(body) for body in split(encode_hello(hello), unix_ms + number)]
    return datagrams


def probes(gate: Gate) -> list[bytes]:
    """Each of them new, and to be answered."""
    unix_ms = int(time.time() * 1000)
    return [gate.wrap(encode_gated_message(GatedProbe(unix_ms + at, os.urandom(16)))) for at in range(COUNT)]
