"""A lane that keeps the orders it was given, and seals nothing: what core steers is read off it."""

from __future__ import annotations

from collections.abc import Mapping

from fabric.dataplane.contract import Drop, PeerCounters, Port, SessionKeys
from fabric.wire.address import Address


class FakeLane:
    """`installed` are the indices that open, `sealing` the one promoted last, `said` the control messages under the
    index that the receiver knows."""

    def __init__(self) -> None:
        self.ports: dict[str, Port] = {}
        self.keys: dict[int, SessionKeys] = {}
        self.sealing: int | None = None
        self.steered: dict[str, tuple[Address | None, int]] = {}
        self.copied: dict[str, Address | None] = {}
        self.said: list[tuple[int, bytes, Address]] = []

    @property
    def installed(self) -> set[int]:
        return set(self.keys)

    def admit(self, peer: str, port: Port) -> None:
        self.ports[peer] = port

    def dismiss(self, peer: str) -> None:
        self.ports.pop(peer, None)
        for index in [i for i, keys in self.keys.items() if keys.peer == peer]:
            self.retire(index)

    def install(self, keys: SessionKeys, *, awaiting: bool) -> None:
        self.keys[keys.local_index] = keys

    def promote(self, local_index: int) -> None:
        assert local_index in self.keys
        self.sealing = local_index

    def retire(self, local_index: int) -> None:
        self.keys.pop(local_index, None)
        if self.sealing == local_index:
            self.sealing = None

    def steer(self, peer: str, to: Address | None, payload_limit: int, copy_to: Address | None = None) -> None:
        self.steered[peer] = (to, payload_limit)
        self.copied[peer] = copy_to

    def send_control(self, local_index: int, payload: bytes, to: Address, *, whole: bool = False) -> None:
        if local_index in self.keys:
            self.said.append((self.keys[local_index].remote_index, payload, to))

    def counters(self, peer: str) -> PeerCounters:
        return PeerCounters(0, 0, {})

    def drops(self) -> Mapping[Drop, int]:
        return {}
