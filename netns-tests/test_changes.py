"""The network changes under a connection that is in use: frames flow again, soon.

            ( internet )----[discovery, relay]
        |          |            |               |
     carrier    port-r.      port-r.         full cone            a router each
        |          |            |               |
       kim        lou    kim's radio (eth1)   a cafe to roam to

Steady pings go from lou to kim over the overlay. What counts is the time from when the network works again until the
first answer: 2 s where the change can be seen on a host (its cable, its address), 10 s where it cannot (its router).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fabric.lab import Endpoint, Lab, LabError, Nat, Overlay, Site
from fabric.lab.overlay import await_path, connect, describe
from fabric.lab.product import until
from fabric.lab.traffic import Pings

VISIBLE_S, INVISIBLE_S = 2.0, 10.0
GRACE_S = 20.0
"""How much longer than allowed a test waits, to be able to say how long it took."""
PING_INTERVAL_S = 0.05
OUTAGE_S = 5.0
SUSPENDED_S = 15.0

pytestmark = pytest.mark.timeout(120)


@dataclass
class Pair:
    kim: Endpoint
    lou: Endpoint
    cafe: Site
    radio: Site

    def __post_init__(self) -> None:
        self.homes = {end.name: end.host.site for end in (self.kim, self.lou)}

    def ends(self, whose: str) -> list[Endpoint]:
        """kim, lou or both."""
        return [end for end in (self.kim, self.lou) if whose in (end.name, "both")]


@pytest.fixture(scope="module")
def pair(lab: Lab, overlay: Overlay) -> Pair:
    places = {"kim": lab.site("s-kim", Nat.CARRIER), "lou": lab.site("s-lou", Nat.PORT_RESTRICTED)}
    made = overlay.endpoints(places)
    connect(*made.values())
    cafe, radio = lab.site("cafe", Nat.FULL_CONE), lab.site("radio", Nat.PORT_RESTRICTED)
    made["kim"].host.add_uplink(radio)
    return Pair(made["kim"], made["lou"], cafe, radio)


@pytest.fixture
def settled(pair: Pair) -> Iterator[Pair]:
    """Every cable in and a direct path, so that every change begins from the same, whatever became of the last."""
    for here, there in ((pair.kim, pair.lou), (pair.lou, pair.kim)):
        assert here.wait(there.name, path="direct", timeout_s=60).code == 0, describe(pair.kim, pair.lou)
    yield pair
    plug_all_in(pair)


def plug_all_in(pair: Pair) -> None:
    for end in (pair.kim, pair.lou):
        end.host.plug_in()
    pair.kim.host.plug_in("eth1")


class Watched:
    """Steady pings from lou to kim while something happens."""

    def __init__(self, pair: Pair, figure: Callable[[str], None]) -> None:
        self._pair, self._figure = pair, figure
        self._pings = Pings(pair.lou.host, pair.kim.overlay_ip(), PING_INTERVAL_S)
        until(self._pings.answers_unix, "an answer before anything happens")

    def back_within(self, what: str, allowed_s: float) -> None:
        """From now on the network works: asserts that an answer to what is sent from now on comes in that time."""
        try:
            took_s = self._pings.await_answer(time.time(), allowed_s + GRACE_S)
        except LabError as error:
            raise LabError(f"{what}: {error}: {describe(self._pair.kim, self._pair.lou)}") from None
        finally:
            counted = self._pings.finish()
        self._figure(f"change: {what}: frames flow after {took_s:.2f} s, {counted.lost} of {counted.sent} pings lost")
        assert took_s < allowed_s, describe(self._pair.kim, self._pair.lou)


@pytest.fixture
def watched(settled: Pair, figure: Callable[[str], None]) -> Watched:
    return Watched(settled, figure)


# -- what a host can see ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["kim", "lou", "both"])
def test_an_end_that_moves_to_another_network(settled: Pair, watched: Watched, whose: str) -> None:
    for end in settled.ends(whose):
        end.host.move(settled.cafe)
    watched.back_within(f"{whose} moved to another network", VISIBLE_S)


@pytest.mark.parametrize("whose", ["kim", "lou", "both"])
def test_an_end_that_comes_home_again(settled: Pair, watched: Watched, whose: str) -> None:
    for end in settled.ends("both"):
        if end.host.site is settled.homes[end.name] and whose in (end.name, "both"):
            end.host.move(settled.homes[end.name], 77)
        elif whose in (end.name, "both"):
            end.host.move(settled.homes[end.name])
    watched.back_within(f"{whose} moved home, or to another address there", VISIBLE_S)


@pytest.mark.parametrize("whose", ["kim", "lou", "both"])
def test_a_cable_that_is_pulled_and_plugged_in_again(settled: Pair, watched: Watched, whose: str) -> None:
    ends = settled.ends(whose)
    settled.kim.host.unplug("eth1")
    for end in ends:
        end.host.unplug()
    time.sleep(OUTAGE_S)
    for end in ends:
        end.host.plug_in()
    watched.back_within(f"cable of {whose} out for {OUTAGE_S:g} s", VISIBLE_S)


def test_from_the_cable_to_another_uplink(settled: Pair, watched: Watched) -> None:
    settled.kim.host.unplug()
    watched.back_within("kim's cable out, radio left", VISIBLE_S)


def test_from_the_other_uplink_back_to_the_cable(settled: Pair, figure: Callable[[str], None]) -> None:
    pair = settled
    pair.kim.host.unplug()
    await_path(pair.kim, pair.lou, "direct-udp", within_s=60)
    watched = Watched(pair, figure)
    pair.kim.host.plug_in()
    watched.back_within("kim's cable in again", VISIBLE_S)


def test_a_machine_that_slept(settled: Pair, watched: Watched) -> None:
    settled.kim.pause()
    time.sleep(SUSPENDED_S)
    settled.kim.resume()
    watched.back_within(f"kim stopped for {SUSPENDED_S:g} s", VISIBLE_S)


# -- what only a router knows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["kim", "lou", "both"])
@pytest.mark.parametrize("change", ["reboot", "move_mappings", "renumber"])
def test_a_router_that_forgets_moves_mappings_or_gets_another_address(
    settled: Pair, watched: Watched, whose: str, change: str
) -> None:
    for end in settled.ends(whose):
        getattr(end.host.site, change)()
    watched.back_within(f"{change} of the router of {whose}", INVISIBLE_S)


@pytest.mark.parametrize("whose", ["kim", "lou"])
def test_a_line_that_was_dead_for_a_while(settled: Pair, watched: Watched, whose: str) -> None:
    (end,) = settled.ends(whose)
    end.host.site.unplug()
    time.sleep(OUTAGE_S)
    end.host.site.plug_in()
    watched.back_within(f"line of {whose} dead for {OUTAGE_S:g} s", INVISIBLE_S)


def test_after_all_of_it_the_best_path_is_taken_again(settled: Pair) -> None:
    for here, there in ((settled.kim, settled.lou), (settled.lou, settled.kim)):
        until(lambda here=here, there=there: here.path_kind(there.name) == "direct-udp", "a direct path", 60)  # type: ignore[misc]
