"""The handshake of two endpoints that know each other's name: SIGMA-I, with ML-KEM beside X25519.

    client (the lower name)                                                 server

    e_c, kem = fresh                  -- HELLO:  e_c, kem_ek, challenge_c, suites -->
                                                                            e_s, encapsulation, challenge_s = fresh
                                      <-- ANSWER: e_s, kem_ct, challenge_s, suite,
                                                  { cert_s, sig_s, proof_s } --
    checks, decides                   -- FINISH: { cert_c, sig_c, proof_c } -->
                                                                            checks, decides
                                      <-- first record --

    th1  = H("fabric/1" || network || name_c || name_s || HELLO)
    th2  = H(th1 || clear part of ANSWER)              base = crypto_kx(e_c, e_s), K = kem secret
    th3  = H(th2 || sealed part of ANSWER)             handshake keys = schedule(base, K, th2)
    th4  = H(th3 || sealed part of FINISH)             traffic keys   = schedule(base, K, th4, K_mix)
    sig_s = sign("fabric/1 handshake server" || th2 || H(cert_s))   proof_s = MAC(K_proof, "server" || th2 || H(cert_s))
    sig_c = sign("fabric/1 handshake client" || th3 || H(cert_c))   proof_c = MAC(K_proof, "client" || th3 || H(cert_c))
    { } = AEAD of the chosen suite, handshake key of the direction, zero nonce, clear part as associated data

Each handshake key seals one message: e_s and challenge_s are fresh in every ANSWER, so th2 never repeats, and a
client makes one FINISH. A message that fails any check changes nothing: the genuine one may be right behind it.
Nothing here knows time or the network; `fabric.core.negotiation_client` decides when to try, and the caller which root
secret is spoken of. Opening the other's message and answering it are separate steps for that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fabric.core.machine import Draw
from fabric.core.pieces import message_digest
from fabric.crypto import exchange
from fabric.crypto.aead import NONCE_BYTES, Suite, open_, seal
from fabric.crypto.digest import blake2b_256, equal
from fabric.crypto.exchange import KEM_SEED_BYTES, KX_SEED_BYTES, BaseKeys, KemPair, KxPair, kx_pair
from fabric.crypto.schedule import HandshakeKeys, RootKeys, TrafficKeys, handshake_keys, root_proof, traffic_keys
from fabric.crypto.signature import LABEL_HANDSHAKE_CLIENT, LABEL_HANDSHAKE_SERVER, Signer, verify
from fabric.dataplane.contract import SessionKeys
from fabric.errors import AuthenticationError, CertificateError, DecodeError
from fabric.identity.certificate import Certificate
from fabric.wire.handshake import (
    ANSWER_PROOFS,
    CHALLENGE_BYTES,
    FINISH_PROOFS,
    ROTATION_EXTENSION,
    Answer,
    Credentials,
    Extension,
    Finish,
    Hello,
    Proof,
    ProofKind,
    decode_answer,
    decode_credentials,
    decode_finish,
    decode_hello,
    encode_answer,
    encode_credentials,
    encode_finish,
    encode_hello,
)

CheckPeer = Callable[..., Certificate]
"""Takes the certificate in DER that a peer has shown on this connection, and where it has shown any, the rotations
that led to its key; raises `CertificateError` unless chain, life, revocation, name and key continuity are as they must
be."""

Encapsulate = Callable[[bytes], tuple[bytes, bytes]]

_PROTOCOL = b"fabric/1"
_NONCE = bytes(NONCE_BYTES)
_FINISH_THAT_FITS = {ProofKind.NONE: ProofKind.FIRST, ProofKind.PROOF: ProofKind.PROOF}
"""What FINISH must say after what ANSWER said, for a session to come of it."""


class NoCommonSuiteError(DecodeError):
    """The two sides allow no cipher that both have: a matter of their configuration."""


@dataclass(frozen=True, slots=True)
class Party:
    """This endpoint as it shows itself. `name` is the full name; `suites` what it allows, best first."""

    name: str
    network: str
    certificate_der: bytes = field(repr=False)
    signer: Signer
    suites: tuple[Suite, ...]
    rotations: tuple[bytes, ...] = field(default=(), repr=False)
    """What led to the own key, where the peer may know an older one."""

    def choose_suite(self, offered: tuple[int, ...]) -> Suite:
        """Returns the first of a client's offer that is allowed here: AES only where both have it in hardware.

        Raises `NoCommonSuiteError` where none is.
        """
        for number in offered:
            if number in self.suites:
                return Suite(number)
        raise NoCommonSuiteError("the client offers no cipher that is allowed here")

    def offered_suite(self, number: int) -> Suite:
        """Returns what a server has chosen. Raises `DecodeError` where it was not offered."""
        if number not in self.suites:
            raise DecodeError(f"the server chose cipher {number}, which was not offered")
        return Suite(number)


@dataclass(frozen=True, slots=True)
class AnswerOpened:
    """The server is who it should be; what it says of the root secret is for the caller to judge."""

    certificate: Certificate
    proof: Proof
    remote_index: int
    suite: Suite
    is_rotated: bool = False
    """It has another key than the one known so far, which the key before has signed: good only beside a proof of the
    root."""


@dataclass(frozen=True, slots=True)
class FinishOpened:
    """The client is who it should be; what it says of the root secret is for the caller to judge."""

    certificate: Certificate
    proof: Proof
    is_rotated: bool = False


@dataclass(frozen=True, slots=True)
class Established:
    """Both sides are proven. `exporter` (32 bytes) moves the root secret on; `finish_message` is as it was sent."""

    finish_message: bytes = field(repr=False)
    keys: SessionKeys
    exporter: bytes = field(repr=False)
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class _Role:
    """How one side's signature and proof differ from the other's."""

    name: bytes
    label: bytes


_CLIENT = _Role(b"client", LABEL_HANDSHAKE_CLIENT)
_SERVER = _Role(b"server", LABEL_HANDSHAKE_SERVER)


@dataclass(frozen=True, slots=True)
class _Secrets:
    """What both sides share once ANSWER is made."""

    base: BaseKeys
    kem_secret: bytes = field(repr=False)
    keys: HandshakeKeys
    suite: Suite

    @classmethod
    def derive(cls, base: BaseKeys, kem_secret: bytes, th2: bytes, suite: Suite) -> _Secrets:
        return cls(base, kem_secret, handshake_keys(base, kem_secret, th2), suite)

    def traffic(self, th4: bytes, root: RootKeys) -> TrafficKeys:
        return traffic_keys(self.base, self.kem_secret, th4, root.mix)


@dataclass(frozen=True, slots=True)
class _Shown:
    """The other's sealed part, opened and verified; `th` is the transcript that its proof covers."""

    role: _Role
    th: bytes
    credentials: Credentials
    certificate: Certificate
    is_rotated: bool

    def proof_matches(self, root: RootKeys) -> bool:
        """Whether it proves that the other holds this root."""
        proof = self.credentials.proof
        expected = root_proof(root, self.role.name, self.th, _hash(self.credentials.certificate_der))
        return proof.kind is ProofKind.PROOF and equal(proof.mac, expected)


