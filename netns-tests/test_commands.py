"""The words, exit codes and JSON that people and scripts rely on, against running programs.

( internet )----[discovery]
   |        |
 walt     xena
"""

from __future__ import annotations

import json

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import connect
from fabric.lab.product import installed

DID_NOT_HOLD, WRONG_USAGE, NOT_PERMITTED, NO_SUCH_THING, UNREACHABLE = 1, 2, 3, 4, 5
PEER_FIELDS = {
    "name", "state", "why", "path", "cipher", "addresses", "mac", "last_seen_s", "rx_bytes", "tx_bytes", "drops",
}  # fmt: skip

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> dict[str, Endpoint]:
    made = overlay.endpoints({name: lab.site(f"s-{name}", Nat.PUBLIC) for name in ("walt", "xena")})
    connect(*made.values())
    return made


def newcomer(lab: Lab, name: str) -> Endpoint:
    return Endpoint(lab, lab.site(f"s-{name}", Nat.PUBLIC).host(name))


def test_status_in_json_has_every_promised_field(people: dict[str, Endpoint]) -> None:
    status = people["walt"].status()
    assert {"name", "network", "addresses", "mac", "device", "cipher", "certificate", "discovery"} <= set(
        status["endpoint"]
    )
    assert status["endpoint"]["network"] == "home"
    assert status["endpoint"]["discovery"] == "connected"
    assert "expires" in status["endpoint"]["certificate"]
    (peer,) = status["peers"]
    assert set(peer) >= PEER_FIELDS
    assert set(peer["path"]) >= {"kind", "remote", "rtt_ms", "mtu"}
    assert peer["cipher"] in ("aes-256-gcm", "chacha20-poly1305")


def test_status_for_a_person_names_the_peer(people: dict[str, Endpoint]) -> None:
    shown = people["walt"].command("status").must().output
    assert "xena" in shown
    assert "connected" in shown


@pytest.mark.parametrize("name", ["xena", "xena.home"])
def test_a_peer_may_be_named_with_and_without_its_network(people: dict[str, Endpoint], name: str) -> None:
    assert people["walt"].wait(name, timeout_s=5).code == 0
    assert people["walt"].ping(name).code == 0


def test_counters_of_a_peer_grow_with_traffic(people: dict[str, Endpoint]) -> None:
    before = people["walt"].peer("xena")
    assert people["walt"].reaches(people["xena"].overlay_ip(), count=5, size=1000)
    after = people["walt"].peer("xena")
    assert before is not None
    assert after is not None
    assert after["tx_bytes"] - before["tx_bytes"] >= 5000
    assert after["rx_bytes"] - before["rx_bytes"] >= 5000


def test_a_wait_that_takes_too_long_ends_with_1(people: dict[str, Endpoint]) -> None:
    people["walt"].add("ghost")
    assert people["walt"].wait("ghost", path="any", timeout_s=1).code == DID_NOT_HOLD
    assert people["walt"].ping("ghost").code == DID_NOT_HOLD
    people["walt"].remove("ghost")


def test_a_peer_that_was_never_added_is_no_such_thing(people: dict[str, Endpoint]) -> None:
    for words in (("remove", "stranger"), ("status", "stranger"), ("ping", "stranger", "-c", "1")):
        done = people["walt"].command(*words)
        assert done.code == NO_SUCH_THING, words
        assert len(done.errors.strip().splitlines()) == 1, done.errors


def test_wrong_usage_ends_with_2(people: dict[str, Endpoint]) -> None:
    assert people["walt"].command("add").code == WRONG_USAGE
    assert people["walt"].command("fly").code == WRONG_USAGE


def test_a_key_serves_as_often_as_it_was_made_for(lab: Lab, overlay: Overlay) -> None:
    key = overlay.discovery.create_key("--uses", "1")
    first, second = newcomer(lab, "yara"), newcomer(lab, "zoe")
    first.enrol(key)
    refused = second.command("enrol", key, "--name", "zoe")
    assert refused.code == NOT_PERMITTED
    assert len(refused.errors.strip().splitlines()) == 1


def test_a_revoked_key_serves_no_more(lab: Lab, overlay: Overlay) -> None:
    overlay.discovery.create_key("--tag", "to-be-revoked")
    listed = overlay.discovery.command("key", "list").must().output
    (line,) = [line for line in listed.splitlines() if "to-be-revoked" in line]
    ids = line.replace("│", " ").replace("|", " ").split()
    overlay.discovery.command("key", "revoke", ids[0]).must()


def test_a_name_in_use_is_never_issued_to_another_key(lab: Lab, overlay: Overlay, people: dict[str, Endpoint]) -> None:
    impostor = newcomer(lab, "impostor")
    refused = impostor.command("enrol", overlay.discovery.create_key(), "--name", "xena")
    assert refused.code == NOT_PERMITTED


def test_a_key_may_come_from_the_environment(lab: Lab, overlay: Overlay) -> None:
    quiet = newcomer(lab, "quiet")
    environment = {"FABRIC_STATE": str(quiet.state), "FABRIC_ENROLMENT_KEY": overlay.discovery.create_key()}
    done = quiet.host.run(installed("fabric"), "enrol", "--name", "quiet", environment=environment)
    assert done.code == 0, done.errors


def test_an_unreachable_service_may_be_tried_again(lab: Lab, overlay: Overlay) -> None:
    key = overlay.discovery.create_key()
    cut_off = newcomer(lab, "cutoff")
    cut_off.host.site.unplug()
    refused = cut_off.command("enrol", key, "--name", "cutoff", timeout_s=60)
    assert refused.code == UNREACHABLE
    cut_off.host.site.plug_in()
    cut_off.enrol(key)


def test_a_wish_made_while_the_daemon_is_down_is_acted_on_when_it_starts(
    lab: Lab, overlay: Overlay, people: dict[str, Endpoint]
) -> None:
    late = newcomer(lab, "late")
    late.enrol(overlay.discovery.create_key())
    late.add("walt")
    people["walt"].add("late")
    late.start()
    assert late.wait("walt").code == 0


def test_endpoints_are_listed_by_the_service(overlay: Overlay, people: dict[str, Endpoint]) -> None:
    listed = json.loads(overlay.discovery.command("endpoint", "list", "--json").must().output)
    assert "walt" in json.dumps(listed)
    assert "xena" in json.dumps(listed)
