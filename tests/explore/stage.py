"""What the ends of a walk stand on: who they are, how they are set up, what passes between them and may strike them."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.entanglement import Entangle
from fabric.core.gate import Freshness
from fabric.core.machine import Draw
from fabric.core.pace import PacePerSource
from fabric.core.pair import Steps
from fabric.wire.address import Address
from tests.core.town import DAY_S, Town
from tests.explore import symbolic

FAR_S = 1000.0
"""What is due later than this is not due at all: nothing but the end of a session, which is an act of its own."""

SESSION_S = 4000.0
CLIENT, SERVER = "a.home", "b.home"
_LONG_S = 3000 * DAY_S

town = Town()
for _name in (CLIENT, SERVER):
    town.identity(_name, life_s=_LONG_S)


class BreachError(AssertionError):
    """A promise that was broken; the sentence says which."""


class CrashError(Exception):
    """The power fails now."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Something on its way: a handshake message, a record under a key, or the call of a server."""

    message: bytes = b""
    index: int | None = None
    key: bytes = b""
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Blow:
    """When the power fails: at the `at`-th write of this step, once it is on the disk or just before."""

    at: int
    is_stored: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """How the ends of a walk are set up, and who takes the cryptographic steps for them. `entangle`: the client's
    setting and the server's."""

    entangle: tuple[Entangle, Entangle] = (Entangle.ENFORCE, Entangle.ENFORCE)
    has_tickets: bool = True
    steps: Steps = symbolic.SYMBOLIC_STEPS
    draw: Draw = symbolic.draw


@dataclass(slots=True)
class PrimaryPath:
    """As much of a path as handshakes look at."""

    address: Address
    rtt_s: float | None = 0.01


class Credulous(Freshness):
    """Takes every repetition for new: the rules have to hold without the gate's help."""

    def accept(self, unix_ms: int, random: bytes, now_unix: float, sender: str | None = None) -> bool:
        return True


class Unpaced(PacePerSource):
    """How often it may be tried is a matter of time, and no walk is to wait for that."""

    def __init__(self) -> None:
        super().__init__(0.0, 1, 1)

    def try_take(self, source: str, now: float) -> bool:
        return True
