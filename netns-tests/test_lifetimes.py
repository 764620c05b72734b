"""What happens to machines and networks in a year: whatever breaks, the connection comes back by itself in seconds.

            ( internet )----[discovery]
        |        |        |          |          |         |        |
    full cone  port-r.  port-r.   port-r.   full cone   port-r.  port-r.
        |        |        |       mappings      |         |        |
       ada      ben      dan      of 30 s      fay       gus      hal
                                    eve

Pairs: ada-ben for crashes, eve-fay left idle, gus-hal for sleep, and each is connected before; dan comes later. What
the network does to a connection is in test_changes.py. What can't be made here: a machine that really sleeps (SIGSTOP
stops the program, but CLOCK_BOOTTIME and CLOCK_MONOTONIC go on together, and its network card stays up).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_connected, await_reach, connect, describe
from fabric.lab.product import until
from fabric.lab.traffic import Pings

BACK_WITHIN_S = 10.0
IDLE_S = 65.0
SHORT_MAPPING_S = 30
SUSPENDED_S = 40.0

pytestmark = pytest.mark.timeout(180)


@dataclass
class Neighbourhood:
    endpoints: dict[str, Endpoint]
    idle_since: float

    def __getitem__(self, name: str) -> Endpoint:
        return self.endpoints[name]


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> Iterator[Neighbourhood]:
    """All connected; eve and fay are left alone from here on, gus is stopped where he stands."""
    places = {
        "ada": lab.site("s-ada", Nat.FULL_CONE),
        "ben": lab.site("s-ben", Nat.PORT_RESTRICTED),
        "dan": lab.site("s-dan", Nat.PORT_RESTRICTED),
        "eve": lab.site("s-eve", Nat.PORT_RESTRICTED),
        "fay": lab.site("s-fay", Nat.FULL_CONE),
        "gus": lab.site("s-gus", Nat.PORT_RESTRICTED),
        "hal": lab.site("s-hal", Nat.PORT_RESTRICTED),
    }
    places["eve"].shorten_mappings(SHORT_MAPPING_S)
    places["fay"].shorten_mappings(SHORT_MAPPING_S)
    made = overlay.endpoints(places)
    for one, other in (("ada", "ben"), ("eve", "fay"), ("gus", "hal")):
        connect(made[one], made[other])
    made["gus"].pause()
    yield Neighbourhood(made, time.monotonic())
    made["gus"].resume()


# -- crashes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("victim", "witness"), [("ada", "ben"), ("ben", "ada")])
def test_an_endpoint_killed_and_restarted_is_back_in_seconds(people: Neighbourhood, victim: str, witness: str) -> None:
    address = people[victim].overlay_ip()
    people[victim].kill()
    people[victim].start()
    await_reach(people[victim], people[witness], BACK_WITHIN_S)
    assert people[victim].overlay_ip() == address


def test_an_endpoint_stopped_and_started_is_back_in_seconds(people: Neighbourhood) -> None:
    address = people["ada"].overlay_ip()
    assert people["ada"].stop() == 0
    assert not people["ben"].reaches(address, within_s=0.5)
    people["ada"].start()
    await_reach(people["ada"], people["ben"], BACK_WITHIN_S)


def test_both_ends_killed_at_once_find_each_other_again(people: Neighbourhood) -> None:
    for name in ("ada", "ben"):
        people[name].kill()
    for name in ("ada", "ben"):
        people[name].start()
    await_reach(people["ada"], people["ben"], BACK_WITHIN_S)


# -- the discovery service goes ---------------------------------------------------------------------------------


def test_a_running_session_does_not_notice_that_discovery_is_gone(people: Neighbourhood, overlay: Overlay) -> None:
    pings = Pings(people["ada"].host, people["ben"].overlay_ip())
    overlay.discovery.kill()
    until(lambda: people["ada"].status()["endpoint"]["discovery"] == "unreachable", "ada notices", 30)
    overlay.discovery.start()
    until(lambda: people["ada"].status()["endpoint"]["discovery"] == "connected", "ada is connected again", 60)
    assert pings.finish().lost == 0


def test_new_peers_meet_once_discovery_is_back(people: Neighbourhood, overlay: Overlay) -> None:
    overlay.discovery.kill()
    people["ada"].add("dan")
    people["dan"].add("ada")
    overlay.discovery.start()
    await_connected(people["ada"], people["dan"], timeout_s=60)


# -- nothing happens for a while --------------------------------------------------------------------------------


def test_a_suspended_machine_is_back_in_seconds_after_waking(people: Neighbourhood) -> None:
    rest(people, SUSPENDED_S)
    hal = people["hal"]
    (seen,) = hal.status()["peers"]
    (address, *_) = [each for each in seen["addresses"] if ":" not in each]
    assert not hal.reaches(address, within_s=0.5)
    people["gus"].resume()
    await_reach(people["gus"], people["hal"], BACK_WITHIN_S)


def test_an_idle_connection_outlives_short_mappings(people: Neighbourhood) -> None:
    """Neither eve nor fay has sent anything for twice the mapping's life; then the very first ping is answered."""
    rest(people, IDLE_S)
    eve, fay = people["eve"], people["fay"]
    assert eve.reaches(fay.overlay_ip(), within_s=1), describe(eve, fay)
    assert fay.reaches(eve.overlay_ip(), within_s=1)


def rest(people: Neighbourhood, until_s: float) -> None:
    """Lets real time pass until so long after the start: NATs have no clock of ours."""
    time.sleep(max(0.0, people.idle_since + until_s - time.monotonic()))
