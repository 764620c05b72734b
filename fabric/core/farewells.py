"""The wishes that have ended here, and that the service is still to be told of.

A mark stays on stable storage, and the service is told at every meeting, until it has noted it: else a peer that was
removed while the service was out of reach would go on being introduced.
"""

from __future__ import annotations

from collections import deque

from fabric.core.channels import Channels
from fabric.core.events import Event, ForgetRecord, StoreRecord
from fabric.core.records import PeerRecord
from fabric.wire.rendezvous import WithdrawIntent


class Farewells:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._names: set[str] = set()
        self._events: deque[Event] = deque()

    def restore(self, peer: str) -> None:
        """A mark was found on stable storage."""
        self._names.add(peer)

    def say(self, peer: str) -> None:
        self._names.add(peer)
        self._events.append(StoreRecord(PeerRecord(name=peer, enabled=False, removed=True)))
        self._channels.say(WithdrawIntent(peer))

    def say_all(self) -> None:
        """The service is in reach again."""
        for peer in sorted(self._names):
            self.say(peer)

    def take_back(self, peer: str) -> None:
        """The peer is wished for again: its record takes the place of the mark."""
        self._names.discard(peer)

    def handle_noted(self, peer: str) -> None:
        """The service knows."""
        if peer in self._names:
            self._names.discard(peer)
            self._events.append(ForgetRecord(peer))

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None
