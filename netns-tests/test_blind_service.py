"""The real service, and every byte that it stored, logged, was told, and that passed its line: no LAN address in it.

   ( internet )----[discovery, with an ear]
    |        |
port-restr.  symmetric
 |     |        |
ann   bob      cyd        a LAN at home, one at work
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabric.lab import Endpoint, Host, Lab, Nat, Overlay
from fabric.lab.overlay import await_path, connect
from fabric.lab.product import Daemon, until
from fabric.lab.wiretap import Wiretap

HERE = Path(__file__).parent
STUN_PORT = 3478
BY_OFFERS_ALONE = "find_on_lan = false"

pytestmark = pytest.mark.timeout(180)


@dataclass
class Service:
    """`discoveryd` with everything that it has, and that ever reached it."""

    daemon: Daemon
    ear: Path
    log: Path
    tap: Wiretap

    def possession(self) -> dict[str, bytes]:
        stored = [path.read_bytes() for path in sorted(self.daemon.state.rglob("*")) if path.is_file()]
        return {
            "stored": b"".join(stored),
            "logged": self.log.read_bytes(),
            "told": self.ear.read_bytes(),
            "passed": b"".join(self.tap.frames),
        }

    def places_of(self, *needles: bytes) -> set[str]:
        return {place for place, blob in self.possession().items() if any(needle in blob for needle in needles)}


@pytest.fixture(scope="module")
def service(lab: Lab, overlay: Overlay) -> Iterator[Service]:
    overlay.discovery.stop()
    host, state = overlay.discovery.host, overlay.discovery.state
    ear = lab.directory / "ear"
    words = [sys.executable, str(HERE / "listening_service.py"), "run", "--state", str(state), "--log-level", "debug"]
    daemon = Daemon(lab, host, words, "listening", state)
    daemon.environment["FABRIC_EAR"] = str(ear)
    with Wiretap(lab, host.site) as tap:
        daemon.start()
        yield Service(daemon, ear, lab.directory / "listening.log", tap)


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay, service: Service) -> dict[str, Endpoint]:
    home, work = lab.site("home", Nat.PORT_RESTRICTED), lab.site("work", Nat.SYMMETRIC)
    made = overlay.endpoints({"ann": home, "bob": home, "cyd": work}, configuration=BY_OFFERS_ALONE)
    connect(*made.values(), path="any", timeout_s=30.0)
    await_path(made["ann"], made["bob"], "lan")
    for one in made.values():
        for other in made.values():
            assert one is other or one.reaches(other.overlay_ip(), count=2)
    return made


def forms(host: Host) -> tuple[bytes, bytes]:
    return host.ip.encode(), ipaddress.ip_address(host.ip).packed


def test_neighbours_found_each_other_by_what_they_told_through_the_service(people: dict[str, Endpoint]) -> None:
    """So the addresses of their LAN did travel by it."""
    peer = people["ann"].peer("bob")
    assert peer is not None
    assert peer["path"]["remote"].startswith(people["bob"].host.ip + ":")


def test_no_lan_address_is_in_anything_that_the_service_has(service: Service, people: dict[str, Endpoint]) -> None:
    for endpoint in people.values():
        assert service.places_of(*forms(endpoint.host)) == set(), f"{endpoint.host.ip} of {endpoint.name}"


def test_what_the_service_does_know_is_found_where_it_is(service: Service, people: dict[str, Endpoint]) -> None:
    """Guards the search: names are stored, logged and told, and routers' addresses are seen in what passes."""
    for endpoint in people.values():
        assert service.places_of(endpoint.name.encode()) >= {"stored", "logged", "told"}
        assert "passed" in service.places_of(endpoint.host.site.wan.ip.packed)


def test_a_lan_address_that_is_said_in_the_clear_is_found(service: Service, people: dict[str, Endpoint]) -> None:
    ann = people["ann"].host

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as careless:
            careless.sendto(forms(ann)[1], (service.daemon.host.ip, STUN_PORT))

    ann.namespace.inside(send)
    until(lambda: service.places_of(forms(ann)[1]) == {"passed"}, "what was sent in the clear is found")
