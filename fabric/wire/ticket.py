"""The two messages that continue a shared root without certificates: one round trip, and nobody's help.

    RESUME   client -> server
     0      1         2           6          14     46          1230        1262     1263
    +------+---------+-----------+----------+------+-----------+-----------+--------+--------+--------+-----+
    | 4    | version | client's  | time u64 | e_c  | kem_ek    | challenge | n      | suites | ticket | mac |
    |      |         | index u32 | ms, unix | 32   | 1184      | 32        | 1..16  | n x u8 | 16     | 32  |
    +------+---------+-----------+----------+------+-----------+-----------+--------+--------+--------+-----+

    RESUMED  server -> client
     0      1         2           6           10     42       1130          1162    1163
    +------+---------+-----------+-----------+------+--------+-------------+-------+-----+
    | 5    | version | client's  | server's  | e_s  | kem_ct | challenge_s | suite | mac |
    |      |         | index u32 | index u32 | 32   | 1088   | 32          | u8    | 32  |
    +------+---------+-----------+-----------+------+--------+-------------+-------+-----+

The client's first data record stands in FINISH's place. Decoders raise `DecodeError` only.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fabric.errors import DecodeError
from fabric.wire.codec import Reader
from fabric.wire.handshake import (
    CHALLENGE_BYTES,
    EXCHANGE_KEY_BYTES,
    KEM_CIPHERTEXT_BYTES,
    KEM_KEY_BYTES,
    VERSION,
    MessageKind,
    message_reader,
    take_suites,
)

TICKET_BYTES = 16
MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Resume:
    """`suites` are numbers as offered, best first. `ticket` names the root that is continued, and tells nothing of
    it."""

    client_index: int
    unix_ms: int
    exchange_key: bytes
    kem_key: bytes
    challenge: bytes
    suites: tuple[int, ...]
    ticket: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resumed:
    client_index: int
    server_index: int
    exchange_key: bytes
    kem_ciphertext: bytes
    challenge: bytes
    suite: int


def encode_resume(resume: Resume) -> bytes:
    """Returns everything before the MAC."""
    return b"".join(
        (
            bytes((MessageKind.RESUME, VERSION)),
            resume.client_index.to_bytes(4),
            resume.unix_ms.to_bytes(8),
            resume.exchange_key,
            resume.kem_key,
            resume.challenge,
            bytes((len(resume.suites), *resume.suites)),
            resume.ticket,
        )
    )


def decode_resume(message: bytes) -> tuple[Resume, bytes, bytes]:
    """Returns the message, the bytes that its MAC covers, and the MAC."""
    reader = message_reader(message, MessageKind.RESUME)
    resume = Resume(
        client_index=reader.take_u32(),
        unix_ms=reader.take_u64(),
        exchange_key=reader.take(EXCHANGE_KEY_BYTES),
        kem_key=reader.take(KEM_KEY_BYTES),
        challenge=reader.take(CHALLENGE_BYTES),
        suites=take_suites(reader),
        ticket=reader.take(TICKET_BYTES),
    )
    return resume, *_take_mac(reader, message)


def encode_resumed(resumed: Resumed) -> bytes:
    """Returns everything before the MAC."""
    return b"".join(
        (
            bytes((MessageKind.RESUMED, VERSION)),
            resumed.client_index.to_bytes(4),
            resumed.server_index.to_bytes(4),
            resumed.exchange_key,
            resumed.kem_ciphertext,
            resumed.challenge,
            bytes((resumed.suite,)),
        )
    )


def decode_resumed(message: bytes) -> tuple[Resumed, bytes, bytes]:
    """Returns the message, the bytes that its MAC covers, and the MAC."""
    reader = message_reader(message, MessageKind.RESUMED)
    resumed = Resumed(
        client_index=reader.take_u32(),
        server_index=reader.take_u32(),
        exchange_key=reader.take(EXCHANGE_KEY_BYTES),
        kem_ciphertext=reader.take(KEM_CIPHERTEXT_BYTES),
        challenge=reader.take(CHALLENGE_BYTES),
        suite=reader.take_u8(),
    )
    return resumed, *_take_mac(reader, message)


def _take_mac(reader: Reader, message: bytes) -> tuple[bytes, bytes]:
    """Nothing may stand behind the MAC: it would not be covered."""
    covered = message[: len(message) - reader.remaining]
    mac = reader.take(MAC_BYTES)
    if reader.remaining:
        raise DecodeError(f"{reader.remaining} bytes behind the MAC")
    return covered, mac
