"""A connection ends the moment it may no longer be: removed, revoked, or a certificate at its end.

     ( internet )----[discovery, certificates of 30 s]
   |         |          |
port-r.   full cone   carrier
   |         |          |
  pam       quin      rosa
"""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import connect, describe, introduce
from fabric.lab.product import until
from fabric.lab.traffic import Pings

AT_ONCE_S = 3.0
CERTIFICATE_S = 30

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> dict[str, Endpoint]:
    kinds = {"pam": Nat.PORT_RESTRICTED, "quin": Nat.FULL_CONE, "rosa": Nat.CARRIER}
    made = overlay.endpoints({name: lab.site(f"s-{name}", kind) for name, kind in kinds.items()})
    connect(*made.values())
    return made


def connected(one: Endpoint, other: str) -> bool:
    peer = one.peer(other)
    return peer is not None and peer["state"] == "connected"


def test_remove_ends_the_connection_at_once_on_both_sides_and_a_new_wish_begins_another(
    people: dict[str, Endpoint],
) -> None:
    pam, quin = people["pam"], people["quin"]
    address = quin.overlay_ip()
    assert pam.reaches(address)
    pam.remove("quin")
    assert not pam.reaches(address, within_s=0.5)
    assert pam.peer("quin") is None
    until(lambda: not connected(quin, "pam"), "quin's side ends too", AT_ONCE_S)
    view = quin.peer("pam")
    assert view is not None
    assert view["path"] is None
    assert pam.reaches(people["rosa"].overlay_ip()), "the others are not affected"
    introduce(pam, quin)
    assert pam.wait("quin").code == 0, describe(pam, quin)
    assert pam.reaches(address)


def test_remove_ends_it_on_both_sides_without_the_service_as_well(
    people: dict[str, Endpoint], overlay: Overlay
) -> None:
    quin, rosa = people["quin"], people["rosa"]
    overlay.discovery.kill()
    try:
        quin.remove("rosa")
        until(lambda: not connected(rosa, "quin"), "rosa's side ends too", AT_ONCE_S)
        assert not rosa.reaches(quin.overlay_ip(), within_s=0.5)
    finally:
        overlay.discovery.start()
    connect(quin, rosa, timeout_s=60)


def test_disable_ends_the_connection_and_enable_brings_it_back(people: dict[str, Endpoint]) -> None:
    pam, rosa = people["pam"], people["rosa"]
    pam.command("disable", "rosa").must()
    until(lambda: not connected(rosa, "pam"), "rosa's side ends too", AT_ONCE_S)
    view = pam.peer("rosa")
    assert view is not None
    assert view["state"] == "disabled"
    assert not rosa.reaches(pam.overlay_ip(), within_s=0.5)
    pam.command("enable", "rosa").must()
    assert pam.wait("rosa").code == 0, describe(pam, rosa)
    assert rosa.reaches(pam.overlay_ip())


def test_a_revoked_endpoint_is_cut_off_at_once_by_every_peer(
    lab: Lab, overlay: Overlay, people: dict[str, Endpoint]
) -> None:
    thief = overlay.endpoint("thief", lab.site("s-thief", Nat.FULL_CONE))
    pam, quin = people["pam"], people["quin"]
    connect(thief, pam)
    connect(thief, quin)
    overlay.discovery.revoke("thief")
    for one in (pam, quin):
        until(partial(cut_off, one, "thief"), f"{one.name} cuts thief off", AT_ONCE_S)
        assert not thief.reaches(one.overlay_ip(), within_s=0.5)
    thief.kill()
    thief.start()
    assert thief.wait("pam", path="any", timeout_s=5).code == 1
    assert pam.reaches(quin.overlay_ip())


def cut_off(one: Endpoint, other: str) -> bool:
    return not connected(one, other)


# -- certificates at their end ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal(lab: Lab) -> Overlay:
    """Another network on the same internet, whose certificates live for 30 seconds."""
    return Overlay(lab, "mortal", at="undertaker", configuration=f"certificate_life_s = {CERTIFICATE_S}")


@pytest.fixture(scope="module")
def mortals(lab: Lab, mortal: Overlay) -> dict[str, Endpoint]:
    kinds = {"sam": Nat.PORT_RESTRICTED, "tess": Nat.FULL_CONE}
    made = mortal.endpoints({name: lab.site(f"s-{name}", kind) for name, kind in kinds.items()})
    connect(*made.values())
    return made


def expires_unix(endpoint: Endpoint) -> float:
    return datetime.fromisoformat(endpoint.status()["endpoint"]["certificate"]["expires"]).timestamp()


def test_renewal_drops_no_frame(mortals: dict[str, Endpoint]) -> None:
    sam, tess = mortals["sam"], mortals["tess"]
    pings = Pings(sam.host, tess.overlay_ip(), interval_s=0.02)
    old = expires_unix(sam), expires_unix(tess)
    until(lambda: expires_unix(sam) > old[0] and expires_unix(tess) > old[1], "both renew", CERTIFICATE_S)
    until(lambda: time.time() > max(old) + 2, "the old certificates end", CERTIFICATE_S)
    answered = pings.finish()
    assert answered.lost == 0, f"{answered}\n{describe(sam, tess)}"


def test_a_connection_ends_when_a_certificate_does(mortals: dict[str, Endpoint], mortal: Overlay) -> None:
    """Nobody can renew any more, so both certificates end; traffic ends with the first of them."""
    sam, tess = mortals["sam"], mortals["tess"]
    pings = Pings(sam.host, tess.overlay_ip())
    mortal.discovery.kill()
    end = min(expires_unix(sam), expires_unix(tess))
    until(lambda: time.time() > end + AT_ONCE_S, "the first certificate ends", CERTIFICATE_S + 10)
    last = max(pings.answers_unix())
    assert end - 2 < last < end + AT_ONCE_S
    assert not connected(sam, "tess")
    assert not connected(tess, "sam")
    pings.finish()