class ClientHandshake:
    """One attempt by the side with the lower name: `hello`, then `handle_answer`, then `finish` or `refuse`.

    Raises `ValueError` where the names are the wrong way round.
    """

    __slots__ = ("_check", "_ephemeral", "_local_index", "_me", "_opened", "_peer", "_th1", "hello")

    def __init__(self, me: Party, peer_name: str, check: CheckPeer, local_index: int, unix_ms: int, draw: Draw) -> None:
        if not me.name < peer_name:
            raise ValueError(f"{me.name} is not the client towards {peer_name}")
        self._me = me
        self._peer = peer_name
        self._check = check
        self._local_index = local_index
        ephemeral = kx_pair(draw(KX_SEED_BYTES)), KemPair(draw(KEM_SEED_BYTES))
        self._ephemeral: tuple[KxPair, KemPair] | None = ephemeral
        self._opened: _ClientOpened | None = None
        self.hello = encode_hello(
            Hello(local_index, unix_ms, ephemeral[0].public, ephemeral[1].public, draw(CHALLENGE_BYTES), me.suites)
        )
        self._th1 = _th1(me.network, me.name, peer_name, self.hello)

    def handle_answer(self, message: bytes) -> AnswerOpened:
        """Opens an ANSWER and proves who made it; at most one is taken, and the ephemeral secrets go with it.

        Raises `DecodeError`, `AuthenticationError` or `CertificateError`, and is then as if nothing had come.
        """
        if self._ephemeral is None:
            raise DecodeError("an ANSWER was taken already")
        answer, clear, sealed = decode_answer(message)
        if answer.client_index != self._local_index:
            raise DecodeError("an ANSWER to another attempt")
        suite = self._me.offered_suite(answer.suite)
        kx, kem = self._ephemeral
        base = exchange.base_keys_as_client(kx, answer.exchange_key)  # X25519
        kem_secret = kem.decapsulate(answer.kem_ciphertext)  # ML-KEM
        th2 = _hash(self._th1, clear)
        secrets = _Secrets.derive(base, kem_secret, th2, suite)
        opened = open_(suite, secrets.keys.server_to_client, _NONCE, sealed, clear)  # check 1: AEAD
        credentials = decode_credentials(opened, ANSWER_PROOFS)
        shown = _proven(credentials, self._check, _SERVER, th2)  # checks 2 and 3: certificate, signature
        self._ephemeral = None
        self._opened = _ClientOpened(shown, secrets, _hash(th2, sealed), answer.server_index)
        return AnswerOpened(shown.certificate, credentials.proof, answer.server_index, suite, shown.is_rotated)

    def proof_matches(self, root: RootKeys) -> bool:
        """Check 4: whether the ANSWER taken proves that the server holds this root."""
        return self._opened is not None and self._opened.shown.proof_matches(root)

    def finish(self, root: RootKeys, kind: ProofKind = ProofKind.FIRST, *, anew: bool = False) -> Established:
        """Makes FINISH and the session's keys; every secret of the attempt is dropped.

        FIRST (with the keys of `FIRST_ROOT`) answers a server that said NONE, and `anew` also one that said PROOF,
        where a collision is let pass; PROOF answers one whose proof by this root holds.

        Raises `AuthenticationError` where the server said otherwise, `ValueError` where no ANSWER was taken.
        """
        opened = self._taken()
        said = opened.shown.credentials.proof.kind
        is_fit = _FINISH_THAT_FITS.get(said) is kind or (anew and _is_anew(said, kind))
        if not is_fit or (kind is ProofKind.PROOF and not self.proof_matches(root)):
            raise AuthenticationError(f"FINISH({kind.name}) does not fit what the server said of the root: {said.name}")
        message, th4 = self._seal_finish(opened, kind, root)
        traffic = opened.secrets.traffic(th4, root)
        self._opened = None
        keys = SessionKeys(
            peer=self._peer,
            local_index=self._local_index,
            remote_index=opened.remote_index,
            suite=opened.secrets.suite,
            seal_key=traffic.client_to_server,
            open_key=traffic.server_to_client,
        )
        return Established(message, keys, traffic.exporter, opened.shown.certificate)

    def refuse(self, kind: ProofKind) -> bytes:
        """Returns a FINISH that says MISMATCH or ALARM; no session comes of it, and every secret is dropped."""
        if kind not in (ProofKind.MISMATCH, ProofKind.ALARM):
            raise ValueError(f"{kind.name} refuses nothing")
        message, _ = self._seal_finish(self._taken(), kind, None)
        self._opened = None
        return message

    def _taken(self) -> _ClientOpened:
        if self._opened is None:
            raise ValueError("no ANSWER was taken, or it was answered already")
        return self._opened

    def _seal_finish(self, opened: _ClientOpened, kind: ProofKind, root: RootKeys | None) -> tuple[bytes, bytes]:
        """Returns FINISH and th4."""
        clear = encode_finish(Finish(opened.remote_index))
        inside = _credentials(self._me, _CLIENT, opened.th3, kind, root)
        sealed = seal(opened.secrets.suite, opened.secrets.keys.client_to_server, _NONCE, inside, clear)
        return clear + sealed, _hash(opened.th3, sealed)


