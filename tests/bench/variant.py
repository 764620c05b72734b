"""How a run differs from the usual one, and what its files and its block in the page are called because of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.bench.competitors import COMPETITORS, with_cipher
from tests.bench.fabric_tunnel import CIPHER, LANE, tunnel
from tests.bench.tunnels import Tunnel

PUBLISHED = Path("docs/measurements")
PAGE = Path("docs/performance.md")
SCRATCH = Path("build/bench")


@dataclass(frozen=True, slots=True)
class Variant:
    """`card`: the cable takes no UDP super-datagrams. `cipher` and `lane`: None for what each takes by itself."""

    card: bool = False
    cipher: str | None = None
    lane: str | None = None

    @property
    def words(self) -> list[str]:
        return [word for word in ("card" if self.card else None, self.cipher, self.lane) if word is not None]

    @property
    def stem(self) -> str:
        """What its files are called, without the ending."""
        return "-".join(["bench", *self.words])

    @property
    def marks(self) -> tuple[str, str]:
        """Where its block in the page begins and ends."""
        name = " ".join(["figures", *self.words])
        return f"<!-- {name} -->", f"<!-- end of {name} -->"

    @property
    def environment(self) -> dict[str, str]:
        """The settings of `fabricd` that it takes."""
        wanted = ((CIPHER, self.cipher), (LANE, self.lane))
        return {setting: value for setting, value in wanted if value is not None}

    def tunnels(self) -> tuple[Tunnel, ...]:
        """Ours first; of the others those that can use the cipher that is asked for."""
        return (tunnel(self.environment), *(with_cipher(self.cipher) if self.cipher else COMPETITORS))

    def sentence(self) -> str:
        """What is special about it, for the line above the tables."""
        return cable_sentence(self.card) + (f"; the lane is {self.lane}" if self.lane else "")


def cable_sentence(card: bool) -> str:
    return f"the cable {'cuts UDP super-datagrams, as a card does' if card else 'takes UDP super-datagrams whole'}"
