"""Who records everything now, and tries to read it later, with all the keys that are to be had by then.

    recorded     HELLO, ANSWER, FINISH (or RESUME, RESUMED) and DATA of each session, as anybody on the path sees them
    loot         secrets, by what they may be: X25519 scalars, ML-KEM seeds, root secrets, or any 32 bytes
    attack       every secret in every place of the key schedule where one is missing

The schedule is written down here once more, from docs/protocol.md and from nothing else, with the secrets as its
arguments. The same attack has to succeed when it is given what the ends forget, or it proves nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from nacl.bindings import (
    crypto_kx_seed_keypair,
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import RuntimeError as SodiumError

from fabric.crypto.aead import Suite, cipher
from fabric.wire.datagram import DATA_HEADER, DATA_HEADER_BYTES, DatagramKind, classify, decode_gated
from fabric.wire.handshake import (
    MessageKind,
    Piece,
    decode_answer,
    decode_finish,
    decode_hello,
    decode_piece,
)
from fabric.wire.path import GatedKind
from fabric.wire.relay import unwrap_relayed
from fabric.wire.ticket import decode_resume, decode_resumed

KEM_SEED_BYTES = 64
TRIED_RECORDS = 2
"""Of each direction: a key opens all of what was sealed with it, or none."""

Messages = Mapping[MessageKind, Sequence[bytes]]

_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One handshake, or one ticket that was taken, and what was sealed in the session that came of it, by direction.

    `ours` and `theirs` are the exchange keys of client and server. `said` is what the transcript covers: HELLO, both
    parts of ANSWER and the sealed part of FINISH; or RESUME and RESUMED, each with its MAC behind it.
    """

    ours: bytes
    theirs: bytes
    kem_ciphertext: bytes
    suite: Suite
    said: tuple[bytes, bytes, bytes, bytes]
    finish_clear: bytes
    to_server: tuple[bytes, ...]
    to_client: tuple[bytes, ...]

    @property
    def is_ticket(self) -> bool:
        return not self.finish_clear

    @property
    def records(self) -> int:
        return len(self.to_server) + len(self.to_client)


@dataclass(slots=True)
class Loot:
    """`scalars` are X25519 secrets, `publics` keys of others to agree with, `kem` ML-KEM seeds, `words` 32 bytes of
    any use, `roots` root secrets."""

    scalars: list[bytes] = field(default_factory=list, repr=False)
    publics: list[bytes] = field(default_factory=list)
    kem: list[bytes] = field(default_factory=list, repr=False)
    words: list[bytes] = field(default_factory=list, repr=False)
    roots: list[bytes] = field(default_factory=list, repr=False)
    raw: set[bytes] = field(default_factory=set, repr=False)
    """Tried as keys as they are, and in no other place."""

    def take_identity(self, seed: bytes) -> None:
        """An Ed25519 key, also as the X25519 key that libsodium makes of it."""
        _, secret = crypto_sign_seed_keypair(seed)
        self.take_scalar(crypto_sign_ed25519_sk_to_curve25519(secret))
        self.words.append(seed)

    def take_scalar(self, scalar: bytes) -> None:
        self.scalars.append(scalar)
        self.publics.append(crypto_scalarmult_base(scalar))
        self.words.append(scalar)

    def take_kem(self, seed: bytes) -> None:
        self.kem.append(seed)
        self.words += [seed[:32], seed[32:]]

    def take_root(self, root: bytes) -> None:
        self.roots.append(root)
        self.words += [root, *(_b256(label, key=root) for label in _ROOT_LABELS)]
        self.words.append(_mix(root))
        ticket = _b256(b"fabric/1 root ticket", key=root)
        self.words += [_b256(b"fabric/1 ticket " + end, key=ticket) for end in (b"client", b"server")]

    def take_stored(self, blob: bytes) -> None:
        """Whatever lies on a disk: there may be a key anywhere in it."""
        self.raw |= {blob[at : at + 32] for at in range(len(blob) - 31)}

    def take_drawn(self, drawn: Iterable[bytes]) -> None:
        """What an end drew from its entropy: the seeds of what it agrees with, if it had not forgotten them."""
        for value in drawn:
            if len(value) == 32:
                self.scalars.append(crypto_kx_seed_keypair(value)[1])
            elif len(value) == KEM_SEED_BYTES:
                self.kem.append(value)


