"""The handshake with symbols in place of keys: the same steps and refusals, and nothing that takes time.

Every fresh value is a *name*, an int of its own; a message spells out the names that a real one would only hint at.
A signature always holds, for only who has the identity key can make these messages at all. The proof of a root is the
root's name, and matches where the names are equal. What follows from a root is computed by the real key schedule; its
name is that of the exporter secret, which no other handshake has.

    HELLO h    ANSWER kind h a [root]    FINISH kind a [root] [exporter]    RESUME h root    RESUMED h a root exporter
    h: the client's index, one an attempt      a: the server's index, one an ANSWER
"""

from __future__ import annotations

import itertools

from fabric.core.handshake import AnswerOpened, CheckPeer, Established, FinishOpened, Party
from fabric.core.machine import Draw
from fabric.core.pair import Steps
from fabric.core.resume import Continued
from fabric.crypto.aead import Suite
from fabric.crypto.digest import blake2b_256
from fabric.crypto.schedule import FIRST_ROOT, RootKeys, next_root, root_keys
from fabric.dataplane.contract import SessionKeys
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.certificate import Certificate
from fabric.wire.handshake import (
    CHALLENGE_BYTES,
    EXCHANGE_KEY_BYTES,
    KEM_KEY_BYTES,
    VERSION,
    Hello,
    MessageKind,
    Proof,
    ProofKind,
    decode_hello,
    encode_hello,
)
from fabric.wire.ticket import MAC_BYTES, Resume, decode_resume, encode_resume

FIRST_NAME = 1 << 28
"""Every int from here on is a name, and none below is."""

NOBODY = 0
"""Stands where a name would: the first root, which everybody knows, or nothing at all."""

SUITE = Suite.CHACHA20_POLY1305
FITS = {ProofKind.NONE: ProofKind.FIRST, ProofKind.PROOF: ProofKind.PROOF}

_names = itertools.count(FIRST_NAME)
_known: dict[bytes, int] = {}
_roots: dict[bytes, int] = {root_keys(FIRST_ROOT).proof: NOBODY}
_messages: dict[bytes, bytes] = {}


def fresh() -> int:
    """Returns a name that was never used."""
    return next(_names)


