"""How long two endpoints take to the first frame and to a direct path, by what stands between them.

                 ( internet )
        ||          ||          ||          ||             ||
      [sky]       [sky]       [sky]       [sky]          [sky]          0 or 25 ms each way
        ||          ||          ||          ||             ||
    discovery,    open-0 ..   sym-0 ..   noudp-0 ..      web-0 ..
     a relay      (cone NATs  (symmetric) (UDP blocked)  (TCP 443 only)
                  and firewalls)

Every endpoint runs and is connected to the service before its first meeting; every two of them meet once, so each pair
is new to both. A few pairs a second, and no endpoint has two meetings at a time: what is measured is the protocol and
not the queue for the processor. The clock of a meeting begins when the second statement of intent is handed to its
daemon, at the control socket, so no start of a program is in it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import combinations, product
from os import cpu_count
from random import Random

from fabric.lab import Endpoint, Lab, Nat, Overlay, Weather
from fabric.lab.product import until
from fabric.lab.traffic import frame, raw_socket
from fabric.shell.control_wire import AskAdd, AskRemove, AskWait, Connected
from tests.bench.asking import Pair, ask, path_kind, report
from tests.bench.fabric_tunnel import DEVICE
from tests.bench.usage import machine_seconds

FRAME_PACE_S = 0.01
"""The resolution of the first frame: one is sent each way so often."""
PAIR_PACE_S = 0.4
SETTLED_S = 5.0
"""From the last channel to the service until the first meeting: the NATs have been examined by then."""
FRAME_WITHIN_S = 20.0
DIRECT_WITHIN_S = 60.0
ONE_WAY_S = (0.0, 0.025)
"""On each site's line: four of them are one round trip between two sites."""
AT_ONCE = 64
SEED = 3

OPEN = (Nat.PORT_RESTRICTED, Nat.CARRIER, Nat.FULL_CONE, Nat.FIREWALL, Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED)
STRICT = (Nat.PORT_RESTRICTED, Nat.CARRIER)


class Group(Enum):
    """What stands between two endpoints."""

    CONES = "cone NATs and firewalls"
    GUESSED = "symmetric x port-restricted"
    TCP = "UDP blocked at one end or both"
    RELAYED = "symmetric x symmetric"
    WEB = "TCP 443 only x any"

    @property
    def can_be_direct(self) -> bool:
        return self not in (Group.RELAYED, Group.WEB)


@dataclass(frozen=True, slots=True)
class Size:
    """How many endpoints of each sort there are, and how many pairs of each group meet at each round trip time."""

    open: int
    symmetric: int
    no_udp: int
    web_only: int
    pairs: int


FULL = Size(open=14, symmetric=10, no_udp=6, web_only=4, pairs=40)
QUICK = Size(open=5, symmetric=3, no_udp=2, web_only=1, pairs=3)


@dataclass(frozen=True, slots=True)
class Meeting:
    """One pair: seconds from the second intent to the first frame each way, and until both have a direct path.

    None for what did not come in time, or was not waited for. `path` is the kind at the end.
    """

    group: str
    rtt_ms: int
    ends: str
    first_frame_s: float | None
    direct_s: float | None
    path: str


@dataclass(frozen=True, slots=True)
class Meetings:
    """All meetings, and how busy the machine's processors were meanwhile."""

    found: list[Meeting]
    busy_percent: float


def measure(*, quick: bool) -> Meetings:
    """Takes about three minutes, `quick` half a one."""
    size = QUICK if quick else FULL
    with Lab("bench-meet") as lab:
        town = _Town(lab, size)
        began, busy = time.monotonic(), machine_seconds()
        found = [meeting for share in range(len(ONE_WAY_S)) for meeting in town.meet(share)]
        share_busy = (machine_seconds() - busy) / (time.monotonic() - began) / (cpu_count() or 1)
    return Meetings(found, round(100 * share_busy, 1))


