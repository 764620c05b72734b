"""What `fabric doctor` says of networks that are known to the letter, and of the paths between them.

          ( internet )
     |        |         |           |
[discovery] port-r.  symmetric   symmetric      TCP 443 only
              |         |           |               |
             ada       ben         cid             dot
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_path, connect
from fabric.lab.product import until

pytestmark = pytest.mark.timeout(120)

KINDS = {"ada": Nat.PORT_RESTRICTED, "ben": Nat.SYMMETRIC, "cid": Nat.SYMMETRIC, "dot": Nat.WEB_ONLY}


@pytest.fixture(scope="module")
def town(lab: Lab) -> dict[str, Endpoint]:
    made = Overlay(lab).endpoints({name: lab.site(f"s-{name}", kind) for name, kind in KINDS.items()})
    connect(*made.values(), path="any")
    await_path(made["ada"], made["ben"], "direct-udp", within_s=30.0)
    return made


def doctor(endpoint: Endpoint, *arguments: str) -> dict[str, Any]:
    finished = endpoint.command("doctor", *arguments, "--json")
    assert finished.code == 0, finished.errors
    told: dict[str, Any] = json.loads(finished.output)
    return told


def checks(endpoint: Endpoint) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in doctor(endpoint)["checks"]}


def test_the_network_is_told_as_it_is(town: dict[str, Endpoint]) -> None:
    until(lambda: checks(town["ada"])["nat"]["verdict"] == "ok", "knows its NAT", 20.0)
    ada = checks(town["ada"])
    assert ada["udp"]["verdict"] == "ok"
    assert ada["discovery"]["verdict"] == "ok"
    assert ada["relay"]["verdict"] == "ok"
    assert ada["clock"]["verdict"] == "ok"
    assert "endpoint" in json.dumps(ada["nat"])
    dot = checks(town["dot"])
    assert dot["udp"]["verdict"] == "failed"
    assert dot["discovery"]["verdict"] == "ok"


def test_a_nat_that_changes_ports_is_told(town: dict[str, Endpoint]) -> None:
    until(lambda: checks(town["ben"])["nat"]["verdict"] == "limited", "knows its NAT", 20.0)


def test_two_that_can_only_use_a_relay_are_told_why_and_what_would_help(town: dict[str, Endpoint]) -> None:
    def why() -> str:
        return str(doctor(town["ben"], "cid")["why"])

    until(lambda: "every destination its own port" in why(), "says why", 60.0)
    told = doctor(town["ben"], "cid")
    assert any("forward UDP" in fix for fix in told["fixes"])
    tried = {attempt["outcome"] for attempt in told["attempts"]}
    assert tried >= {"answers", "unanswered"}
    assert why() == (town["ben"].peer("cid") or {})["why"]


def test_a_direct_path_is_said_to_be_one(town: dict[str, Endpoint]) -> None:
    told = doctor(town["ada"], "ben")
    assert told["why"].startswith("directly over UDP")
    assert told["fixes"] == []


def test_a_network_without_udp_is_named(town: dict[str, Endpoint]) -> None:
    until(lambda: "UDP" in str(doctor(town["ada"], "dot")["why"]), "says why", 30.0)


def test_a_person_reads_it_too(town: dict[str, Endpoint]) -> None:
    for arguments in ((), ("cid",)):
        finished = town["ben"].command("doctor", *arguments)
        assert finished.code == 0
        assert len(finished.output.splitlines()) > 5
    assert town["ben"].command("doctor", "nobody").code == 4