def draw(count: int) -> bytes:
    """A source of randomness whose every output is one name, again and again."""
    return (fresh().to_bytes(4) * (count // 4 + 1))[:count]


def name_of(value: bytes) -> int | None:
    """The name of a root, or None where the value is none that was made here."""
    return _known.get(value)


def message_of(digest: bytes) -> bytes | None:
    """The message that has this digest."""
    return _messages.get(digest)


def words(data: bytes) -> tuple[int, ...]:
    """Splits what was made here: kinds, counts and names, four bytes each."""
    return tuple(int.from_bytes(data[at : at + 4]) for at in range(0, len(data), 4))


def spell(kind: MessageKind, *rest: int) -> bytes:
    """Returns a message of these words, with the head that tells its kind."""
    return bytes((kind, VERSION, 0, 0)) + b"".join(word.to_bytes(4) for word in rest)


def hello_of(name: int) -> bytes:
    challenge = name.to_bytes(4) * (CHALLENGE_BYTES // 4)
    return encode_hello(Hello(name, 0, bytes(EXCHANGE_KEY_BYTES), bytes(KEM_KEY_BYTES), challenge, (SUITE,)))


def resume_of(name: int, root: int) -> bytes:
    """A ticket that tells which root it continues."""
    challenge, ticket = name.to_bytes(4) * (CHALLENGE_BYTES // 4), root.to_bytes(4) * 4
    exchange_key, kem_key = bytes(EXCHANGE_KEY_BYTES), bytes(KEM_KEY_BYTES)
    return encode_resume(Resume(name, 0, exchange_key, kem_key, challenge, (SUITE,), ticket)) + bytes(MAC_BYTES)


def resume_words(message: bytes) -> tuple[int, int]:
    """Returns the client's index and the root."""
    resume, _, _ = decode_resume(message)
    return resume.client_index, int.from_bytes(resume.ticket[:4])


def session_key(exporter: int, root: int, is_resumed: bool = False) -> bytes:
    """The key of either direction: it tells the handshake, the root that it was made from, and how."""
    return exporter.to_bytes(4) + root.to_bytes(4) + int(is_resumed).to_bytes(4)


def _following(root: RootKeys, exporter: int) -> bytes:
    following = next_root(root, exporter.to_bytes(4) * 8)
    _known[following] = _roots[root_keys(following).proof] = exporter
    return following


def _established(
    message: bytes, root: RootKeys, exporter: int, peer: str, indices: tuple[int, int], certificate: Certificate
) -> Established:
    _following(root, exporter)
    _messages[blake2b_256(message)] = message
    key = session_key(exporter, _roots[root.proof])
    return Established(message, SessionKeys(peer, *indices, SUITE, key, key), exporter.to_bytes(4) * 8, certificate)


def _continued(root: bytes, exporter: int, peer: str, indices: tuple[int, int]) -> Continued:
    key = session_key(exporter, _roots[root_keys(root).proof], is_resumed=True)
    return Continued(SessionKeys(peer, *indices, SUITE, key, key), _following(root_keys(root), exporter))


class SymbolicClient:
    """Twin of `ClientHandshake`."""

    __slots__ = ("_answer", "_check", "_draw", "_is_done", "_name", "_peer")

    def __init__(self, me: Party, peer_name: str, check: CheckPeer, local_index: int, unix_ms: int, draw: Draw) -> None:
        self._name, self._peer, self._draw = local_index, peer_name, draw
        self._check = check
        self._answer: tuple[int, ProofKind, int] | None = None
        self._is_done = False

    @property
    def hello(self) -> bytes:
        return hello_of(self._name)

    def handle_answer(self, message: bytes) -> AnswerOpened:
        if self._is_done:
            raise DecodeError("an ANSWER was taken already")
        _, kind, mine, theirs, root = words(message)
        if mine != self._name:
            raise DecodeError("an ANSWER to another attempt")
        self._answer = (theirs, ProofKind(kind), root)
        self._is_done = True
        return AnswerOpened(self._check(b""), Proof(ProofKind(kind)), theirs, SUITE)

    def proof_matches(self, root: RootKeys) -> bool:
        return self._answer is not None and self._answer[1:] == (ProofKind.PROOF, _roots[root.proof])

    def finish(self, root: RootKeys, kind: ProofKind = ProofKind.FIRST, *, anew: bool = False) -> Established:
        theirs, said, _ = self._taken()
        fits = FITS.get(said) is kind or (anew and (said, kind) == (ProofKind.PROOF, ProofKind.FIRST))
        if not fits or (kind is ProofKind.PROOF and not self.proof_matches(root)):
            raise AuthenticationError("FINISH does not fit what the server said")
        self._answer = None
        exporter = int.from_bytes(self._draw(4))
        message = spell(MessageKind.FINISH, kind, theirs, _roots[root.proof], exporter)
        return _established(message, root, exporter, self._peer, (self._name, theirs), self._check(b""))

    def refuse(self, kind: ProofKind) -> bytes:
        theirs, _, _ = self._taken()
        self._answer = None
        return spell(MessageKind.FINISH, kind, theirs, NOBODY, NOBODY)

    def _taken(self) -> tuple[int, ProofKind, int]:
        if self._answer is None:
            raise ValueError("no ANSWER was taken, or it was answered already")
        return self._answer


class SymbolicServer:
    """Twin of `ServerHandshake`."""

    __slots__ = ("_answered", "_check", "_finish", "_name", "_peer")

    def __init__(self, me: Party, peer_name: str, check: CheckPeer, local_index: int, draw: Draw) -> None:
        self._name, self._peer = local_index, peer_name
        self._check = check
        self._answered: tuple[int, ProofKind] | None = None
        self._finish: bytes | None = None

    def handle_hello(self, message: bytes, root: RootKeys | None = None, kind: ProofKind = ProofKind.NONE) -> bytes:
        theirs = decode_hello(message).client_index
        self._answered = (theirs, kind)
        proven = _roots[root.proof] if root is not None and kind is ProofKind.PROOF else NOBODY
        return spell(MessageKind.ANSWER, kind, theirs, self._name, proven)

    def handle_finish(self, message: bytes) -> FinishOpened:
        if self._answered is None or self._finish is not None:
            raise DecodeError("a FINISH to nothing")
        _, kind, mine, _, _ = words(message)
        if mine != self._name:
            raise DecodeError("a FINISH of another attempt")
        self._finish = message
        return FinishOpened(self._check(b""), Proof(ProofKind(kind)))

    def proof_matches(self, root: RootKeys) -> bool:
        if self._finish is None:
            return False
        _, kind, _, proven, _ = words(self._finish)
        return kind == ProofKind.PROOF and proven == _roots[root.proof]

    def establish(self, root: RootKeys, *, anew: bool = False) -> Established:
        if self._finish is None or self._answered is None:
            raise ValueError("no FINISH was taken, or it was used already")
        _, kind, _, _, exporter = words(self._finish)
        theirs, answered = self._answered
        said = ProofKind(kind)
        fits = FITS.get(answered) is said or (anew and (answered, said) == (ProofKind.PROOF, ProofKind.FIRST))
        if not fits or (said is ProofKind.PROOF and not self.proof_matches(root)):
            raise AuthenticationError("the client says otherwise")
        message, self._finish = self._finish, None
        return _established(message, root, exporter, self._peer, (self._name, theirs), self._check(b""))


class SymbolicResume:
    """Twin of `ClientResume`."""

    __slots__ = ("_is_done", "_name", "_peer", "_root")

    def __init__(self, me: Party, peer_name: str, root: bytes, local_index: int, unix_ms: int, draw: Draw) -> None:
        self._name, self._peer, self._root = local_index, peer_name, root
        self._is_done = False

    @property
    def message(self) -> bytes:
        return resume_of(self._name, _known[self._root])

    def handle_resumed(self, message: bytes) -> Continued:
        if self._is_done:
            raise DecodeError("an answer was taken already")
        _, mine, theirs, root, exporter = words(message)
        if mine != self._name:
            raise DecodeError("an answer to another attempt")
        if root != _known[self._root]:
            raise AuthenticationError("the server does not prove the root")
        self._is_done = True
        return _continued(self._root, exporter, self._peer, (self._name, theirs))


def symbolic_answer(
    me: Party, peer_name: str, message: bytes, root: bytes, local_index: int, draw: Draw
) -> tuple[bytes, Continued]:
    """Twin of `answer_resume`."""
    theirs, named = resume_words(message)
    if named != _known[root]:
        raise AuthenticationError("a ticket that is not known, or was used")
    exporter = int.from_bytes(draw(4))
    answer = spell(MessageKind.RESUMED, theirs, local_index, named, exporter)
    return answer, _continued(root, exporter, peer_name, (local_index, theirs))


SYMBOLIC_STEPS = Steps(SymbolicClient, SymbolicServer, SymbolicResume, symbolic_answer)  # type: ignore[arg-type]
