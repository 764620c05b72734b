"""A pair as either end of a negotiation sees it: who the two are, what is held of their root, and when it collides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from fabric.core.entanglement import Encounter, Entangle, Entangled, Proceed, alarmed, resumable
from fabric.core.handshake import CheckPeer, ClientHandshake, Party, ServerHandshake
from fabric.core.machine import Calendar, Draw, Instant
from fabric.core.negotiation import Collided, Rebuffed
from fabric.core.resume import ClientResume, Continued, answer_resume
from fabric.crypto.schedule import RootKeys, root_keys
from fabric.errors import AuthenticationError, CertificateError
from fabric.identity.certificate import Certificate
from fabric.wire.address import Address
from fabric.wire.handshake import ProofKind


class Holder(Protocol):
    """Keeps what this end holds of the pair. A change is durable before any message that is sent behind it leaves."""

    @property
    def entangled(self) -> Entangled: ...

    def hold(self, entangled: Entangled) -> None: ...


@dataclass(frozen=True, slots=True)
class Steps:
    """Who takes the cryptographic steps of an attempt, on either side: a seam for `tests/explore`, and for it alone."""

    client: Callable[[Party, str, CheckPeer, int, int, Draw], ClientHandshake] = ClientHandshake
    server: Callable[[Party, str, CheckPeer, int, Draw], ServerHandshake] = ServerHandshake
    resume: Callable[[Party, str, bytes, int, int, Draw], ClientResume] = ClientResume
    answer_resume: Callable[[Party, str, bytes, bytes, int, Draw], tuple[bytes, Continued]] = answer_resume


PROVEN_STEPS = Steps()


@dataclass(frozen=True, slots=True)
class Pair:
    """`allocate_index` returns a session index unused on this node; `party` and `check` reflect what is current.

    `remembered` is the certificate that the peer showed last, in DER, for sessions that show none.
    """

    party: Callable[[], Party]
    peer: str
    check: CheckPeer
    calendar: Calendar
    draw: Draw
    allocate_index: Callable[[], int]
    holder: Holder
    mode: Entangle = Entangle.ENFORCE
    steps: Steps = PROVEN_STEPS
    remembered: Callable[[], bytes | None] = lambda: None

    @property
    def is_client(self) -> bool:
        """Whether this end has the lower name, and begins."""
        return self.party().name < self.peer

    @property
    def held(self) -> Entangled:
        return self.holder.entangled

    def encounter(self, source: Address, now: Instant) -> Encounter:
        return Encounter(self.calendar.unix(now), str(source))

    def remembered_certificate(self) -> Certificate | None:
        """Returns the peer's last certificate, where it still holds: life, revocation and key are looked at again."""
        der = self.remembered()
        try:
            return self.check(der) if der is not None else None
        except CertificateError:
            return None

    def continuable(self) -> tuple[bytes, Certificate]:
        """Returns the root that a ticket may continue, and whose session that will be.

        Raises `AuthenticationError` where there is none, or nobody is remembered.
        """
        root, certificate = resumable(self.held), self.remembered_certificate()
        if root is None or certificate is None:
            raise AuthenticationError("there is nothing to continue")
        return root, certificate

    def go_on(self, verdict: Proceed, source: Address, *, is_rotated: bool, now: Instant) -> RootKeys:
        """Returns the keys of the root that a handshake goes on from; a collision that is let pass is told.

        A new key, signed by the one before, is taken only together with a proof of the root that both keys share:
        raises `CertificateError` where `is_rotated` and there is none.
        """
        if is_rotated and verdict.kind is not ProofKind.PROOF:
            raise CertificateError(
                f"{self.peer} has a new key, and no state is shared that vouches for it: compare fingerprints, then "
                f"run `fabric trust reset {self.peer} --new-key`"
            )
        if verdict.is_forced:
            # The first alarm stays until a person has seen to it; where the pair goes on all the same, each is another.
            self._latch(msgspec.structs.replace(self.held, alarm=None), source, here=True, now=now)
        return root_keys(verdict.root)

    def collide(self, source: Address, *, here: bool, now: Instant) -> Collided | Rebuffed:
        """No session comes of it. Who holds a root is alarmed, and all that stands of the pair is to end.

        `here`: this end has seen it, else the other end said so.
        """
        self._latch(self.held, source, here=here, now=now)
        return Collided() if self.held.alarm is not None else Rebuffed()

    def _latch(self, held: Entangled, source: Address, *, here: bool, now: Instant) -> None:
        if self.mode is not Entangle.OFF:
            self.holder.hold(alarmed(held, self.encounter(source, now), here=here, is_known=not here))
