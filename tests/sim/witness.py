"""Sees everything that happens in the world and objects to what must never be.

Each rule raises `InvariantError` at the very step that breaks it, so that the seed and the instant lead to the cause:

    nonces      no (key, nonce) pair seals twice, over all endpoints and all their lives
    keys        a traffic key is installed at most once on each side, and its two sides name each other
    delivery    a frame comes out only at a peer of its sender, while both wish it, under a session between them,
                once, unchanged, and with the sender's own MAC
    darkness    no endpoint sends a datagram to a host that is marked as a stranger
    wishes      no handshake completes with a peer that was not asked for
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fabric.dataplane.contract import SessionKeys
from tests.sim.frames import Marked, number_of


class InvariantError(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True)
class _KeyUse:
    """Who seals and who opens with one traffic key, as far as they have installed it."""

    sealer: tuple[str, str] | None = None
    opener: tuple[str, str] | None = None


@dataclass(slots=True)
class Delivery:
    """A frame that came out of an endpoint's device."""

    frame: Marked
    receiver: str
    at: float


@dataclass(slots=True)
class Witness:
    """`wishes` are what operators asked for: (who, whom). `deliveries` is everything that came out, in order."""

    wishes: set[tuple[str, str]] = field(default_factory=set)
    deliveries: list[Delivery] = field(default_factory=list)
    on_delivery: Callable[[Delivery], None] | None = None
    refused_installs: int = 0
    sealed_records: int = 0
    handshakes: Counter[tuple[str, str]] = field(default_factory=Counter)
    _nonces: dict[bytes, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    _keys: dict[bytes, _KeyUse] = field(default_factory=lambda: defaultdict(_KeyUse))
    _sessions: dict[str, dict[int, SessionKeys]] = field(default_factory=lambda: defaultdict(dict))
    _frames: dict[int, tuple[Marked, frozenset[tuple[str, str]]]] = field(default_factory=dict)
    _delivered: set[tuple[int, str]] = field(default_factory=set)
    _macs: dict[str, bytes] = field(default_factory=dict)

    # wishes and names

    def wish(self, who: str, whom: str) -> None:
        self.wishes.add((who, whom))

    def withdraw(self, who: str, whom: str) -> None:
        self.wishes.discard((who, whom))

    def is_mutual(self, one: str, other: str) -> bool:
        return {(one, other), (other, one)} <= self.wishes

    def name_mac(self, name: str, mac: bytes) -> None:
        self._macs[name] = mac

    # keys

    def see_sealing(self, key: bytes, nonce: bytes) -> None:
        seen = self._nonces[key]
        if nonce in seen:
            raise InvariantError(f"nonce {nonce.hex()} sealed twice under one key")
        seen.add(nonce)
        self.sealed_records += 1

    def see_install(self, name: str, keys: SessionKeys) -> None:
        if keys.seal_key == keys.open_key:
            raise InvariantError(f"{name} seals and opens with one key")
        if (name, keys.peer) not in self.wishes:
            raise InvariantError(f"{name} completes a handshake with {keys.peer}, whom it never asked for")
        side = (name, keys.peer)
        self._claim(keys.seal_key, side, seals=True)
        self._claim(keys.open_key, side, seals=False)
        self._sessions[name][keys.local_index] = keys
        self.handshakes[side] += 1

    def see_retire(self, name: str, local_index: int) -> None:
        self._sessions[name].pop(local_index, None)

    def see_dismiss(self, name: str, peer: str) -> None:
        sessions = self._sessions[name]
        for index in [index for index, keys in sessions.items() if keys.peer == peer]:
            del sessions[index]

    def see_power_loss(self, name: str) -> None:
        self._sessions[name].clear()

    def shares_a_key_with(self, other: Witness) -> bool:
        """Whether any session joins somebody whom this witness sees with somebody whom another one does."""
        return not self._keys.keys().isdisjoint(other._keys.keys())

    def sessions_of(self, name: str) -> list[SessionKeys]:
        return list(self._sessions[name].values())

    # frames

    def see_sent(self, frame: Marked) -> None:
        """A frame to a peer without a session may go to every other one: a switch floods what it does not know."""
        known = any(keys.peer == frame.to for keys in self._sessions[frame.sender].values())
        frame = frame if known else replace(frame, to=None)
        self._frames[frame.number] = (frame, frozenset(w for w in self.wishes if frame.sender in w))

    def see_delivered(self, receiver: str, data: bytes, now: float) -> Marked | None:
        """Returns the frame, or None for one that endpoints make themselves."""
        number = number_of(data)
        if number is None:
            return None
        if number not in self._frames:
            raise InvariantError(f"{receiver} delivers a frame that nobody sent")
        frame, wishes_then = self._frames[number]
        self._check_delivery(frame, receiver, data, wishes_then)
        self._delivered.add((number, receiver))
        self.deliveries.append(Delivery(frame, receiver, now))
        if self.on_delivery is not None:
            self.on_delivery(self.deliveries[-1])
        return frame

    def see_datagram_to_stranger(self, stranger: str, source: object, payload: bytes) -> None:
        raise InvariantError(f"{stranger} gets an answer of {len(payload)} bytes from {source}: {payload[:24].hex()}")

    def _check_delivery(
        self, frame: Marked, receiver: str, data: bytes, wishes_then: frozenset[tuple[str, str]]
    ) -> None:
        sender = frame.sender
        if receiver == sender or (frame.to not in (None, receiver)):
            raise InvariantError(f"{receiver} delivers a frame from {sender} to {frame.to}")
        if (receiver, sender) not in self.wishes:
            raise InvariantError(f"{receiver} delivers a frame of {sender} without wishing for it")
        if (sender, receiver) not in wishes_then:
            raise InvariantError(f"{receiver} delivers a frame that {sender} sent without wishing to")
        if data != frame.data or data[6:12] != self._macs[sender]:
            raise InvariantError(f"{receiver} delivers a changed frame of {sender}")
        if (frame.number, receiver) in self._delivered:
            raise InvariantError(f"{receiver} delivers frame {frame.number} twice")
        if not any(keys.peer == sender for keys in self._sessions[receiver].values()):
            raise InvariantError(f"{receiver} delivers a frame of {sender} without a session")

    def _claim(self, key: bytes, side: tuple[str, str], *, seals: bool) -> None:
        use = self._keys[key]
        if (use.sealer if seals else use.opener) is not None:
            raise InvariantError(f"{side[0]} installs a key again that {use} has")
        if seals:
            use.sealer = side
        else:
            use.opener = side
        if use.sealer and use.opener and use.sealer != use.opener[::-1]:
            raise InvariantError(f"a key joins {use.sealer} and {use.opener}")
