"""What the authority is asked to sign: once for each certificate, and wherever its key is kept.

    ( internet )----[discovery]        certificates of 20 s, to be renewed at two thirds
  |        |        |
full    port-r.   public
cone
  |        |        |
 ada      ben     (thief of ada)
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import connect, describe
from fabric.lab.product import DiscoveryService, installed, until
from fabric.lab.traffic import Pings

LIFE_S = 20
SHORT = f"certificate_life_s = {LIFE_S}"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def overlay(lab: Lab) -> Overlay:
    return Overlay(lab, configuration=SHORT)


def enrolled(discovery: DiscoveryService, name: str) -> dict[str, Any]:
    endpoints = json.loads(discovery.command("endpoint", "list", "--json").must().output)["endpoints"]
    return next(dict(each) for each in endpoints if each["name"] == f"{name}.home")


def issued(discovery: DiscoveryService, name: str) -> int:
    """How many certificates there were for a name."""
    with closing(sqlite3.connect(f"file:{discovery.state / 'discovery.db'}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM certificates WHERE name = ?", (f"{name}.home",)).fetchone()
    return int(count)


def has_drawn(endpoint: Endpoint) -> bool:
    """Whether the random value of a renewal is on its disk."""
    with closing(sqlite3.connect(f"file:{endpoint.state / 'state.db'}?mode=ro", uri=True)) as database:
        return database.execute("SELECT 1 FROM facts WHERE name = 'renewal'").fetchone() is not None


def unread(discovery: DiscoveryService) -> bool:
    """Whether something lies in a socket of its host that nobody has read."""
    lines = discovery.host.run("ss", "-Htn", "state", "established").must().output.splitlines()
    return any(int(line.split()[0]) > 0 for line in lines)


def said(daemon: DiscoveryService | Endpoint, words: str) -> bool:
    return words in daemon.last_words(10_000)


def discovery_why(endpoint: Endpoint) -> str:
    return str(endpoint.status()["endpoint"]["discovery_why"])


def hears(endpoint: Endpoint, words: str) -> bool:
    return words in discovery_why(endpoint)


def lasts(endpoint: Endpoint, least_s: float) -> bool:
    return float(endpoint.status()["endpoint"]["certificate"]["expires_in_s"]) > least_s


def test_a_copied_state_directory_that_renews_is_found_and_both_are_told_why(
    lab: Lab, overlay: Overlay, figure: Callable[[str], None]
) -> None:
    discovery = overlay.discovery
    ada = overlay.endpoint("ada", lab.site("s-ada", Nat.FULL_CONE))
    ada.stop()
    thief = Endpoint(lab, lab.site("s-thief", Nat.PUBLIC).host("thief"), "thief")
    shutil.copytree(ada.state, thief.state, ignore=shutil.ignore_patterns("*.sock", "*.log"))
    ada.start()
    thief.start()
    until(lambda: enrolled(discovery, "ada")["state"] == "revoked", "the copy is found", 2.0 * LIFE_S)
    record = enrolled(discovery, "ada")
    assert sorted(record["renewed_from"]) == sorted([str(ada.host.site.wan.ip), str(thief.host.ip)]), record
    assert "renewed twice" in record["why"]
    assert abs(record["revoked"] - time.time()) < LIFE_S
    assert said(discovery, "ALARM")
    for endpoint in (ada, thief):
        until(partial(hears, endpoint, "renewed twice"), f"{endpoint.name} is told why")
    figure(f"a copied state directory found at its renewal: {issued(discovery, 'ada')} certificates, both hosts told")
    ada.stop()
    thief.stop()


def test_a_lost_answer_a_crash_between_and_a_retry_are_no_alarm(lab: Lab, overlay: Overlay) -> None:
    discovery = overlay.discovery
    ben = overlay.endpoint("ben", lab.site("s-ben", Nat.PORT_RESTRICTED))
    assert issued(discovery, "ben") == 1
    until(lambda: ben.status()["endpoint"]["discovery"] == "connected", "ben has a channel")
    discovery.pause()
    until(lambda: has_drawn(ben), "ben asks for the next certificate", 1.0 * LIFE_S)
    until(lambda: unread(discovery), "the request is with a service that does not read")
    ben.kill()
    discovery.resume()
    until(lambda: issued(discovery, "ben") == 2, "an answer that nobody hears")
    ben.start()
    until(
        lambda: ben.status()["endpoint"]["certificate"]["expires_in_s"] > LIFE_S / 2, "ben has the answer", 1.0 * LIFE_S
    )
    assert enrolled(discovery, "ben")["state"] == "enrolled"
    assert issued(discovery, "ben") <= 3
    until(lambda: issued(discovery, "ben") >= 4, "ben renews on and on", 2.0 * LIFE_S)
    assert enrolled(discovery, "ben")["state"] == "enrolled"
    ben.stop()


class Vault:
    """The other machine: it has the key's file, and no network at all."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.key, self.requests, self.answers = (directory / name for name in ("authority", "requests", "answers"))
        self.passphrase = directory / "passphrase"
        self.passphrase.write_text("correct horse battery staple\n")

    def carry(self, discovery: DiscoveryService) -> str:
        """Takes the requests there, signs them, and brings the answers back; returns what was shown."""
        discovery.command("requests", "export", str(self.requests)).must()
        words = ["sign", str(self.requests), "--authority", str(self.key), "-o", str(self.answers), "--yes"]
        words += ["--passphrase-file", str(self.passphrase)]
        shown = discovery.host.run(installed("discoveryd"), *words).must().output
        discovery.command("requests", "import", str(self.answers)).must()
        return shown