class ServerHandshake:
    """One attempt on the other side: `handle_hello`, then `handle_finish`, then `establish`.

    A further HELLO may be handled until a FINISH was taken: its answer is fresh, and replaces the one before.
    Raises `ValueError` where the names are the wrong way round.
    """

    __slots__ = (
        "_answered",
        "_check",
        "_draw",
        "_encapsulate",
        "_local_index",
        "_me",
        "_opened",
        "_peer",
        "finish_digest",
    )

    def __init__(
        self,
        me: Party,
        peer_name: str,
        check: CheckPeer,
        local_index: int,
        draw: Draw,
        *,
        encapsulate: Encapsulate = exchange.encapsulate,
    ) -> None:
        if not peer_name < me.name:
            raise ValueError(f"{me.name} is not the server towards {peer_name}")
        self._me = me
        self._peer = peer_name
        self._check = check
        self._local_index = local_index
        self._draw = draw
        self._encapsulate = encapsulate
        self._answered: _Answered | None = None
        self._opened: _ServerOpened | None = None
        self.finish_digest: bytes | None = None
        """Names the FINISH that was taken (16 bytes, as in its pieces), to know it when it comes again."""

    def handle_hello(self, message: bytes, root: RootKeys | None = None, kind: ProofKind = ProofKind.NONE) -> bytes:
        """Returns the ANSWER; `root` is used where `kind` is PROOF. Whether the HELLO is fresh, the caller has seen.

        Raises `DecodeError` (also as `NoCommonSuiteError`) or `AuthenticationError`: then it is as if nothing had come.
        """
        if self.finish_digest is not None:
            raise DecodeError("a HELLO after FINISH")
        hello = decode_hello(message)
        suite = self._me.choose_suite(hello.suites)
        kx = kx_pair(self._draw(KX_SEED_BYTES))  # fresh in every ANSWER
        base = exchange.base_keys_as_server(kx, hello.exchange_key)  # X25519
        kem_ciphertext, kem_secret = self._encapsulate(hello.kem_key)  # ML-KEM
        clear = encode_answer(
            Answer(
                client_index=hello.client_index,
                server_index=self._local_index,
                exchange_key=kx.public,
                kem_ciphertext=kem_ciphertext,
                challenge=self._draw(CHALLENGE_BYTES),
                suite=suite,
            )
        )
        th2 = _hash(_th1(self._me.network, self._peer, self._me.name, message), clear)
        secrets = _Secrets.derive(base, kem_secret, th2, suite)
        inside = _credentials(self._me, _SERVER, th2, kind, root)
        sealed = seal(suite, secrets.keys.server_to_client, _NONCE, inside, clear)
        self._answered = _Answered(secrets, _hash(th2, sealed), hello.client_index, kind)
        return clear + sealed

    def handle_finish(self, message: bytes) -> FinishOpened:
        """Opens a FINISH to the last ANSWER and proves who made it; at most one is taken.

        Raises `DecodeError`, `AuthenticationError` or `CertificateError`, and is then as if nothing had come.
        """
        answered = self._answered
        if answered is None:
            raise DecodeError("a FINISH to nothing")
        finish, clear, sealed = decode_finish(message)
        if finish.server_index != self._local_index:
            raise DecodeError("a FINISH of another attempt")
        secrets = answered.secrets
        opened = open_(secrets.suite, secrets.keys.client_to_server, _NONCE, sealed, clear)  # check 1: AEAD
        credentials = decode_credentials(opened, FINISH_PROOFS)
        shown = _proven(credentials, self._check, _CLIENT, answered.th3)  # checks 2 and 3: certificate, signature
        self._answered = None
        self._opened = _ServerOpened(shown, answered, _hash(answered.th3, sealed), message)
        self.finish_digest = message_digest(message)
        return FinishOpened(shown.certificate, credentials.proof, shown.is_rotated)

    def proof_matches(self, root: RootKeys) -> bool:
        """Check 4: whether the FINISH taken proves that the client holds this root."""
        return self._opened is not None and self._opened.shown.proof_matches(root)

    def establish(self, root: RootKeys, *, anew: bool = False) -> Established:
        """Returns the session's keys, and drops every secret of the attempt.

        `root` are the keys of `FIRST_ROOT` after FINISH(FIRST), and those of the pair's root after FINISH(PROOF).

        Raises `AuthenticationError` where FINISH says anything else, or its proof does not hold, and `ValueError`
        where no FINISH was taken.
        """
        opened = self._opened
        if opened is None:
            raise ValueError("no FINISH was taken, or it was used already")
        said = opened.shown.credentials.proof.kind
        answered = opened.answered.kind
        if _FINISH_THAT_FITS.get(answered) is not said and not (anew and _is_anew(answered, said)):
            raise AuthenticationError(f"the client says {said.name} of the root after {answered.name}")
        if said is ProofKind.PROOF and not self.proof_matches(root):
            raise AuthenticationError("the client's proof of the root does not hold")
        self._opened = None
        secrets = opened.answered.secrets
        traffic = secrets.traffic(opened.th4, root)
        keys = SessionKeys(
            peer=self._peer,
            local_index=self._local_index,
            remote_index=opened.answered.remote_index,
            suite=secrets.suite,
            seal_key=traffic.server_to_client,
            open_key=traffic.client_to_server,
        )
        return Established(opened.message, keys, traffic.exporter, opened.shown.certificate)


