"""Every pair of networks gets the best path that there is between them, over UDP and where UDP is blocked.

                     ( internet )----[discovery, relay]
        |         |          |           |                    |
     public   firewall   full cone   address-r.    ...   TCP 443 only       ten kinds, and each of them
        |         |          |           |                    |             twice: a and b
    a-public  a-firewall  a-full...                      a-webonly
    b-public  b-firewall  b-full...                      b-webonly          all a x all b: 100 pairs

An `a` has the lower name, so it is the client of the handshake: a x b is every pair both ways. What is expected is
what plain punching programs reach on the same rules, by the two behaviours of RFC 4787 alone:

    both mappings the same for everybody       direct
    one changes, the other side lets it in     direct: whom it has sent to may come from any port
    one changes, the other side is strict      direct by guessing its port, over UDP; relay over TCP, where a guess
                                               costs a connection
    both change                                relay
    only TCP 443 gets out                      relay over TLS

Then every router blocks UDP at once, under the same endpoints, and all of it moves to TCP.
`FABRIC_WRITE_DOCS=1` writes what was found to docs/matrix.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from fabric.lab import Endpoint, Filtering, Lab, LabError, Mapping, Nat, Overlay
from fabric.lab.overlay import describe, introduce, side_by_side

KINDS = tuple(Nat)
PAIRS = [(left, right) for left in KINDS for right in KINDS]
BEST_FIRST = ("direct-udp", "direct-tcp", "relay-udp", "relay-tls")
SETTLED_WITHIN_S = 150.0
WRITE = "FABRIC_WRITE_DOCS"
PAGE = Path(__file__).parent.parent / "docs" / "matrix.md"

pytestmark = pytest.mark.timeout(420)

Paths = dict[tuple[Nat, Nat], tuple[str, str]]
"""The kind of path that each end of a pair has: a's, b's."""


def expected(one: Nat, other: Nat, *, udp: bool) -> str:
    """The path that `one` gets to `other`, where UDP may pass or not."""
    if udp and one.carries_udp and other.carries_udp:
        return "direct-udp" if opens(one, other, guessing=True) else "relay-udp"
    if Nat.WEB_ONLY not in (one, other) and opens(one, other, guessing=False):
        return "direct-tcp"
    return "relay-udp" if udp and one.carries_udp else "relay-tls"


def opens(one: Nat, other: Nat, *, guessing: bool) -> bool:
    """Whether two that both send can ever meet; Ford, Srisuresh and Kegel 2005, and RFC 5128 section 3."""
    changing = [kind for kind in (one, other) if kind.mapping is Mapping.ENDPOINT_DEPENDENT]
    if len(changing) != 1:
        return not changing
    (facing,) = [kind for kind in (one, other) if kind is not changing[0]]
    return guessing or facing.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT


@dataclass
class Town:
    endpoints: dict[str, Endpoint]
    overlay_ips: dict[str, str] = field(default_factory=dict)

    def pair(self, left: Nat, right: Nat) -> tuple[Endpoint, Endpoint]:
        return self.endpoints[name("a", left)], self.endpoints[name("b", right)]

    def paths(self) -> Paths:
        """What all endpoints say of all pairs, now."""
        seen = dict(
            zip(self.endpoints, side_by_side([partial(kinds, end) for end in self.endpoints.values()]), strict=True)
        )
        return {
            (left, right): (
                seen[name("a", left)].get(name("b", right), ""),
                seen[name("b", right)].get(name("a", left), ""),
            )
            for left, right in PAIRS
        }


def kinds(endpoint: Endpoint) -> dict[str, str]:
    """The kind of path to each peer, by its short name; "" where there is none."""
    peers = endpoint.status()["peers"]
    return {peer["name"].partition(".")[0]: peer["path"]["kind"] if peer["path"] else "" for peer in peers}


def name(side: str, kind: Nat) -> str:
    return f"{side}-{kind.name.lower().replace('_', '')[:10]}"


@pytest.fixture(scope="module")
def town(lab: Lab, overlay: Overlay) -> Town:
    """All endpoints started, and intent stated on both sides of all pairs."""
    places = {name(side, kind): lab.site(f"s{name(side, kind)}"[:12], kind) for side in "ab" for kind in KINDS}
    made = Town(overlay.endpoints(places))
    side_by_side([partial(introduce, *made.pair(left, right)) for left, right in PAIRS])
    made.overlay_ips = {each: end.overlay_ip() for each, end in made.endpoints.items()}
    return made


def settle(town: Town, *, udp: bool) -> tuple[Paths, float]:
    """All paths as soon as none is worse than expected, or when time is up; and how long that took."""
    started = time.monotonic()
    while True:
        paths = town.paths()
        took_s = time.monotonic() - started
        if not any(True for _ in worse(paths, udp=udp)) or took_s > SETTLED_WITHIN_S:
            return paths, took_s
        time.sleep(1)


def worse(paths: Paths, *, udp: bool) -> Iterable[tuple[Nat, Nat]]:
    for (left, right), found in paths.items():
        if not all(map(as_good, found, (expected(left, right, udp=udp), expected(right, left, udp=udp)))):
            yield left, right


def as_good(found: str, wanted: str) -> bool:
    return found in BEST_FIRST and BEST_FIRST.index(found) <= BEST_FIRST.index(wanted)


@pytest.fixture(scope="module")
def over_udp(town: Town) -> tuple[Paths, float]:
    return settle(town, udp=True)


@pytest.fixture(scope="module")
def over_tcp(town: Town, over_udp: tuple[Paths, float]) -> tuple[Paths, float]:
    """After every router has begun to block UDP. Waited for `over_udp`, so that the two never mix."""
    for endpoint in town.endpoints.values():
        endpoint.host.site.block_udp()
    return settle(town, udp=False)


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=lambda kind: kind.name)
def test_a_pair_gets_the_best_path_that_there_is(
    town: Town, over_udp: tuple[Paths, float], left: Nat, right: Nat
) -> None:
    check(town, over_udp[0], left, right, udp=True)


def test_every_pair_is_connected_over_udp_and_how_long_that_took(
    town: Town, over_udp: tuple[Paths, float], figure: Callable[[str], None]
) -> None:
    paths, took_s = over_udp
    figure(f"matrix, UDP: {summary(paths, udp=True)}; all {len(PAIRS)} pairs within {took_s:.0f} s of the last intent")
    assert not list(worse(paths, udp=True))
    assert_all_reach(town)


@pytest.mark.parametrize(("left", "right"), PAIRS, ids=lambda kind: kind.name)
def test_a_pair_gets_the_best_path_that_there_is_without_udp(
    town: Town, over_tcp: tuple[Paths, float], left: Nat, right: Nat
) -> None:
    check(town, over_tcp[0], left, right, udp=False)


def test_every_pair_is_connected_without_udp_and_how_long_that_took(
    town: Town, over_tcp: tuple[Paths, float], figure: Callable[[str], None]
) -> None:
    paths, took_s = over_tcp
    figure(f"matrix, TCP: {summary(paths, udp=False)}; all {len(PAIRS)} pairs within {took_s:.0f} s of the blocking")
    assert not list(worse(paths, udp=False))
    assert_all_reach(town)


def test_the_page_about_it_can_be_written(over_udp: tuple[Paths, float], over_tcp: tuple[Paths, float]) -> None:
    page = document(over_udp[0], over_tcp[0])
    assert all(kind.label in page for kind in KINDS)
    if os.environ.get(WRITE) == "1":
        PAGE.write_text(page)


def check(town: Town, paths: Paths, left: Nat, right: Nat, *, udp: bool) -> None:
    wanted = expected(left, right, udp=udp), expected(right, left, udp=udp)
    found = paths[left, right]
    assert all(map(as_good, found, wanted)), f"{wanted} expected: {describe(*town.pair(left, right))}"
    # Both have the same idea of it: where one is direct, so is the other.
    assert len({kind.startswith("direct") for kind in found}) == 1, describe(*town.pair(left, right))


def assert_all_reach(town: Town) -> None:
    """The system's ping is answered, over each pair."""
    acts = [partial(reached, town, left, right) for left, right in PAIRS]
    deaf = [pair for pair, well in zip(PAIRS, side_by_side(acts), strict=True) if not well]
    if deaf:
        raise LabError("no ping over: " + ", ".join(f"{left.name} x {right.name}" for left, right in deaf))


