"""Thousands of endpoints under virtual time, in the proportions that were measured, against the oracle.

    python -m tests.sim.survey --endpoints 5000 --seed 1 --json docs/measurements/simulation.json \\
                               --page docs/simulation.md --plot docs/measurements/simulation.svg

Endpoints arrive as a Poisson process; each wishes to meet three others on average, and a pair begins to count when
the second wish is stated. Every endpoint is the product's own node and lane, with the product's cryptography; the
service and the relays are the product's, too. The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fabric.core.events import Event, PathChanged, PeerChanged
from tests.sim.endpoint import Endpoint
from tests.sim.meeting import Meeting
from tests.sim.population import Kind, make_places
from tests.sim.survey_plot import draw
from tests.sim.survey_table import tabulate
from tests.sim.witness import Delivery
from tests.sim.world import World

PEERS = 3
ARRIVALS_S = 60.0
SETTLE_S = 90.0
"""From the last arrival: every round of guessing is over by then."""

IDLE_S = 60.0
NEIGHBOUR = 0.5
"""How often two at one site wish to meet."""

RELAYS = 4
CLASSES = ("LAN", "IPv6", "punching", "guessing", "TCP", "relay only")

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"

Figures = dict[str, object]


class Survey:
    """Builds the population; `run` lets it live, `figures` says what came of it."""

    def __init__(self, world: World, endpoints: int) -> None:
        self.world = world
        sites = make_places(world.atlas, world.chance, endpoints)
        self.kinds: list[Kind] = [kind for kind, _ in sites]
        self.endpoints = [world.endpoint(f"e{n:05}", place, is_on=False) for n, (_, place) in enumerate(sites)]
        self.meetings: dict[frozenset[str], Meeting] = {}
        self._idle_bytes: dict[str, int] = {}
        self._partners: dict[str, list[Endpoint]] = {endpoint.name: [] for endpoint in self.endpoints}
        self._draw_pairs()
        world.witness.on_delivery = self._handle_delivery

    def run(self) -> None:
        at = 0.0
        for endpoint in self.endpoints:
            at += self.world.chance.expovariate(len(self.endpoints) / ARRIVALS_S)
            self.world.schedule.after(at, lambda endpoint=endpoint: self._arrive(endpoint))  # type: ignore[misc]
        self.world.run_for(at + SETTLE_S)
        before = {endpoint.name: endpoint.host.sent_bytes for endpoint in self.endpoints}
        self.world.run_for(IDLE_S)
        self._idle_bytes = {e.name: e.host.sent_bytes - before[e.name] for e in self.endpoints}

    def wrong(self) -> list[str]:
        """Pairs that are not on the class of path that the oracle says, each with what it says."""
        return [
            f"{meeting.name}: {self._site(meeting, 0)} and {self._site(meeting, 1)}: "
            f"{[kind and kind.value for kind in meeting.found]} where "
            f"{[kind and kind.value for kind in meeting.expected]} is expected"
            for meeting in self.meetings.values()
            if meeting.found != meeting.expected
        ]

    def figures(self) -> Figures:
        meetings = list(self.meetings.values())
        feasible = [meeting for meeting in meetings if meeting.is_feasible]
        idle = [
            self._idle_bytes[endpoint.name] / (IDLE_S / 60.0) / len(peers)
            for endpoint in self.endpoints
            if (peers := self._partners[endpoint.name])
        ]
        return {
            "endpoints": len(self.endpoints),
            "pairs": len(meetings),
            "connected": sum(None not in meeting.found for meeting in meetings),
            "feasible": len(feasible),
            "direct": sum(meeting.is_direct for meeting in feasible),
            "beyond the oracle": sum(meeting.is_direct for meeting in meetings) - sum(m.is_direct for m in feasible),
            "best": len(meetings) - len(self.wrong()),
            "kinds": dict(Counter(kind.name for kind in self.kinds)),
            "paths": dict(Counter(str(m.found[0] and m.found[0].value) for m in meetings)),
            "first frame": summary(m.first_frame_s for m in meetings),
            "to direct": summary(m.direct_s for m in feasible),
            "classes": {name: self._class_figures(name) for name in CLASSES},
            "disagreement": summary(m.longest_disagreement_s for m in meetings),
            "idle bytes a minute a peer": summary(idle),
            "handshakes a pair": self.world.witness.handshakes.total() / 2 / max(1, len(meetings)),
            "curves": {name: self._curves(name) for name in CLASSES},
        }

    def _class_figures(self, name: str) -> Figures:
        members = [meeting for meeting in self.meetings.values() if meeting.name == name]
        return {
            "pairs": len(members),
            "direct": sum(meeting.is_direct for meeting in members),
            "first frame": summary(m.first_frame_s for m in members),
            "to direct": summary(m.direct_s for m in members),
            "datagrams": summary(float(m.datagrams) for m in members),
            "moves": summary(float(m.moves) for m in members),
        }

    def _curves(self, name: str) -> dict[str, list[float]]:
        members = [meeting for meeting in self.meetings.values() if meeting.name == name]
        return {
            "first frame": sorted(round(s, 3) for m in members if (s := m.first_frame_s) is not None),
            "to direct": sorted(round(s, 3) for m in members if (s := m.direct_s) is not None),
        }

    def _draw_pairs(self) -> None:
        chance, endpoints = self.world.chance, self.endpoints
        for one, other in itertools.pairwise(endpoints):
            if one.place is other.place and chance.random() < NEIGHBOUR:
                self._pair(one, other)
        while 2 * len(self.meetings) < PEERS * len(endpoints):
            one, other = chance.sample(endpoints, 2)
            if frozenset((one.name, other.name)) not in self.meetings:
                self._pair(one, other)

    def _pair(self, one: Endpoint, other: Endpoint) -> None:
        self.meetings[frozenset((one.name, other.name))] = Meeting(self.world, one, other)
        self._partners[one.name].append(other)
        self._partners[other.name].append(one)

    def _arrive(self, endpoint: Endpoint) -> None:
        endpoint.watch = lambda event: self._handle_event(endpoint, event)
        endpoint.start()
        for peer in self._partners[endpoint.name]:
            if peer.node is not None:
                self.meetings[frozenset((endpoint.name, peer.name))].wished = self.world.now
            endpoint.add(peer.name)

    def _handle_event(self, endpoint: Endpoint, event: Event) -> None:
        if isinstance(event, PeerChanged | PathChanged):
            self.meetings[frozenset((endpoint.name, event.peer))].handle_event(endpoint, event)

    def _handle_delivery(self, delivery: Delivery) -> None:
        self.meetings[frozenset((delivery.frame.sender, delivery.receiver))].handle_frame(delivery.receiver)

    def _site(self, meeting: Meeting, end: int) -> str:
        endpoint = meeting.ends[end]
        number = self.endpoints.index(endpoint)
        return f"{endpoint.name} ({self.kinds[number].name})"


def summary(values: Iterable[float | None]) -> Figures:
    """Returns count, p50, p99 and the largest of those that there are."""
    found = sorted(value for value in values if value is not None)
    if not found:
        return {"count": 0, "p50": None, "p99": None, "max": None}
    middle, high = found[len(found) // 2], found[min(len(found) - 1, len(found) * 99 // 100)]
    return {"count": len(found), "p50": round(middle, 3), "p99": round(high, 3), "max": round(found[-1], 3)}


def put(table: str, page: str) -> str:
    """Returns the page with the table between its marks."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table}{END}{tail}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.survey", description="a survey under virtual time")
    parser.add_argument("--endpoints", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="a page with a place for the figures between two marks")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    survey = Survey(World(options.seed, relays=RELAYS), options.endpoints)
    survey.run()
    figures = survey.figures()
    wall_s = time.perf_counter() - begun
    for line in survey.wrong():
        print(line, file=sys.stderr)
    table = tabulate(figures, options.seed)
    print(table)
    print(f"{wall_s:.0f} s on the wall, {survey.world.schedule.steps} steps", file=sys.stderr)
    if options.json:
        bare = {key: value for key, value in figures.items() if key != "curves"}
        options.json.write_text(json.dumps({"seed": options.seed, **bare}, indent=1) + "\n")
    if options.page:
        options.page.write_text(put(table, options.page.read_text()))
    if options.plot:
        options.plot.write_text(draw(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
