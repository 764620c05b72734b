"""One pair of a survey: what the oracle promises it, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.events import Event, PathChanged, PeerChanged
from fabric.core.status import PathKind, PeerState
from tests.sim.endpoint import Endpoint
from tests.sim.oracle import derived, expected_kind, guessable, is_direct
from tests.sim.place import Place
from tests.sim.world import World

GREETING_PAUSE_S = 0.2
MAX_GREETINGS = 100


def class_of(one: Place, other: Place) -> str:
    """What it takes for this pair to be direct, or that it can't be."""
    kind = expected_kind(one, other)
    if kind is PathKind.LAN:
        return "LAN"
    if kind is None:
        return "relay only"
    if one.ipv6 is not None and other.ipv6 is not None:
        return "IPv6"
    if derived(one, other):
        return "punching"
    return "guessing" if guessable(one, other) else "TCP"


@dataclass(slots=True)
class Half:
    """What one end has seen of the other. Instants; None: not yet, or no more."""

    is_connected: bool = False
    kind: PathKind | None = None
    heard: float | None = None
    direct: float | None = None
    greetings: int = 0

    def note(self, now: float) -> None:
        if not (self.is_connected and is_direct(self.kind)):
            self.direct = None
        elif self.direct is None:
            self.direct = now


class Meeting:
    """`wished` is when the second of the two wishes was stated by an endpoint that runs."""

    def __init__(self, world: World, one: Endpoint, other: Endpoint) -> None:
        assert one.place is not None
        assert other.place is not None
        self.ends = (one, other)
        self.name = class_of(one.place, other.place)
        self.expected = world.expected_kind(one, other), world.expected_kind(other, one)
        self.wished: float | None = None
        self.moves = 0
        self._disagreed_s = 0.0
        self._disagree_since: float | None = None
        self._world = world
        self._halves = {one.name: Half(), other.name: Half()}

    @property
    def is_feasible(self) -> bool:
        return is_direct(self.expected[0])

    @property
    def found(self) -> tuple[PathKind | None, PathKind | None]:
        one, other = self.ends
        return one.path_to(other), other.path_to(one)

    @property
    def is_direct(self) -> bool:
        return all(is_direct(kind) for kind in self.found)

    @property
    def first_frame_s(self) -> float | None:
        """Until a frame had come out at both ends."""
        return self._later([half.heard for half in self._halves.values()])

    @property
    def direct_s(self) -> float | None:
        """Until both ends sent directly, and kept to it."""
        return self._later([half.direct for half in self._halves.values()]) if self.is_direct else None

    @property
    def datagrams(self) -> int:
        """What both have spent on each other directly, what is sent by way of relays apart."""
        one, other = self.ends
        return _spent(one, other) + _spent(other, one)

    def handle_event(self, who: Endpoint, event: Event) -> None:
        half = self._halves[who.name]
        match event:
            case PeerChanged(state=state):
                half.is_connected = state is PeerState.CONNECTED
                self._greet(who, half)
            case PathChanged(kind=kind):
                half.kind = kind
                self.moves += 1
            case _:
                pass
        half.note(self._world.now)
        self._compare()

    def handle_frame(self, receiver: str) -> None:
        half = self._halves[receiver]
        if half.heard is None:
            half.heard = self._world.now

    def _compare(self) -> None:
        now, (one, other) = self._world.now, self._halves.values()
        agree = not (one.is_connected and other.is_connected) or is_direct(one.kind) == is_direct(other.kind)
        if agree and self._disagree_since is not None:
            self._disagreed_s = max(self._disagreed_s, now - self._disagree_since)
            self._disagree_since = None
        elif not agree and self._disagree_since is None:
            self._disagree_since = now

    def _greet(self, who: Endpoint, half: Half) -> None:
        """A frame now and then until one has got through, as an application would try."""
        other = self.ends[1] if who is self.ends[0] else self.ends[0]
        if not half.is_connected or self._halves[other.name].heard is not None or half.greetings >= MAX_GREETINGS:
            return
        half.greetings += 1
        who.send_frame(other)
        self._world.schedule.after(GREETING_PAUSE_S, lambda: self._greet(who, half))

    @property
    def longest_disagreement_s(self) -> float:
        """For how long one end sent directly and the other by a relay."""
        since = self._disagree_since
        return self._disagreed_s if since is None else max(self._disagreed_s, self._world.now - since)

    def _later(self, instants: list[float | None]) -> float | None:
        """Until the later of the two, where there are both."""
        if self.wished is None or None in instants:
            return None
        return max(0.0, max(at for at in instants if at is not None) - self.wished)


def _spent(one: Endpoint, other: Endpoint) -> int:
    """Datagrams to any address that the other has, but for where many share one."""
    ips = {other.outside_ip, *(str(interface.ip) for interface in other.host.interfaces)}
    return sum(one.host.sent_to[ip] for ip in ips)
