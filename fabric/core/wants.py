"""What the peers of a node need of the host: a TCP port that listens, and sockets to guess with, for one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from fabric.core.events import ListenWanted, SocketsUnwanted, SocketsWanted
from fabric.core.guessing import SOCKETS


class Wanting(Protocol):
    """A peer, as far as it is looked at here."""

    @property
    def name(self) -> str: ...

    @property
    def wants_tcp(self) -> bool: ...

    @property
    def wants_sockets(self) -> bool: ...

    @property
    def is_spreading(self) -> bool: ...


class Wants:
    """`note` each peer after every change of it."""

    def __init__(self) -> None:
        self._tcp: set[str] = set()
        self._borrower: str | None = None

    @property
    def is_listening(self) -> bool:
        return bool(self._tcp)

    @property
    def borrower(self) -> str | None:
        """The peer that the sockets are for."""
        return self._borrower

    def note(self, peer: Wanting) -> Iterator[ListenWanted | SocketsWanted]:
        """Yields what has to be told to the host."""
        was_listening = self.is_listening
        (self._tcp.add if peer.wants_tcp else self._tcp.discard)(peer.name)
        if was_listening != self.is_listening:
            yield ListenWanted(self.is_listening)
        if peer.wants_sockets and self._borrower is None:
            self._borrower = peer.name
            yield SocketsWanted(SOCKETS)
        elif self._borrower == peer.name and not (peer.wants_sockets or peer.is_spreading):
            self._borrower = None

    def refuse(self, vias: tuple[int, ...]) -> SocketsUnwanted:
        """Whoever wanted the sockets does no more."""
        self._borrower = None
        return SocketsUnwanted(vias)

    def forget(self, peer: str) -> Iterator[ListenWanted]:
        was_listening = self.is_listening
        self._tcp.discard(peer)
        if was_listening != self.is_listening:
            yield ListenWanted(wanted=False)
        if self._borrower == peer:
            self._borrower = None