def reached(town: Town, left: Nat, right: Nat) -> bool:
    one, other = town.pair(left, right)
    return one.reaches(town.overlay_ips[other.name], within_s=3) or one.reaches(
        town.overlay_ips[other.name], within_s=3
    )


def summary(paths: Paths, *, udp: bool) -> str:
    counts = {kind: sum(found[0] == kind for found in paths.values()) for kind in BEST_FIRST}
    feasible = [pair for pair in PAIRS if expected(*pair, udp=udp).startswith("direct")]
    direct = sum(paths[pair][0].startswith("direct") for pair in feasible)
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    return f"{told}; {direct} of {len(feasible)} feasible pairs direct"


# -- the page ---------------------------------------------------------------------------------------------------

CELLS = {"direct-udp": "UDP", "direct-tcp": "TCP", "relay-udp": "relay, UDP", "relay-tls": "relay, TLS", "": "none"}


def document(over_udp: Paths, over_tcp: Paths) -> str:
    return "\n".join(
        (
            "# Which path every pair of networks gets",
            "",
            "Written by `netns-tests/test_matrix.py` with `FABRIC_WRITE_DOCS=1`, from a run in network namespaces on",
            "real nftables NATs. A row is the end with the lower name, which leads the handshake; a cell is the path",
            "that it uses to the end of that column. Bold: no direct path is possible by the behaviour of the NATs.",
            "",
            "## UDP as each network lets it",
            "",
            *table(over_udp, udp=True),
            "",
            "## Every network blocks UDP",
            "",
            *table(over_tcp, udp=False),
            "",
        )
    )


