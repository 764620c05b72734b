"""Who else takes part in a walk, and what may happen to the ends beside loss, duplication, reordering and crashes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fabric.core.entanglement import Entangle


@dataclass(frozen=True, slots=True)
class Mode:
    """`copies`: whose disk may be copied, at any time, once each time that it is named (0 the client's, 1 the
    server's); a copy starts at any time, or with `restores` is put back under the end it was taken from. `key_alone`:
    whose key somebody has who has nothing else of it. `lies`: whose key a liar has, who says whatever may be said, with
    the roots of a disk that `copies` names, and those that come of it. `resets`: a person may reset either end, as
    often as they like. `has_tickets`: a root may be continued in one round trip. `counts_mute`: a copy is used also
    where it took a ticket, and is never heard again: what no end can know of. `room`: letters on their way.
    `begins_copied`: the walk begins where the pair has met, and all copies of it have been made and run. `entangle`:
    the setting of the client, and of the server.
    """

    name: str
    copies: tuple[int, ...] = ()
    restores: bool = False
    key_alone: int | None = None
    lies: int | None = None
    resets: bool = False
    talks: bool = False
    has_tickets: bool = False
    counts_mute: bool = False
    room: int = 1
    begins_copied: bool = False
    entangle: tuple[Entangle, Entangle] = (Entangle.ENFORCE, Entangle.ENFORCE)

    @property
    def is_honest(self) -> bool:
        return not self.copies and self.key_alone is None and self.lies is None and not self.resets

    @property
    def is_contested(self) -> bool:
        """Whether there are two of one end."""
        return not self.restores and (self.copies, self.key_alone, self.lies) != ((), None, None)

    @property
    def enforces(self) -> tuple[bool, bool]:
        """Whether the client keeps a pair that collided apart, and whether the server does."""
        return self.entangle[0] is Entangle.ENFORCE, self.entangle[1] is Entangle.ENFORCE

    @property
    def alerts(self) -> tuple[bool, bool]:
        return self.entangle[0] is Entangle.ALERT, self.entangle[1] is Entangle.ALERT


ONE_COPY = (
    Mode("no adversary"),
    Mode("the client is copied", copies=(0,)),
    Mode("the server is copied", copies=(1,)),
    Mode("the client is rolled back", copies=(0,), restores=True),
    Mode("the server is rolled back", copies=(1,), restores=True),
    Mode("the client's key alone", key_alone=0),
    Mode("the server's key alone", key_alone=1),
    Mode("a liar has the client's key", lies=0),
    Mode("a liar has the client's key and disk", lies=0, copies=(0,)),
    Mode("a liar has the server's key", lies=1),
    Mode("a liar has the server's key and disk", lies=1, copies=(1,)),
    Mode("a person resets", resets=True),
    Mode("a person resets, and the client is copied", resets=True, copies=(0,)),
)

TWO_COPIES = (
    Mode("two copies of the client", copies=(0, 0)),
    Mode("two copies of the server", copies=(1, 1)),
    Mode("a copy of each", copies=(0, 1)),
    Mode("two copies of the client, from the start", copies=(0, 0), begins_copied=True),
    Mode("two copies of the server, from the start", copies=(1, 1), begins_copied=True),
    Mode("a copy of each, from the start", copies=(0, 1), begins_copied=True),
    Mode("a person resets, and a copy of each, from the start", resets=True, copies=(0, 1), begins_copied=True),
)

SETTINGS = (
    (Entangle.ENFORCE, Entangle.ALERT),
    (Entangle.ENFORCE, Entangle.OFF),
    (Entangle.ALERT, Entangle.ENFORCE),
    (Entangle.OFF, Entangle.ENFORCE),
)

MIXED = tuple(
    replace(mode, name=f"{mode.name} ({client.value}, {server.value})", entangle=(client, server))
    for client, server in SETTINGS
    for mode in ONE_COPY
)
"""The client's setting, and the server's: one of them enforces."""

MODES = (*ONE_COPY, *TWO_COPIES, *MIXED)