class _Town:
    def __init__(self, lab: Lab, size: Size) -> None:
        self._service = lab.site("s-disc", Nat.PUBLIC, weather=True)
        overlay = Overlay(lab, host=self._service.host("discovery"))
        kinds = {
            "open": [OPEN[number % len(OPEN)] for number in range(size.open)],
            "sym": [Nat.SYMMETRIC] * size.symmetric,
            "noudp": [Nat.UDP_BLOCKED] * size.no_udp,
            "web": [Nat.WEB_ONLY] * size.web_only,
        }
        places = {
            f"{sort}-{number}": lab.site(f"s-{sort}-{number}", kind, weather=True)
            for sort, found in kinds.items()
            for number, kind in enumerate(found)
        }
        self._endpoints = overlay.endpoints(places)
        everybody = list(self._endpoints.values())
        until(lambda: all(report(each).discovery == "connected" for each in everybody), "all are served", 60)
        time.sleep(SETTLED_S)
        self._macs = {each.name: report(each).mac for each in everybody}
        self._groups = {name: _shares(pairs, size.pairs) for name, pairs in self._all_pairs().items()}

    def _all_pairs(self) -> dict[Group, list[Pair]]:
        sorts: dict[str, list[Endpoint]] = {}
        for name, endpoint in self._endpoints.items():
            sorts.setdefault(name.partition("-")[0], []).append(endpoint)
        strict = [each for each in sorts["open"] if each.host.site.kind in STRICT]
        no_udp = [*combinations(sorts["noudp"], 2), *product(sorts["noudp"], sorts["open"])]
        return {
            Group.CONES: list(combinations(sorts["open"], 2)),
            Group.GUESSED: list(product(sorts["sym"], strict)),
            Group.TCP: no_udp,
            Group.RELAYED: list(combinations(sorts["sym"], 2)),
            Group.WEB: list(product(sorts["web"], sorts["open"])),
        }

    def meet(self, share: int) -> list[Meeting]:
        """All the groups' pairs of one share, mixed: a noisy moment falls on every group."""
        for site in (self._service, *(each.host.site for each in self._endpoints.values())):
            site.weather.make(Weather(delay_s=ONE_WAY_S[share]))
        rtt_ms = round(4e3 * ONE_WAY_S[share])
        acts = [
            (pair, partial(self._meeting, group, rtt_ms, pair))
            for group, shares in self._groups.items()
            for pair in shares[share]
        ]
        Random(SEED).shuffle(acts)
        return list(paced(acts))

    def _meeting(self, group: Group, rtt_ms: int, pair: Pair) -> Meeting:
        one, other = pair
        with _Frames(pair, self._macs) as frames:
            ask(one, AskAdd(other.name))
            stated = time.monotonic()
            ask(other, AskAdd(one.name))
            came = frames.await_both_ways(stated + FRAME_WITHIN_S)
        direct = _await_direct(pair, stated + DIRECT_WITHIN_S) if group.can_be_direct else None
        path = path_kind(one, other)
        for here, there in (pair, pair[::-1]):
            ask(here, AskRemove(there.name))
        kinds = " x ".join(each.host.site.kind.label for each in pair)
        return Meeting(group.value, rtt_ms, kinds, _since(stated, came), _since(stated, direct), path)


def _shares(pairs: Sequence[Pair], count: int) -> list[list[Pair]]:
    """For each round trip time `count` of the pairs, or its part where there are fewer; drawn at random."""
    drawn = Random(SEED).sample(pairs, len(pairs))
    return [drawn[number :: len(ONE_WAY_S)][:count] for number in range(len(ONE_WAY_S))]


def _since(stated: float, when: float | None) -> float | None:
    return None if when is None else round(when - stated, 4)


# -- pace -----------------------------------------------------------------------------------------------------------


def paced(acts: Sequence[tuple[Pair, Callable[[], Meeting]]]) -> Iterator[Meeting]:
    """Does them all, one begun every `PAIR_PACE_S` whose ends are both free; yields what became of each."""
    waiting, running = list(acts), dict[Future[Meeting], Pair]()
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        while waiting or running:
            for done in [each for each in running if each.done()]:
                del running[done]
                yield done.result()
            busy = {end.name for pair in running.values() for end in pair}
            free = next((act for act in waiting if not busy & {end.name for end in act[0]}), None)
            if free is not None and len(running) < AT_ONCE:
                waiting.remove(free)
                running[pool.submit(free[1])] = free[0]
            time.sleep(PAIR_PACE_S)


# -- at the endpoints -------------------------------------------------------------------------------------------------


def _await_direct(pair: Pair, deadline: float) -> float | None:
    """When (monotonic) both ends had a direct path; each daemon answers at the moment when it has."""
    for here, there in (pair, pair[::-1]):
        left_s = max(0.0, deadline - time.monotonic())
        if not isinstance(ask(here, AskWait(there.name, "direct", left_s), left_s + 10), Connected):
            return None
    return time.monotonic()


class _Frames:
    """A frame each way every `FRAME_PACE_S`, until one has come out of the other end's device, for both ways."""

    def __init__(self, pair: Pair, macs: dict[str, str]) -> None:
        token = "-".join(end.name for end in pair).encode()
        self._sockets = [raw_socket(end.host, DEVICE) for end in pair]
        addresses = [macs[end.name] for end in pair]
        self._frames = [frame(there, here, token) for here, there in (addresses, addresses[::-1])]
        for each in self._sockets:
            each.setblocking(False)

    def __enter__(self) -> _Frames:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def await_both_ways(self, deadline: float) -> float | None:
        """When (monotonic) the later of the two came."""
        missing = {0, 1}
        """Ends that still wait for a frame of the other."""
        while time.monotonic() < deadline:
            for end in missing:
                self._sockets[1 - end].send(self._frames[1 - end])
            pause = time.monotonic() + FRAME_PACE_S
            while (left_s := pause - time.monotonic()) > 0:
                ready, _, _ = select.select([self._sockets[end] for end in missing], [], [], left_s)
                missing -= {end for end in missing if self._sockets[end] in ready and self._is_awaited(end)}
                if not missing:
                    return time.monotonic()
        return None

    def _is_awaited(self, end: int) -> bool:
        """Whether the frame that waits there is the one; other pairs' frames pass here too."""
        came = self._sockets[end].recv(2048)
        return came.startswith(self._frames[1 - end])
