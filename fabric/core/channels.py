"""The channels to the discovery service that stand at once, over different addresses of it.

What is said is said on each of them, and what comes on any of them counts: all of it is signed, dated or idempotent,
so a second copy changes nothing, and the loss of one channel loses no word.
"""

from __future__ import annotations

from collections.abc import Iterator

from fabric.core.identity import Identity
from fabric.core.machine import Draw
from fabric.core.rendezvous import Channel
from fabric.wire.rendezvous import ToEndpoint, ToService


class Channels:
    """A channel has the number that the shell gave to its connection, and no other connection ever gets."""

    def __init__(self, identity: Identity, draw: Draw) -> None:
        self._identity = identity
        self._draw = draw
        self._channels: dict[int, Channel] = {}

    @property
    def is_up(self) -> bool:
        """Whether the service has proven itself on any of them."""
        return any(channel.is_up for channel in self._channels.values())

    def handle_connected(self, link: int, tls_certificate: bytes) -> None:
        channel = self._channels[link] = Channel(self._identity, self._draw)
        channel.handle_connected(tls_certificate)

    def handle_lost(self, link: int) -> bool:
        """Returns whether the service is out of reach now, and was not before."""
        was_up = self.is_up
        self._channels.pop(link, None)
        return was_up and not self.is_up

    def knows(self, link: int) -> bool:
        return link in self._channels

    def handle_message_untrusted(self, link: int, message: ToEndpoint) -> ToEndpoint | None:
        """Returns what the caller is to act on, or None. Raises `AuthenticationError`: close the channel."""
        return self._channels[link].handle_message_untrusted(message)

    def say(self, message: ToService) -> None:
        """Queues a message on each channel that is up; without one it is not kept."""
        for channel in self._channels.values():
            channel.say(message)

    def poll_message(self) -> tuple[int, ToService] | None:
        return next(self._waiting(), None)

    def _waiting(self) -> Iterator[tuple[int, ToService]]:
        for link, channel in self._channels.items():
            message = channel.poll_message()
            if message is not None:
                yield link, message
