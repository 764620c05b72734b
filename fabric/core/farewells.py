"""The wishes that have ended here: the service is still to be told of some, and who was met is remembered.

A mark stays on stable storage, and the service is told at every meeting, until it has noted it: else a peer that was
removed while the service was out of reach would go on being introduced. The key of a peer that was met, and the root
shared with it, stay for good: who comes back under its name later must be the same.
"""

from __future__ import annotations

from collections import deque

import msgspec

from fabric.core.channels import Channels
from fabric.core.events import Event, ForgetRecord, StoreRecord
from fabric.core.records import PeerRecord
from fabric.wire.rendezvous import WithdrawIntent


class Farewells:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._marks: dict[str, PeerRecord] = {}
        self._events: deque[Event] = deque()

    @property
    def remembered(self) -> list[PeerRecord]:
        """What is known of the peers that were removed and had been met."""
        return [mark for _, mark in sorted(self._marks.items()) if mark.is_met]

    def restore(self, mark: PeerRecord) -> None:
        """A mark was found on stable storage."""
        self._marks[mark.name] = mark

    def say(self, record: PeerRecord) -> None:
        """The peer of this record was removed."""
        mark = self._marks[record.name] = record.farewell(is_told=False)
        self._events.append(StoreRecord(mark))
        self._channels.say(WithdrawIntent(mark.name))

    def say_all(self) -> None:
        """The service is in reach again."""
        for _, mark in sorted(self._marks.items()):
            if mark.removed:
                self._channels.say(WithdrawIntent(mark.name))

    def take_back(self, peer: str) -> PeerRecord | None:
        """The peer is wished for again: its record takes the place of the mark, which is returned."""
        return self._marks.pop(peer, None)

    def forget_trust(self, peer: str, *, key: bool) -> bool:
        """A person takes back the root and any alarm, and with `key` who the peer was. False where there is nothing."""
        mark = self._marks.get(peer)
        if mark is None or not mark.is_met:
            return False
        kept = PeerRecord(name=peer, enabled=False, removed=mark.removed, past=mark.past)
        if not key:
            kept = msgspec.structs.replace(kept, pinned_key=mark.pinned_key, pinned_serial=mark.pinned_serial)
        self._keep(kept)
        return True

    def handle_noted(self, peer: str) -> None:
        """The service knows."""
        mark = self._marks.get(peer)
        if mark is not None and mark.removed:
            self._keep(mark.farewell(is_told=True))

    def _keep(self, mark: PeerRecord) -> None:
        if mark.is_met or mark.removed:
            self._marks[mark.name] = mark
            self._events.append(StoreRecord(mark))
        else:
            del self._marks[mark.name]
            self._events.append(ForgetRecord(mark.name))

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None
