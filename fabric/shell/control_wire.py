"""What a command and the daemon say over the control socket: one JSON object a line, one answer a question.

    {"ask":"wait","peer":"web-1","path":"direct","timeout_s":30}
    {"answer":"done","peer":"web-1.home", ...}    or    {"answer":"failed","code":1,"why":"..."}

A connection may ask again after each answer. A question that waits is given up by closing the connection.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from fabric.errors import DecodeError

MAX_LINE_BYTES = 4 * 1024 * 1024
"""A status of some thousand peers; a question is never longer than `MAX_QUESTION_BYTES`."""
MAX_QUESTION_BYTES = 4096

Text = Annotated[str, msgspec.Meta(max_length=255)]


class Question(msgspec.Struct, frozen=True, tag_field="ask"):
    """Base of all questions."""


class AskStatus(Question, frozen=True, tag="status"):
    peer: Text | None = None


class AskAdd(Question, frozen=True, tag="add"):
    peer: Text
    fingerprint: Text | None = None


class AskRemove(Question, frozen=True, tag="remove"):
    peer: Text


class AskEnable(Question, frozen=True, tag="enable"):
    peer: Text


class AskDisable(Question, frozen=True, tag="disable"):
    peer: Text


class AskTrust(Question, frozen=True, tag="trust"):
    """What is known of every peer's key and of the state shared with it, also of peers that were removed."""


class AskReset(Question, frozen=True, tag="reset"):
    """Forget the root secret shared with a peer, and with `new_key` its pinned key as well."""

    peer: Text
    new_key: bool = False


class AskRotate(Question, frozen=True, tag="rotate"):
    """A new identity key; answered once the authority has certified it, or when `timeout_s` have passed."""

    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 30.0


class AskWait(Question, frozen=True, tag="wait"):
    """Answered when the peer is connected over such a path, or when `timeout_s` have passed."""

    peer: Text
    path: Literal["direct", "any"] = "any"
    timeout_s: Annotated[float, msgspec.Meta(ge=0, le=86_400 * 365)] = 60.0


class AskPing(Question, frozen=True, tag="ping"):
    """One exchange over the session."""

    peer: Text
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 2.0


class AskDoctor(Question, frozen=True, tag="doctor"):
    """What the network around here allows, which takes some seconds to measure; or why `peer` is reached as it is."""

    peer: Text | None = None


class AskWishes(Question, frozen=True, tag="wishes"):
    """Act on the wishes that wait in the state directory: for one that was stored while the daemon started."""


AnyQuestion = (
    AskStatus
    | AskAdd
    | AskRemove
    | AskEnable
    | AskDisable
    | AskTrust
    | AskReset
    | AskRotate
    | AskWait
    | AskPing
    | AskDoctor
    | AskWishes
)


class PathReport(msgspec.Struct, frozen=True):
    kind: str
    remote: str
    rtt_ms: float | None
    mtu: int


class EncounterReport(msgspec.Struct, frozen=True):
    """A handshake: when (RFC 3339 in UTC), and the address that it came from."""

    time: str
    remote: str


class AlarmReport(msgspec.Struct, frozen=True, kw_only=True):
    """A handshake that did not continue the shared state, as this end saw it or as the peer said (`seen`), and the last
    one that did: one of the two was with a copy."""

    at: EncounterReport
    seen: Literal["here", "there"]
    before: EncounterReport | None
    is_known_there: bool


class TrustReport(msgspec.Struct, frozen=True, kw_only=True):
    """`key` is "verified" where a fingerprint was pinned, "first-use" where the key is the one that was first seen, and
    "unmet" before. `entangled`: a root secret is shared. `removed`: no wish to meet it stands."""

    name: str
    key: Literal["verified", "first-use", "unmet"]
    fingerprint: str | None
    safety_number: str | None
    entangled: bool
    removed: bool
    alarm: AlarmReport | None


class PeerReport(msgspec.Struct, frozen=True, kw_only=True):
    """`verified` is true where a fingerprint was pinned before the first meeting; `last_seen_s` is seconds ago."""

    name: str
    state: str
    why: str
    path: PathReport | None
    cipher: str | None
    addresses: tuple[str, ...]
    mac: str | None
    verified: bool
    last_seen_s: float | None
    rx_bytes: int
    tx_bytes: int
    drops: dict[str, int]
    trust: TrustReport | None = None


class CertificateReport(msgspec.Struct, frozen=True):
    """`expires` is RFC 3339 in UTC."""

    expires: str
    expires_in_s: float


