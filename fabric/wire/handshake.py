"""The three messages of a handshake, and the pieces that carry them under the gate.

RESUME (4) and RESUMED (5) stand in `fabric.wire.ticket`.

Message (`version` is 1; integers are big-endian; u16-blocks have their length before them):

    HELLO    client -> server
     0      1         2           6             14     46          1230          1262     1263
    +------+---------+-----------+-------------+------+-----------+-------------+--------+--------+------------+
    | 1    | version | client's  | time u64    | e_c  | kem_ek    | challenge_c | n      | suites | extensions |
    |      |         | index u32 | ms, unix    | 32   | 1184      | 32          | 1..16  | n x u8 | to the end |
    +------+---------+-----------+-------------+------+-----------+-------------+--------+--------+------------+

    ANSWER   server -> client
     0      1         2           6           10     42         1130          1162    1163
    +------+---------+-----------+-----------+------+----------+-------------+-------+----------------+--------+
    | 2    | version | client's  | server's  | e_s  | kem_ct   | challenge_s | suite | extensions     | sealed |
    |      |         | index u32 | index u32 | 32   | 1088     | 32          | u8    | u16-block      | part   |
    +------+---------+-----------+-----------+------+----------+-------------+-------+----------------+--------+

    FINISH   client -> server
     0      1         2           6
    +------+---------+-----------+-------------+
    | 3    | version | server's  | sealed part |
    |      |         | index u32 |             |
    +------+---------+-----------+-------------+

    sealed part, once opened
     0                    2 + n       66 + n       67 + n         99 + n
    +--------------------+-----------+------------+--------------+-------------------+
    | certificate, DER   | signature | proof kind | proof        | extensions        |
    | u16-block          | 64        | u8         | 32 (or zero) | to the end        |
    +--------------------+-----------+------------+--------------+-------------------+

    extensions: any number of { type u16, u16-block }. Types that are not known are ignored.

An index in ANSWER and FINISH that belongs to the other side says which attempt is meant, so that what was recorded
earlier is dropped before a single key is computed. "Clear part" in `docs/protocol.md` means the bytes of an ANSWER
up to its sealed part, exactly as they were sent.

Piece (a gated body; every message travels in 1 to 4 of them):

     0      1       2       3       4            12                    28
    +------+-------+-------+-------+------------+---------------------+--------------------------------+
    | 4    | kind  | index | count | time of    | first 16 bytes of   | slice of the message, at most  |
    |      | 1..5  |       | 1..4  | sending ms | H(message)          | 1,148 bytes                    |
    +------+-------+-------+-------+------------+---------------------+--------------------------------+

Decoders raise `DecodeError` only.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from fabric.errors import DecodeError
from fabric.wire.codec import Reader, block
from fabric.wire.datagram import GATED_HEADER_BYTES, MAX_GATED_BYTES
from fabric.wire.path import GatedKind

VERSION = 1
EXCHANGE_KEY_BYTES = 32
KEM_KEY_BYTES = 1184
KEM_CIPHERTEXT_BYTES = 1088
CHALLENGE_BYTES = 32
SIGNATURE_BYTES = 64
PROOF_BYTES = 32
DIGEST_BYTES = 16
PIECE_HEADER_BYTES = 28

MAX_SUITES = 16
MAX_CERTIFICATE_BYTES = 2048
"""An endpoint's certificate has about 600; enough for many tags, and ANSWER stays within its pieces."""

MAX_PIECES = 4
MAX_SLICE_BYTES = MAX_GATED_BYTES - GATED_HEADER_BYTES - PIECE_HEADER_BYTES
MAX_MESSAGE_BYTES = MAX_PIECES * MAX_SLICE_BYTES
ROTATION_EXTENSION = 1
"""In a sealed part: a statement of the key before (`fabric.identity.rotation`)."""
MAX_EXTENSION_BYTES = 1024
"""All extensions of a message or sealed part together: room for a rotation statement with a certificate."""


class MessageKind(enum.IntEnum):
    HELLO = 1
    ANSWER = 2
    FINISH = 3
    RESUME = 4
    RESUMED = 5


