"""An office from which only an HTTP proxy leads out: Debian's tinyproxy, which wants a password.

        ( internet )
    |          |          |
 public      public    port-r.        ( no line )
    |          |          |                |
[discovery,  [gate] -------------------- office
  relay]    tinyproxy    una               |
                                          ova
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_reach, connect
from fabric.lab.product import until

PORT = 8888

pytestmark = pytest.mark.timeout(120)


@dataclass
class Town:
    overlay: Overlay
    proxy: str
    ova: Endpoint
    una: Endpoint


@pytest.fixture(scope="module")
def town(lab: Lab) -> Town:
    overlay = Overlay(lab)
    office = lab.site("s-office", Nat.FIREWALL)
    gate = lab.site("s-gate", Nat.PUBLIC).host("gate")
    inside = gate.add_uplink(office).address.ip
    office.unplug()
    configuration = lab.directory / "tinyproxy.conf"
    configuration.write_text(f"Port {PORT}\nBasicAuth ann secret\nConnectPort 443\nTimeout 600\n")
    tinyproxy = gate.start("tinyproxy", "-d", "-c", str(configuration), log="tinyproxy")
    until(lambda: "listening" in tinyproxy.output().lower(), "tinyproxy listens")
    proxy = f"{inside}:{PORT}"
    ova = overlay.endpoint("ova", office, configuration=f'proxy = "http://ann:secret@{proxy}"')
    una = overlay.endpoint("una", lab.site("s-una", Nat.PORT_RESTRICTED))
    return Town(overlay, proxy, ova, una)


def test_the_service_is_reached_through_the_proxy(town: Town) -> None:
    """And enrolment went that way, too."""
    until(lambda: town.ova.status()["endpoint"]["discovery"] == "connected", "the service is reached")


def test_frames_flow_through_the_proxy_and_a_relay(town: Town) -> None:
    connect(town.ova, town.una, path="any")
    await_reach(town.una, town.ova, 5.0)
    assert town.ova.path_kind("una") == "relay-tls"


def test_a_wrong_password_is_said_to_be_the_reason(town: Town) -> None:
    town.ova.stop()
    configuration = town.ova.state / "config.toml"
    configuration.write_text(configuration.read_text().replace("secret", "wrong"))
    town.ova.start()
    until(lambda: "password" in town.ova.status()["endpoint"]["discovery_why"], "the reason is told")
    assert "wrong" not in town.ova.process.output()