class EndpointReport(msgspec.Struct, frozen=True, kw_only=True):
    """`discovery_why` says why it is unreachable; `custody` who holds what opens the identity key."""

    name: str
    network: str
    addresses: tuple[str, ...]
    mac: str
    device: str
    cipher: str
    certificate: CertificateReport
    discovery: Literal["connected", "unreachable"]
    discovery_why: str
    fingerprint: str
    custody: str
    lane: str
    cipher_provider: str
    port: int
    mtu: int
    underlay: tuple[str, ...]
    drops: dict[str, int]
    version: str
    uptime_s: float


class StatusReport(msgspec.Struct, frozen=True):
    """What `fabric status --json` prints."""

    endpoint: EndpointReport
    peers: tuple[PeerReport, ...]


Scalar = bool | int | float | str | None
Figures = dict[str, Scalar | tuple[dict[str, Scalar], ...]]


class CheckReport(msgspec.Struct, frozen=True):
    """One thing that the doctor looked at. `figures` stand beside the rest in what `fabric doctor --json` prints."""

    name: str
    verdict: Literal["ok", "limited", "failed", "unknown"]
    text: str
    figures: Figures


class NatReport(msgspec.Struct, frozen=True):
    """In the words of RFC 4787."""

    mapping: str
    filtering: str
    stride: int
    carries_udp: bool


class CandidateReport(msgspec.Struct, frozen=True):
    address: str
    transport: str
    kind: str


class AttemptReport(msgspec.Struct, frozen=True, kw_only=True):
    """One address of a peer. Times in seconds ago; None for never."""

    remote: str
    transport: str
    candidate: str
    kind: str
    outcome: str
    tries: int
    first_tried_s: float | None
    last_tried_s: float | None
    last_answer_s: float | None
    rtt_ms: float | None
    mtu: int | None
    why: str


class RelayReport(msgspec.Struct, frozen=True):
    address: str
    transport: str
    channels: int
    rtt_ms: float | None
    why: str


class HereReport(msgspec.Struct, frozen=True, kw_only=True):
    """What this endpoint tells its peers of itself, and what it has of relays."""

    port: int
    nat: NatReport
    candidates: tuple[CandidateReport, ...]
    relays: tuple[RelayReport, ...]


class PeerExamination(msgspec.Struct, frozen=True, kw_only=True):
    """What `fabric doctor PEER --json` prints. `fixes` are ways to a better path, each enough by itself; `their_nat`
    is what the peer's offer tells, None before there is one; `guesses` are the probes spent on guessing ports."""

    peer: PeerReport
    why: str
    fixes: tuple[str, ...]
    attempts: tuple[AttemptReport, ...]
    here: HereReport
    their_nat: NatReport | None
    guesses: int


class Answer(msgspec.Struct, frozen=True, tag_field="answer"):
    """Base of all answers."""


class Done(Answer, frozen=True, tag="done"):
    """It is so. `peer` is the full name, where one was asked about."""

    peer: str | None = None


class Failed(Answer, frozen=True, tag="failed"):
    """`code` is the exit code for the command; `why` one sentence."""

    code: int
    why: str


class Status(Answer, frozen=True, tag="status"):
    report: StatusReport


class Rotated(Answer, frozen=True, tag="rotated"):
    """The identity key is another one now."""

    fingerprint: str


class Trusts(Answer, frozen=True, tag="trust"):
    peers: tuple[TrustReport, ...]


class Connected(Answer, frozen=True, tag="connected"):
    """The peer is connected, now or since it was waited for."""

    peer: str
    path: PathReport | None


class Pinged(Answer, frozen=True, tag="pinged"):
    peer: str
    rtt_ms: float
    kind: str
    remote: str


class Examined(Answer, frozen=True, tag="examined"):
    endpoint: EndpointReport
    checks: tuple[CheckReport, ...]


class PeerExamined(Answer, frozen=True, tag="peer-examined"):
    examination: PeerExamination


AnyAnswer = Done | Failed | Status | Trusts | Rotated | Connected | Pinged | Examined | PeerExamined

_questions: msgspec.json.Decoder[AnyQuestion] = msgspec.json.Decoder(AnyQuestion)
_answers: msgspec.json.Decoder[AnyAnswer] = msgspec.json.Decoder(AnyAnswer)


def encode_line(said: AnyQuestion | AnyAnswer) -> bytes:
    return msgspec.json.encode(said) + b"\n"


def decode_question(line: bytes) -> AnyQuestion:
    """Raises `DecodeError`."""
    try:
        return _questions.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not a question: {error}") from None


def decode_answer(line: bytes) -> AnyAnswer:
    """Raises `DecodeError`."""
    try:
        return _answers.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"not an answer: {error}") from None
