"""The sessions of one peer: which one seals, which ones still open, and when each must end.

installed --first record opened (client) | FINISH accepted (server)--> live --replaced--> straggling --10 s--> wiped
    |                                                                    | certificate's or session's end
    +------------------------ newer attempt ---------------------------->+--> wiped
"""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.machine import Instant
from fabric.core.settings import Settings
from fabric.core.talk import Talk
from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Lane, SessionKeys

IDLE_FACTOR = 2.5
"""A key that seals no frame is renewed so much more rarely, and lives so much longer: a handshake costs as many bytes
as four minutes of keeping a path open. The first frame after such a pause renews it at once (as in WireGuard, whose
idle sessions are not renewed at all)."""


@dataclass(slots=True)
class Session:
    """`started` is when its keys were made; `ends` is the last instant of its life, whatever happens; `used` is when
    the first frame was sealed with them here.

    `is_heard` once the peer has sealed a record under it: from then on it seals nothing under an older one.
    """

    local_index: int
    suite: Suite
    started: Instant
    ends: Instant
    highest_counter: int = 0
    is_heard: bool = False
    used: Instant | None = None


class Sessions:
    """Steers the lane so that at any time at most one session seals, one waits, and replaced ones only open."""

    def __init__(self, lane: Lane, settings: Settings) -> None:
        self._lane = lane
        self._settings = settings
        self._straggling: dict[int, Instant] = {}
        self.live: Session | None = None
        self.waiting: Session | None = None
        self._talk = Talk()

    def install(self, keys: SessionKeys, *, awaiting: bool, ends: Instant, now: Instant) -> None:
        """The end of the peer's certificate is `ends`; the settings' own bound applies as well."""
        self._drop_waiting()
        self._lane.install(keys, awaiting=awaiting)
        session = Session(
            keys.local_index, keys.suite, now, min(ends, now + IDLE_FACTOR * self._settings.session_life_s)
        )
        self.waiting = session
        if not awaiting:
            self.confirm(keys.local_index, now)

    def abandon(self, local_index: int) -> None:
        """Wipes the keys of a session that still awaits its first record."""
        if self.awaits(local_index):
            self._drop_waiting()

    def awaits(self, local_index: int) -> bool:
        """Whether this session is live once its first record has opened."""
        return self.waiting is not None and self.waiting.local_index == local_index

    def confirm(self, local_index: int, now: Instant) -> bool:
        """The waiting session is live from now on. False where it is not that one."""
        waiting = self.waiting
        if waiting is None or waiting.local_index != local_index:
            return False
        if self.live is not None:
            self._straggling[self.live.local_index] = now + self._settings.straggler_s
        self.live, self.waiting = waiting, None
        self._lane.promote(local_index)
        return True

    def holds(self, local_index: int) -> bool:
        """Whether records of this session still count."""
        return any(s is not None and s.local_index == local_index for s in (self.live, self.waiting)) or (
            local_index in self._straggling
        )

    def is_rekey_due(self, now: Instant, margin_s: float = 0.0) -> bool:
        live = self.live
        if live is None:
            return False
        patience = 1.0 if live.used is not None else IDLE_FACTOR
        old = now >= live.started + patience * self._settings.rekey_after_s + margin_s
        return old or live.highest_counter >= self._settings.rekey_after_records

    def note_used(self, local_index: int, records: int, now: Instant) -> None:
        """So many records with frames were sealed under this session; an idle host's chatter makes it no used one."""
        live = self.live
        if not self._talk.note(records, now):
            return
        if live is not None and live.local_index == local_index and live.used is None:
            live.used = now
            live.ends = min(live.ends, now + self._settings.session_life_s)

    def bound(self, ends: Instant) -> None:
        """The peer's certificate ends at `ends`: no session outlives it."""
        for session in (self.live, self.waiting):
            if session is not None:
                session.ends = min(session.ends, ends)

    def end(self) -> None:
        """Wipes every key of this peer."""
        self._drop_waiting()
        for index in self._straggling:
            self._lane.retire(index)
        self._straggling.clear()
        if self.live is not None:
            self._lane.retire(self.live.local_index)
            self.live = None

    def handle_timeout(self, now: Instant) -> bool:
        """Returns True where the live session has just ended of old age."""
        for index in [i for i, at in self._straggling.items() if at <= now]:
            del self._straggling[index]
            self._lane.retire(index)
        if self.waiting is not None and self.waiting.ends <= now:
            self._drop_waiting()
        if self.live is not None and self.live.ends <= now:
            self._lane.retire(self.live.local_index)
            self.live = None
            return True
        return False

    def next_timeout(self) -> Instant | None:
        ends = [session.ends for session in (self.live, self.waiting) if session is not None]
        return min([*ends, *self._straggling.values()], default=None)

    def _drop_waiting(self) -> None:
        if self.waiting is not None:
            self._lane.retire(self.waiting.local_index)
            self.waiting = None