class ProofKind(enum.IntEnum):
    """What a side says about the pair's root secret (`docs/protocol.md`, entanglement)."""

    NONE = 1
    FIRST = 2
    PROOF = 3
    MISMATCH = 4
    ALARM = 5


ANSWER_PROOFS = frozenset({ProofKind.NONE, ProofKind.PROOF, ProofKind.ALARM})
FINISH_PROOFS = frozenset({ProofKind.FIRST, ProofKind.PROOF, ProofKind.MISMATCH, ProofKind.ALARM})


@dataclass(frozen=True, slots=True)
class Proof:
    """`mac` is 32 bytes for PROOF and empty for every other kind."""

    kind: ProofKind
    mac: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Extension:
    type: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """`suites` are numbers as offered, best first; some may be unknown here."""

    client_index: int
    unix_ms: int
    exchange_key: bytes
    kem_key: bytes
    challenge: bytes
    suites: tuple[int, ...]
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """The clear part of an ANSWER."""

    client_index: int
    server_index: int
    exchange_key: bytes
    kem_ciphertext: bytes
    challenge: bytes
    suite: int
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The clear part of a FINISH."""

    server_index: int


@dataclass(frozen=True, slots=True)
class Credentials:
    """The sealed part of ANSWER and FINISH: who speaks, and the proof of it."""

    certificate_der: bytes
    signature: bytes
    proof: Proof
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice of a message. `digest` and `count` tell which message; `unix_ms` is the sender's clock."""

    kind: MessageKind
    index: int
    count: int
    unix_ms: int
    digest: bytes
    content: bytes = field(repr=False)


