"""The gates of a node that are open: a random index each, and the peer behind it."""

from __future__ import annotations

from collections.abc import Collection, Container
from typing import Generic, TypeVar

from fabric.core.machine import Draw

PeerT = TypeVar("PeerT")


class Gates(Generic[PeerT]):
    def __init__(self) -> None:
        self._peers: dict[int, PeerT] = {}
        self._indices: dict[str, int] = {}

    @property
    def indices(self) -> Collection[int]:
        return self._peers.keys()

    def find(self, index: int) -> PeerT | None:
        return self._peers.get(index)

    def set(self, name: str, peer: PeerT, index: int | None) -> None:
        """`index` is where the peer's gate is open now; None shuts it."""
        if index != self._indices.get(name):
            self.close(name)
        if index is not None:
            self._peers[index] = peer
            self._indices[name] = index

    def close(self, name: str) -> None:
        index = self._indices.pop(name, None)
        if index is not None:
            del self._peers[index]


def draw_index(draw: Draw, taken: Container[int | None]) -> int:
    """Returns a random u32, so that nothing can be told from it, that is not taken."""
    while (index := int.from_bytes(draw(4))) in taken:
        pass
    return index
