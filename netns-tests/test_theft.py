"""State, not possession: who uses a copied state directory is found at the next contact of the real one.

    ( internet )----[discovery]
  |        |        |         |
full    port-r.  port-r.    public
cone
  |        |        |         |
 ada      zoe     (thief of ada, or of zoe)
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import connect, describe, introduce
from fabric.lab.product import until

FOUND_S = 20.0
"""Dead paths are given up after some 10 s at most; the alarm itself takes a handshake."""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def pair(lab: Lab, overlay: Overlay) -> tuple[Endpoint, Endpoint]:
    places = {"ada": lab.site("s-ada", Nat.FULL_CONE), "zoe": lab.site("s-zoe", Nat.PORT_RESTRICTED)}
    made = overlay.endpoints(places)
    connect(*made.values())
    return made["ada"], made["zoe"]


def steal(lab: Lab, victim: Endpoint, name: str) -> Endpoint:
    """Copies all that the stopped victim has, to a host elsewhere."""
    thief = Endpoint(lab, lab.site(f"s-{name}", Nat.PUBLIC).host(name), name)
    copy_state(victim.state, thief.state)
    return thief


def copy_state(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.sock", "*.log"))


def state_of(endpoint: Endpoint, peer: str) -> str | None:
    view = endpoint.peer(peer)
    return None if view is None else str(view["state"])


def alarm_of(endpoint: Endpoint, peer: str) -> dict[str, dict[str, str]]:
    view = endpoint.peer(peer)
    assert view is not None
    alarm: dict[str, dict[str, str]] = view["trust"]["alarm"]
    return alarm


def alarm_in_metrics(endpoint: Endpoint, peer: str) -> tuple[float, dict[str, float]]:
    """What `fabric metrics` says of the peer: whether there is an alarm, and remote address -> unix time."""
    text = endpoint.command("metrics").must().output
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    of_peer = [sample for sample in samples if sample.labels.get("peer", "").partition(".")[0] == peer]
    (is_raised,) = (sample.value for sample in of_peer if sample.name == "fabric_alarm")
    times = {s.labels["remote"]: s.value for s in of_peer if s.name == "fabric_alarm_timestamp_seconds"}
    return is_raised, times


def are_quarantined(one: Endpoint, other: Endpoint) -> bool:
    return state_of(one, other.name) == state_of(other, one.name) == "quarantined"


def begin_anew(one: Endpoint, other: Endpoint) -> None:
    """What a person does after the alarm."""
    for here, there in ((one, other), (other, one)):
        said = here.command("trust", "reset", there.name).must().output
        assert "trust reset" in said
    assert one.wait(other.name, timeout_s=90).code == 0, describe(one, other)
    for here, there in ((one, other), (other, one)):
        view = here.peer(there.name)
        assert view is not None
        assert view["trust"]["alarm"] is None
        assert alarm_in_metrics(here, there.name) == (0, {})


@pytest.mark.parametrize("stolen", ["ada", "zoe"])
def test_a_stolen_state_directory_is_found_when_the_real_one_is_back(
    lab: Lab, pair: tuple[Endpoint, Endpoint], stolen: str
) -> None:
    victim, peer = pair if stolen == "ada" else pair[::-1]
    victim.stop()
    thief = steal(lab, victim, f"thief-of-{stolen}")
    thief.start()
    until(lambda: state_of(thief, peer.name) == "connected", "the copy passes as the original", 30)
    thief_ip = thief.host.ip
    victim.start()
    began = time.monotonic()
    until(lambda: are_quarantined(victim, peer), "both real ends are alarmed", FOUND_S)
    print(f"copy of {stolen}: from the real one's start to the alarm on both sides {time.monotonic() - began:.1f} s")
    alarm = alarm_of(peer, victim.name)
    addresses = {alarm["at"]["remote"].rpartition(":")[0], alarm["before"]["remote"].rpartition(":")[0]}
    assert thief_ip in addresses
    assert not victim.reaches(peer.overlay_ip(), within_s=0.5)
    until(lambda: state_of(thief, peer.name) != "connected", "the copy is cut off as well", FOUND_S)
    assert any("alarm" in line and victim.name in line for line in peer.last_words(200).splitlines())
    listed = peer.command("trust", "list").must().output
    assert thief_ip in listed
    is_raised, times = alarm_in_metrics(peer, victim.name)
    assert is_raised == 1
    (met,) = (then for remote, then in times.items() if remote.rpartition(":")[0] == thief_ip)
    assert abs(time.time() - met) < 240, "the time is that of a handshake of this very test"
    thief.stop()
    begin_anew(victim, peer)


def test_a_restored_backup_is_told_and_mended_by_one_command_on_each_side(
    lab: Lab, pair: tuple[Endpoint, Endpoint]
) -> None:
    ada, zoe = pair
    ada.stop()
    copy_state(ada.state, lab.directory / "backup")
    ada.start()
    assert ada.wait("zoe", timeout_s=60).code == 0, describe(ada, zoe)
    until(lambda: ada.reaches(zoe.overlay_ip()), "frames flow", 20)
    ada.stop()
    copy_state(lab.directory / "backup", ada.state)
    ada.start()
    until(lambda: are_quarantined(ada, zoe), "both ends are alarmed", FOUND_S)
    view = ada.peer("zoe")
    assert view is not None
    assert "restored from a backup" in view["why"]
    assert "fabric trust reset zoe" in view["why"]
    assert ada.wait("zoe", timeout_s=1).code == 1
    begin_anew(ada, zoe)
    assert ada.reaches(zoe.overlay_ip())


def test_a_machine_cloned_while_it_runs_is_found_while_both_are_on(lab: Lab, pair: tuple[Endpoint, Endpoint]) -> None:
    ada, zoe = pair
    ada.stop()
    clone = steal(lab, ada, "clone")
    ada.start()
    assert ada.wait("zoe", timeout_s=60).code == 0, describe(ada, zoe)
    clone.start()
    until(lambda: are_quarantined(ada, zoe), "both real ends are alarmed", FOUND_S)
    clone.stop()
    begin_anew(ada, zoe)


def test_neither_a_restart_nor_power_cuts_nor_a_new_wish_is_an_alarm(pair: tuple[Endpoint, Endpoint]) -> None:
    ada, zoe = pair
    for each in (ada, zoe, ada):
        each.kill()
        each.start()
        assert ada.wait("zoe", timeout_s=60).code == 0, describe(ada, zoe)
    ada.remove("zoe")
    zoe.remove("ada")
    listed = ada.command("trust", "list").must().output
    assert "removed" in listed
    introduce(ada, zoe)
    assert ada.wait("zoe", timeout_s=60).code == 0, describe(ada, zoe)
    numbers = [one.peer(other.name)["trust"]["safety_number"] for one, other in ((ada, zoe), (zoe, ada))]  # type: ignore[index]
    assert numbers[0] == numbers[1] != ""
