"""The root secret of a pair: what one end holds of it, and what it makes of the other end's word.

Every handshake moves the root R on, so that state and not the possession of a key is what counts: a copy that was
used, or an original after its copy was, holds a root that the other end does not, and that is a *collision*.

    client    {} --none--> {R0} unconfirmed --record--> {R0} --proof by B--> {B, R'} --first record--> {R'} ...
    server    -  --first-> R0                            --proof--> R' ...
    either    anything else, while a root is held --> alarm, until a person resets it

The rules are those of protocol.md, section 6, where their order was explored; `tests/explore` walks them here. Each
value that a rule makes replaces the stored one as a whole, and is on stable storage before what depends on it leaves.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from fabric.crypto.schedule import FIRST_ROOT
from fabric.wire.handshake import ProofKind


class Entangle(enum.Enum):
    """What a collision does here. Proofs are always sent; what the other end makes of them is its own matter."""

    ENFORCE = "enforce"
    """The pair is quarantined until a person resets both ends."""
    ALERT = "alert"
    """It is told, and the pair begins anew."""
    OFF = "off"
    """The pair begins anew, and no session ends for it."""


class Encounter(msgspec.Struct, frozen=True):
    """A handshake with the peer: when (unix seconds), and the address that it came from."""

    unix: float
    remote: str


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """A collision. `here`: this end saw it, else the other end said so. `before`: the last handshake that fitted.

    Either of the two encounters was with the copy. `is_known`: the other end has said that it knows.
    """

    at: Encounter
    here: bool
    before: Encounter | None = None
    is_known: bool = False


class Entangled(msgspec.Struct, frozen=True, kw_only=True):
    """What an end holds of a pair. Server: at most one root. Client: two, while it does not know which one counts."""

    roots: tuple[bytes, ...] = ()
    confirmed: bool = False
    """Client only: the other end is known to have held one of the roots."""
    alarm: Alarm | None = None
    met: Encounter | None = None

    def __repr__(self) -> str:
        return f"Entangled(roots={len(self.roots)}, confirmed={self.confirmed}, alarm={self.alarm})"


UNMET = Entangled()


@dataclass(frozen=True, slots=True)
class Proceed:
    """The handshake goes on, with FINISH(`kind`), and from `root`. `is_forced` where a collision was let pass."""

    kind: ProofKind
    root: bytes = field(repr=False)
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """No session. A client still sends FINISH(`kind`), for the other end must know."""

    kind: ProofKind


@dataclass(frozen=True, slots=True)
class Known:
    """Both ends know of the alarm: nothing is left to say."""


Matches = Callable[[bytes], bool]
"""Whether the proof that the other end gave was made with this root."""


def judge_answer(held: Entangled, said: ProofKind, matches: Matches, mode: Entangle) -> Proceed | Refuse | Known:
    """The client's rule 3: what follows from the word of a server whose identity was proven."""
    if held.alarm is not None and mode is Entangle.ENFORCE:
        return Known() if said is ProofKind.ALARM else Refuse(ProofKind.ALARM)
    if said is ProofKind.PROOF:
        for root in held.roots:
            if matches(root):
                return Proceed(ProofKind.PROOF, root)
    if said is ProofKind.NONE and not (held.roots and held.confirmed):
        return Proceed(ProofKind.FIRST, FIRST_ROOT)
    if said is not ProofKind.ALARM and mode is not Entangle.ENFORCE:
        return Proceed(ProofKind.FIRST, FIRST_ROOT, is_forced=True)
    return Refuse(ProofKind.MISMATCH)


def speak(held: Entangled, mode: Entangle) -> ProofKind:
    """The server's rule 2: what an ANSWER says of the root."""
    if held.alarm is not None and mode is Entangle.ENFORCE:
        return ProofKind.ALARM
    return ProofKind.PROOF if held.roots else ProofKind.NONE


def judge_finish(held: Entangled, said: ProofKind, matches: Matches, mode: Entangle) -> Proceed | Refuse:
    """The server's rule 4: what follows from the word of a client whose identity was proven."""
    is_alarmed = held.alarm is not None and mode is Entangle.ENFORCE
    if not is_alarmed:
        if said is ProofKind.PROOF and held.roots and matches(held.roots[0]):
            return Proceed(ProofKind.PROOF, held.roots[0])
        if said is ProofKind.FIRST and not held.roots:
            return Proceed(ProofKind.FIRST, FIRST_ROOT)
        if said is ProofKind.FIRST and mode is not Entangle.ENFORCE:
            return Proceed(ProofKind.FIRST, FIRST_ROOT, is_forced=True)
    return Refuse(said)


def resumable(held: Entangled) -> bytes | None:
    """Returns the root that both ends hold, as far as is known here: the one that a ticket may continue."""
    if held.alarm is not None or len(held.roots) != 1:
        return None
    return held.roots[0]


def moved_as_client(held: Entangled, verdict: Proceed, following: bytes) -> Entangled:
    """Rules 3a and 3b: before FINISH leaves. The server may or may not get it, so both roots are kept."""
    if verdict.kind is ProofKind.PROOF:
        return msgspec.structs.replace(held, roots=(verdict.root, following), confirmed=True)
    return msgspec.structs.replace(held, roots=(following,), confirmed=False)


def confirmed_as_client(held: Entangled, met: Encounter | None) -> Entangled:
    """Rule 5: the first record has opened, so the server has moved on. Before the session is live."""
    return msgspec.structs.replace(held, roots=held.roots[-1:], confirmed=True, met=met or held.met)


def moved_as_server(held: Entangled, following: bytes, met: Encounter) -> Entangled:
    """Rule 4: before the session is live."""
    return msgspec.structs.replace(held, roots=(following,), met=met)


def alarmed(held: Entangled, at: Encounter, *, here: bool, is_known: bool) -> Entangled:
    """Rules 3c, 4 and 7. An end that holds no root latches nothing (rule 8), and the first alarm stays."""
    if held.alarm is not None:
        return _known(held) if is_known else held
    if not held.roots:
        return held
    return msgspec.structs.replace(held, alarm=Alarm(at=at, here=here, before=held.met, is_known=is_known))


def _known(held: Entangled) -> Entangled:
    alarm = held.alarm
    if alarm is None or alarm.is_known:
        return held
    return msgspec.structs.replace(held, alarm=msgspec.structs.replace(alarm, is_known=True))
