"""The TLS connection to one relay: whether it is wanted, whether it stands, and when the relay is called over it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from fabric.core.events import RelayLinkUnwanted, RelayLinkWanted
from fabric.core.machine import NEVER, Instant
from fabric.wire.address import Address
from fabric.wire.rendezvous import RelayPlace

RELEASE_S = 60.0
"""UDP that has come back may go again: the TLS connection waits so long."""
OPEN_RETRY_S = 1.0
OPEN_TRIES = 3
"""A fresh TLS connection over which the relay never answers is opened anew."""
ANEW_PAUSE_S = 5.0
ANEW_LIMIT_S = 300.0
LASTING_S = 600.0
"""Pauses between such connections, from the second on: each time twice as long, for a handshake isn't cheap."""


@dataclass(frozen=True, slots=True)
class ChannelsChanged:
    """`Relays.channels` of this peer are others now."""

    peer: str


StationEvent = RelayLinkWanted | RelayLinkUnwanted | ChannelsChanged


class _State(enum.Enum):
    UNWANTED = "unwanted"
    WANTED = "wanted"
    UP = "up"


class TlsLink:
    """`address` is its name here, and stays while the connection is wanted; None where the relay has no TLS."""

    def __init__(self, place: RelayPlace, announce: Callable[[StationEvent], None]) -> None:
        self._place = place
        self._announce = announce
        self._state = _State.UNWANTED
        self._tries = 0
        self._anew_s = 0.0
        self._not_before: Instant = -NEVER
        self._wanted_at: Instant = -NEVER
        self.address: Address | None = None
        self.open_at: Instant = NEVER
        self.release_at: Instant = NEVER
        self.want_at: Instant = NEVER

    def next_timeout(self) -> Instant:
        return min(self.open_at, self.release_at, self.want_at)

    def handle_address(self, address: Address | None) -> None:
        if self._state is _State.UNWANTED:
            self.address = address

    def handle(self, *, up: bool) -> bool:
        """The connection stands, or no longer. Returns False where it is not wanted any more."""
        if self._state is _State.UNWANTED:
            return False
        self._state = _State.UP if up else _State.WANTED
        self.stop_opening()
        return True

    def want(self, now: Instant) -> None:
        """At once, unless one was opened in vain just now."""
        self.want_at = NEVER
        if self._state is not _State.UNWANTED or self.address is None:
            return
        if now < self._not_before:
            self.want_at = self._not_before
            return
        self._state = _State.WANTED
        self._wanted_at = now
        self._announce(RelayLinkWanted(self._place, self.address))

    def want_anew(self, now: Instant) -> None:
        """The last one was in vain, or is so now."""
        if now - self._wanted_at >= LASTING_S:
            self.forgive()
        self._not_before = now + self._anew_s
        self._anew_s = min(max(ANEW_PAUSE_S, 2 * self._anew_s), ANEW_LIMIT_S)
        self.want(now)

    def forgive(self) -> None:
        """What was in vain may have been so for a reason that is gone."""
        self._anew_s = 0.0
        self._not_before = -NEVER

    def plan_release(self, now: Instant) -> None:
        """Another way is in use."""
        self.release_at = NEVER if self._state is _State.UNWANTED else now + RELEASE_S

    def keep(self) -> None:
        """The other way is lost."""
        self.release_at = NEVER

    def release(self) -> None:
        self.keep()
        self.want_at = NEVER
        self.stop_opening()
        if self._state is not _State.UNWANTED and self.address is not None:
            self._state = _State.UNWANTED
            self._announce(RelayLinkUnwanted(self.address))

    # calling the relay over it

    def begin_opening(self, at: Instant) -> None:
        """Where the connection stands; does nothing where a call is planned already."""
        if self._state is _State.UP and self.open_at == NEVER:
            self.open_at = at
            self._tries = 0

    def stop_opening(self) -> None:
        self.open_at = NEVER

    def handle_open_due(self, now: Instant) -> bool:
        """Returns whether to call now; False where the relay was called in vain."""
        if self._tries == OPEN_TRIES:
            return False
        self._tries += 1
        self.open_at = now + OPEN_RETRY_S
        return True