@dataclass(frozen=True, slots=True)
class Broken:
    """What an attack has opened: a sealed part of the handshake, or records; `next_root` is what followed then."""

    has_handshake: bool = False
    records: tuple[bytes, ...] = field(default=(), repr=False)
    next_root: bytes = field(default=b"", repr=False)


def recorded_in(payloads: Sequence[bytes]) -> list[Recorded]:
    """Finds every complete handshake among datagrams, in the order of their answers, and its session's records."""
    bare = [_unwrapped(payload) for payload in payloads]
    messages = list(_messages(bare))
    of_kind = {kind: [message for each, message in messages if each is kind] for kind in MessageKind}
    found: list[Recorded] = []
    for kind, message in messages:
        if kind is MessageKind.ANSWER:
            found += _handshakes(message, of_kind, bare)
        elif kind is MessageKind.RESUMED:
            found += _tickets(message, of_kind, bare)
    return found


def _handshakes(message: bytes, of_kind: Messages, bare: Sequence[bytes]) -> Iterator[Recorded]:
    answer, clear, sealed = decode_answer(message)
    for hello_bytes, (finish, finish_clear, finish_sealed) in product(
        of_kind[MessageKind.HELLO], map(decode_finish, of_kind[MessageKind.FINISH])
    ):
        hello = decode_hello(hello_bytes)
        if (hello.client_index, finish.server_index) == (answer.client_index, answer.server_index):
            yield Recorded(
                hello.exchange_key,
                answer.exchange_key,
                answer.kem_ciphertext,
                Suite(answer.suite),
                (hello_bytes, clear, sealed, finish_sealed),
                finish_clear,
                _records(bare, answer.server_index),
                _records(bare, answer.client_index),
            )


def _tickets(message: bytes, of_kind: Messages, bare: Sequence[bytes]) -> Iterator[Recorded]:
    resumed, clear, mac = decode_resumed(message)
    for resume, resume_clear, resume_mac in map(decode_resume, of_kind[MessageKind.RESUME]):
        if resume.client_index == resumed.client_index:
            yield Recorded(
                resume.exchange_key,
                resumed.exchange_key,
                resumed.kem_ciphertext,
                Suite(resumed.suite),
                (resume_clear, resume_mac, clear, mac),
                b"",
                _records(bare, resumed.server_index),
                _records(bare, resumed.client_index),
            )


def attack(recorded: Recorded, loot: Loot, names: tuple[str, str], network: str) -> Broken:
    """Puts all of the loot into every place of the schedule. `names` are those of client and server: no secret."""
    th2, th4 = _transcript(recorded, names, network)
    mixes = [_mix(root) for root in loot.roots]
    has_handshake = False
    for base, kem in product(_bases(recorded, loot), _kem_secrets(recorded, loot)):
        has_handshake |= _opens_handshake(recorded, _b512(b"fabric/1 handshake secret", kem, th2, key=base))
        for mix, root in zip(mixes, loot.roots, strict=True):
            secret = _b512(b"fabric/1 traffic secret", kem, th4, mix, key=base)
            keys = [_b256(b"fabric/1 traffic key " + way, key=secret) for way in _WAYS]
            if _opens(recorded, keys[0], recorded.to_server) or _opens(recorded, keys[1], recorded.to_client):
                exporter = _b256(b"fabric/1 exporter secret", key=secret)
                following = _b256(exporter, key=_b256(b"fabric/1 root next", key=root))
                return Broken(has_handshake, _all_of(recorded, keys), following)
    for key in (*loot.raw, *loot.words):
        if _opens(recorded, key, recorded.to_server) or _opens(recorded, key, recorded.to_client):
            return Broken(has_handshake, _all_of(recorded, [key, key]))
    return Broken(has_handshake)


_ROOT_LABELS = (b"fabric/1 root proof", b"fabric/1 root next", b"fabric/1 root ticket")
_WAYS = (b"client to server", b"server to client")


def _transcript(recorded: Recorded, names: tuple[str, str], network: str) -> tuple[bytes, bytes]:
    """The hashes that handshake keys and traffic keys follow from: th2 and th4; of a ticket there is the latter."""
    who = [network.encode(), *(name.encode() for name in names)]
    first, second, third, fourth = recorded.said
    if recorded.is_ticket:
        th2 = _b256(_b256(b"fabric/1 resume", *who, first), second, third)
        return th2, _b256(th2, fourth)
    th2 = _b256(_b256(b"fabric/1", *who, first), second)
    return th2, _b256(_b256(th2, third), fourth)


