"""A new identity key: sessions go on, peers learn of it from the key before, and a crash on the way loses nothing.

( internet )----[discovery]
   |         |
full cone  port-r.
   |         |
  eve       fay
"""

from __future__ import annotations

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import connect, describe
from fabric.lab.product import until
from fabric.lab.traffic import Pings

pytestmark = pytest.mark.timeout(240)

PAUSE_S = 15.0
"""The authority certifies no two keys of one name within ten seconds."""


@pytest.fixture(scope="module")
def pair(lab: Lab, overlay: Overlay) -> tuple[Endpoint, Endpoint]:
    places = {"eve": lab.site("s-eve", Nat.FULL_CONE), "fay": lab.site("s-fay", Nat.PORT_RESTRICTED)}
    made = overlay.endpoints(places)
    connect(*made.values())
    return made["eve"], made["fay"]


def fingerprint(endpoint: Endpoint) -> str:
    return str(endpoint.status()["endpoint"]["fingerprint"])


def known_as(endpoint: Endpoint, peer: str) -> str:
    view = endpoint.peer(peer)
    assert view is not None
    return str(view["trust"]["fingerprint"])


def rotate(endpoint: Endpoint) -> str:
    """Returns the new fingerprint; a certificate that is only seconds old is refused, so that is waited for."""
    before = fingerprint(endpoint)
    until(lambda: endpoint.command("rotate").code == 0, "the authority certifies the next key", PAUSE_S)
    after = fingerprint(endpoint)
    assert after != before
    return after


@pytest.mark.parametrize("who", ["eve", "fay"])
def test_no_frame_is_lost_while_a_key_changes_and_the_peer_knows_the_new_one(
    pair: tuple[Endpoint, Endpoint], who: str
) -> None:
    mine, theirs = pair if who == "eve" else pair[::-1]
    until(lambda: mine.reaches(theirs.overlay_ip()), "frames flow", 20)
    pings = Pings(mine.host, theirs.overlay_ip())
    new = rotate(mine)
    until(lambda: known_as(theirs, mine.name) == new, "the peer knows the new key", 10)
    answered = pings.finish()
    assert answered.sent == answered.received > 0
    assert mine.peer(theirs.name)["trust"]["alarm"] is None  # type: ignore[index]


def test_the_new_key_outlives_restarts_and_introductions(pair: tuple[Endpoint, Endpoint], overlay: Overlay) -> None:
    eve, fay = pair
    new = fingerprint(eve)
    overlay.discovery.stop()
    for each in (eve, fay):
        each.kill()
        each.start()
    assert eve.wait("fay", timeout_s=60).code == 0, describe(eve, fay)
    overlay.discovery.start()
    assert fingerprint(eve) == new == known_as(fay, "eve")
    until(lambda: eve.status()["endpoint"]["discovery"] == "connected", "the service knows the new key", 60)
    # eve was in session with the fay that was killed behind it, and hears of that from the one that calls.
    until(lambda: eve.reaches(fay.overlay_ip()), "frames flow", 20)


def test_a_peer_that_was_off_learns_of_it_when_it_is_back(pair: tuple[Endpoint, Endpoint]) -> None:
    eve, fay = pair
    fay.kill()
    new = rotate(eve)
    fay.start()
    until(lambda: known_as(fay, "eve") == new, "the peer knows the new key", 60)
    assert eve.wait("fay", timeout_s=60).code == 0, describe(eve, fay)
    numbers = {one.peer(other.name)["trust"]["safety_number"] for one, other in ((eve, fay), (fay, eve))}  # type: ignore[index]
    assert len(numbers) == 1


def test_without_the_service_it_says_what_is_missing(pair: tuple[Endpoint, Endpoint], overlay: Overlay) -> None:
    eve, fay = pair
    overlay.discovery.stop()
    try:
        until(lambda: eve.status()["endpoint"]["discovery"] == "unreachable", "the service is missed", 60)
        refused = eve.command("rotate")
        assert refused.code == 5
        assert "discovery service" in refused.errors
        assert eve.reaches(fay.overlay_ip())
    finally:
        overlay.discovery.start()