@dataclass(frozen=True, slots=True)
class _ClientOpened:
    shown: _Shown
    secrets: _Secrets
    th3: bytes
    remote_index: int


@dataclass(frozen=True, slots=True)
class _Answered:
    secrets: _Secrets
    th3: bytes
    remote_index: int
    kind: ProofKind


@dataclass(frozen=True, slots=True)
class _ServerOpened:
    shown: _Shown
    answered: _Answered
    th4: bytes
    message: bytes


def _hash(*fields: bytes) -> bytes:
    return blake2b_256(*fields)


def _th1(network: str, client: str, server: str, hello: bytes) -> bytes:
    return _hash(_PROTOCOL, network.encode(), client.encode(), server.encode(), hello)


def _is_anew(answered: ProofKind, said: ProofKind) -> bool:
    """Whether the client lets go of a root that the server holds: only where both let collisions pass."""
    return answered is ProofKind.PROOF and said is ProofKind.FIRST


def _credentials(me: Party, role: _Role, th: bytes, kind: ProofKind, root: RootKeys | None) -> bytes:
    """Returns this side's sealed part, not yet sealed."""
    certificate_hash = _hash(me.certificate_der)
    signature = me.signer.sign(role.label, th, certificate_hash)
    proof = Proof(kind)
    if kind is ProofKind.PROOF:
        if root is None:
            raise ValueError("a proof without a root")
        proof = Proof(kind, root_proof(root, role.name, th, certificate_hash))
    rotations = tuple(Extension(ROTATION_EXTENSION, statement) for statement in me.rotations)
    return encode_credentials(Credentials(me.certificate_der, signature, proof, rotations))


def _proven(credentials: Credentials, check: CheckPeer, role: _Role, th: bytes) -> _Shown:
    """Returns what the other has shown once its certificate holds, and the certificate's key has signed `th`."""
    certificate, is_rotated = _checked(credentials, check)
    verify(certificate.public_key, role.label, credentials.signature, th, _hash(credentials.certificate_der))
    return _Shown(role, th, credentials, certificate, is_rotated)


def _checked(credentials: Credentials, check: CheckPeer) -> tuple[Certificate, bool]:
    """Returns the certificate, and whether it took a rotation to believe it."""
    der = credentials.certificate_der
    rotations = tuple(each.value for each in credentials.extensions if each.type == ROTATION_EXTENSION)
    try:
        return check(der), False
    except CertificateError:
        if not rotations:
            raise
    return check(der, rotations), True