def _bases(recorded: Recorded, loot: Loot) -> Iterator[bytes]:
    """`crypto_kx` with every agreement that can be computed, or any secret in its place."""
    ours, theirs = recorded.ours, recorded.theirs
    agreed = list(loot.words)
    for scalar, public in product(loot.scalars, (ours, theirs, *loot.publics)):
        try:
            agreed.append(crypto_scalarmult(scalar, public))
        except SodiumError:
            continue  # of low order
    for q in dict.fromkeys(agreed):
        rx_tx = hashlib.blake2b(q + ours + theirs).digest()
        yield rx_tx[32:] + rx_tx[:32]  # client to server is the client's tx


def _kem_secrets(recorded: Recorded, loot: Loot) -> list[bytes]:
    opened = [MLKEM768PrivateKey.from_seed_bytes(seed).decapsulate(recorded.kem_ciphertext) for seed in loot.kem]
    return list(dict.fromkeys([*opened, *loot.words, bytes(32)]))


def _opens_handshake(recorded: Recorded, secret: bytes) -> bool:
    if recorded.is_ticket:
        return False  # nothing in it is sealed
    to_server, to_client = (_b256(b"fabric/1 handshake key " + way, key=secret) for way in _WAYS)
    _, clear, answer, finish = recorded.said
    return (
        _opened(recorded.suite, to_client, _NONCE, answer, clear) is not None
        or _opened(recorded.suite, to_server, _NONCE, finish, recorded.finish_clear) is not None
    )


def _opens(recorded: Recorded, key: bytes, records: tuple[bytes, ...]) -> bool:
    return any(_record(recorded, key, record) is not None for record in records[:TRIED_RECORDS])


def _all_of(recorded: Recorded, keys: Sequence[bytes]) -> tuple[bytes, ...]:
    both = [_record(recorded, keys[0], record) for record in recorded.to_server]
    both += [_record(recorded, keys[1], record) for record in recorded.to_client]
    return tuple(opened for opened in both if opened is not None)


def _record(recorded: Recorded, key: bytes, record: bytes) -> bytes | None:
    header, sealed = record[:DATA_HEADER_BYTES], record[DATA_HEADER_BYTES:]
    return _opened(recorded.suite, key, bytes(4) + header[8:], sealed, header)


def _opened(suite: Suite, key: bytes, nonce: bytes, sealed: bytes, header: bytes) -> bytes | None:
    try:
        return cipher(suite, key).decrypt(nonce, sealed, header)
    except InvalidTag:
        return None


def _unwrapped(payload: bytes) -> bytes:
    return unwrap_relayed(payload)[1] if classify(payload) is DatagramKind.RELAYED else payload


def _messages(payloads: Iterable[bytes]) -> Iterator[tuple[MessageKind, bytes]]:
    """Every handshake message, once, put together from its pieces: the gate hides none of it."""
    pieces: dict[bytes, dict[int, Piece]] = {}
    for payload in payloads:
        if classify(payload) is not DatagramKind.GATED:
            continue
        body = decode_gated(payload).body
        if body[0] != GatedKind.PIECE:
            continue
        piece = decode_piece(body)
        held = pieces.setdefault(piece.digest, {})
        if len(held) < piece.count:
            held[piece.index] = piece
            if len(held) == piece.count:
                yield piece.kind, b"".join(held[index].content for index in range(piece.count))


def _records(payloads: Iterable[bytes], index: int) -> tuple[bytes, ...]:
    found = [p for p in payloads if classify(p) is DatagramKind.DATA and DATA_HEADER.unpack_from(p)[1] == index]
    return tuple(dict.fromkeys(found))


def _mix(root: bytes) -> bytes:
    return _b256(b"fabric/1 root mix", key=root)


def _b256(*fields: bytes, key: bytes = b"") -> bytes:
    return hashlib.blake2b(_joined(fields), digest_size=32, key=key).digest()


def _b512(*fields: bytes, key: bytes = b"") -> bytes:
    return hashlib.blake2b(_joined(fields), digest_size=64, key=key).digest()


def _joined(fields: Iterable[bytes]) -> bytes:
    return b"".join(len(part).to_bytes(4) + part for part in fields)