def kind_of(message: bytes) -> MessageKind:
    """Returns what a message claims to be. Raises `DecodeError` for another kind, version or size."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"a message of {len(message)} bytes")
    reader = Reader(message)
    kind, version = reader.take_u8(), reader.take_u8()
    if version != VERSION:
        raise DecodeError(f"version {version} of the handshake")
    return _message_kind(kind)


def encode_hello(hello: Hello) -> bytes:
    return b"".join(
        (
            bytes((MessageKind.HELLO, VERSION)),
            hello.client_index.to_bytes(4),
            hello.unix_ms.to_bytes(8),
            hello.exchange_key,
            hello.kem_key,
            hello.challenge,
            bytes((len(hello.suites), *hello.suites)),
            _encode_extensions(hello.extensions),
        )
    )


def decode_hello(message: bytes) -> Hello:
    reader = message_reader(message, MessageKind.HELLO)
    return Hello(
        client_index=reader.take_u32(),
        unix_ms=reader.take_u64(),
        exchange_key=reader.take(EXCHANGE_KEY_BYTES),
        kem_key=reader.take(KEM_KEY_BYTES),
        challenge=reader.take(CHALLENGE_BYTES),
        suites=take_suites(reader),
        extensions=_take_extensions(reader),
    )


def encode_answer(answer: Answer) -> bytes:
    """Returns the clear part; the sealed part goes right behind it."""
    return b"".join(
        (
            bytes((MessageKind.ANSWER, VERSION)),
            answer.client_index.to_bytes(4),
            answer.server_index.to_bytes(4),
            answer.exchange_key,
            answer.kem_ciphertext,
            answer.challenge,
            bytes((answer.suite,)),
            block(_encode_extensions(answer.extensions)),
        )
    )


def decode_answer(message: bytes) -> tuple[Answer, bytes, bytes]:
    """Returns the clear part, its bytes as they were sent, and the sealed part."""
    reader = message_reader(message, MessageKind.ANSWER)
    answer = Answer(
        client_index=reader.take_u32(),
        server_index=reader.take_u32(),
        exchange_key=reader.take(EXCHANGE_KEY_BYTES),
        kem_ciphertext=reader.take(KEM_CIPHERTEXT_BYTES),
        challenge=reader.take(CHALLENGE_BYTES),
        suite=reader.take_u8(),
        extensions=_take_extensions(Reader(reader.take_block(MAX_EXTENSION_BYTES))),
    )
    sealed = reader.take_rest()
    return answer, message[: len(message) - len(sealed)], sealed


def encode_finish(finish: Finish) -> bytes:
    """Returns the clear part; the sealed part goes right behind it."""
    return bytes((MessageKind.FINISH, VERSION)) + finish.server_index.to_bytes(4)


def decode_finish(message: bytes) -> tuple[Finish, bytes, bytes]:
    """Returns the clear part, its bytes as they were sent, and the sealed part."""
    reader = message_reader(message, MessageKind.FINISH)
    finish = Finish(server_index=reader.take_u32())
    sealed = reader.take_rest()
    return finish, message[: len(message) - len(sealed)], sealed


def encode_credentials(credentials: Credentials) -> bytes:
    return b"".join(
        (
            block(credentials.certificate_der),
            credentials.signature,
            bytes((credentials.proof.kind,)),
            credentials.proof.mac or bytes(PROOF_BYTES),
            _encode_extensions(credentials.extensions),
        )
    )


def decode_credentials(opened: bytes, allowed: frozenset[ProofKind]) -> Credentials:
    """Raises `DecodeError` also for a kind of proof that is not `allowed` in this message."""
    reader = Reader(opened)
    return Credentials(
        certificate_der=reader.take_block(MAX_CERTIFICATE_BYTES),
        signature=reader.take(SIGNATURE_BYTES),
        proof=_take_proof(reader, allowed),
        extensions=_take_extensions(reader),
    )


def encode_piece(piece: Piece) -> bytes:
    return b"".join(
        (
            bytes((GatedKind.PIECE, piece.kind, piece.index, piece.count)),
            piece.unix_ms.to_bytes(8),
            piece.digest,
            piece.content,
        )
    )


def decode_piece(body: bytes) -> Piece:
    reader = Reader(body)
    if reader.take_u8() != GatedKind.PIECE:
        raise DecodeError("not a piece")
    kind, index, count = _message_kind(reader.take_u8()), reader.take_u8(), reader.take_u8()
    unix_ms, digest, content = reader.take_u64(), reader.take(DIGEST_BYTES), reader.take_rest()
    if not (index < count <= MAX_PIECES and 0 < len(content) <= MAX_SLICE_BYTES):
        raise DecodeError(f"piece {index} of {count} with {len(content)} bytes")
    return Piece(kind, index, count, unix_ms, digest, content)


def message_reader(message: bytes, kind: MessageKind) -> Reader:
    """Returns a reader behind kind and version. Raises `DecodeError` for another message."""
    claimed = kind_of(message)
    if claimed is not kind:
        raise DecodeError(f"{claimed.name} where {kind.name} is due")
    reader = Reader(message)
    reader.take(2)
    return reader


def _message_kind(value: int) -> MessageKind:
    try:
        return MessageKind(value)
    except ValueError:
        raise DecodeError(f"message kind {value}") from None


def take_suites(reader: Reader) -> tuple[int, ...]:
    """Returns the numbers of the ciphers that are offered, best first. Raises `DecodeError`."""
    count = reader.take_u8()
    if not 0 < count <= MAX_SUITES:
        raise DecodeError(f"{count} cipher suites")
    return tuple(reader.take(count))


def _take_proof(reader: Reader, allowed: frozenset[ProofKind]) -> Proof:
    value, mac = reader.take_u8(), reader.take(PROOF_BYTES)
    if value not in allowed:
        raise DecodeError(f"proof kind {value}")
    kind = ProofKind(value)
    if kind is ProofKind.PROOF:
        return Proof(kind, mac)
    if any(mac):
        raise DecodeError(f"a proof beside {kind.name}")
    return Proof(kind)


def _encode_extensions(extensions: tuple[Extension, ...]) -> bytes:
    return b"".join([extension.type.to_bytes(2) + block(extension.value) for extension in extensions])


def _take_extensions(reader: Reader) -> tuple[Extension, ...]:
    if reader.remaining > MAX_EXTENSION_BYTES:
        raise DecodeError(f"{reader.remaining} bytes of extensions")
    extensions = []
    while reader.remaining:
        extensions.append(Extension(reader.take_u16(), reader.take_block(MAX_EXTENSION_BYTES)))
    return tuple(extensions)