def waiting(discovery: DiscoveryService) -> list[tuple[str, str]]:
    listed = json.loads(discovery.command("requests", "--json").must().output)["requests"]
    return [(request["kind"], request["name"]) for request in listed if request["state"] == "waiting"]


def test_with_the_authority_away_hosts_wait_for_a_person_and_nothing_else_stops(
    lab: Lab, figure: Callable[[str], None]
) -> None:
    vault = Vault(lab.directory / "vault")
    discovery = DiscoveryService(lab, lab.site("s-away", Nat.PUBLIC).host("away"), "away", label="away")
    discovery.init("--authority-offline", str(vault.key), "--passphrase-file", str(vault.passphrase))
    discovery.append_configuration("certificate_life_s = 60")
    discovery.start()
    key = discovery.create_key()
    sites = {"una": Nat.FULL_CONE, "vic": Nat.PORT_RESTRICTED}
    una, vic = (Endpoint(lab, lab.site(f"s-{name}", nat).host(name)) for name, nat in sites.items())

    refused = una.command("enrol", key, "--name", "una", "--patience", "0")
    assert refused.code == 5
    assert "A person has to sign" in refused.errors
    assert "again later" in refused.errors
    patient = vic.host.start(
        installed("fabric"),
        *("enrol", key, "--name", "vic", "--patience", "120"),
        log="vic-enrol.log",
        environment={"FABRIC_STATE": str(vic.state)},
    )
    until(lambda: len(waiting(discovery)) == 2, "both wait")
    shown = vault.carry(discovery)
    assert "una.away" in shown
    assert "vic.away" in shown
    assert waiting(discovery) == []
    una.command("enrol", key, "--name", "una").must()
    until(lambda: not patient.running, "vic needs no second command", 60.0)
    una.start()
    vic.start()
    connect(una, vic)

    with_pings = Pings(una.host, vic.overlay_ip(), 0.05)
    until(lambda: {kind for kind, _ in waiting(discovery)} == {"renewal"}, "certificates are to be renewed", 60.0)
    until(lambda: len(waiting(discovery)) == 2, "both of them")
    vault.carry(discovery)
    for endpoint in (una, vic):
        until(partial(lasts, endpoint, 40.0), f"{endpoint.name} has its next certificate", 10.0)
    answered = with_pings.finish()
    assert answered.lost == 0, f"{answered}\n{describe(una, vic)}"

    discovery.revoke("vic")
    until(lambda: "revoked" in discovery_why(vic), "vic is out at once, and told")
    assert waiting(discovery) == [("revocations", "vic.away")]
    discovery.kill()
    discovery.start()
    assert waiting(discovery) == [("revocations", "vic.away")]
    assert una.path_kind("vic") is not None  # the service alone is not believed
    vault.carry(discovery)
    assert waiting(discovery) == []
    until(lambda: una.path_kind("vic") is None, "the list ends the session")
    figure(f"with the authority away: {answered.sent} pings through two renewals signed by hand, none lost")