def table(paths: Paths, *, udp: bool) -> list[str]:
    head = "| | " + " | ".join(kind.label for kind in KINDS) + " |"
    rows = [
        f"| {left.label} | " + " | ".join(cell(paths, left, right, udp) for right in KINDS) + " |" for left in KINDS
    ]
    return [head, "|---" * (len(KINDS) + 1) + "|", *rows]


def cell(paths: Paths, left: Nat, right: Nat, udp: bool) -> str:
    words = CELLS[paths[left, right][0]]
    return words if expected(left, right, udp=udp).startswith("direct") else f"**{words}**"


# -- the table of what is expected ------------------------------------------------------------------------------


def test_what_is_expected_is_the_same_from_both_ends() -> None:
    for left, right in PAIRS:
        for udp in (True, False):
            ends = expected(left, right, udp=udp), expected(right, left, udp=udp)
            assert len({end.startswith("direct") for end in ends}) == 1


def test_all_pairs_of_fixed_mappings_can_open_and_none_of_two_changing_ones() -> None:
    fixed = [kind for kind in KINDS if kind.mapping is not Mapping.ENDPOINT_DEPENDENT and kind.carries_udp]
    changing = [kind for kind in KINDS if kind.mapping is Mapping.ENDPOINT_DEPENDENT]
    assert {expected(one, other, udp=True) for one in fixed for other in fixed} == {"direct-udp"}
    assert {expected(one, other, udp=True) for one in fixed for other in changing} == {"direct-udp"}
    assert {expected(one, other, udp=True) for one in changing for other in changing} == {"relay-udp"}
