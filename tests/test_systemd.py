"""The units: valid, and no more exposed than promised."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fabric.shell.custody import SYSTEM_SOCKET

UNITS = Path(__file__).parent.parent / "systemd"
BOUNDS = {
    "fabricd.service": 2.0,
    "fabric-keyd.service": 0.5,
    "discoveryd.service": 1.5,
    "discoveryd-relay.service": 1.5,
}

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False, timeout=60)


@needs_systemd
@pytest.mark.parametrize("unit", BOUNDS)
def test_the_exposure_of_a_unit_stays_within_its_bound(unit: str) -> None:
    done = analyze("security", "--offline=true", "--no-pager", UNITS / unit)
    stated = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert stated is not None, done.stderr
    assert float(stated[1]) <= BOUNDS[unit]


@needs_systemd
@pytest.mark.parametrize("unit", BOUNDS)
def test_a_unit_is_clean(unit: str, tmp_path: Path) -> None:
    """The programs are looked for where this suite runs them from, not where they get installed."""
    for beside in UNITS.glob("*.socket"):
        shutil.copy(beside, tmp_path)
    copy = tmp_path / unit
    copy.write_text((UNITS / unit).read_text().replace("/usr/local/bin/", f"{Path(sys.executable).parent}/"))
    done = analyze("verify", "--man=no", copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("unit", BOUNDS)
def test_the_users_and_directories_of_a_unit_are_made(unit: str) -> None:
    text = (UNITS / unit).read_text()
    user = re.search(r"^User=(\S+)$", text, re.MULTILINE)
    directory = re.search(r"^StateDirectory=(\S+)$", text, re.MULTILINE)
    assert user is not None
    assert directory is not None
    assert re.search(rf"^u {user[1]} ", (UNITS / "sysusers.conf").read_text(), re.MULTILINE)
    assert re.search(rf"^d /var/lib/{directory[1]} .* {user[1]} ", (UNITS / "tmpfiles.conf").read_text(), re.MULTILINE)


@pytest.mark.parametrize("unit", BOUNDS)
def test_a_mistake_of_configuration_is_not_started_again(unit: str) -> None:
    assert re.search(r"^RestartPreventExitStatus=.*\b78\b", (UNITS / unit).read_text(), re.MULTILINE)


def test_fabricd_has_one_capability() -> None:
    text = (UNITS / "fabricd.service").read_text()
    assert (
        re.findall(r"^(?:AmbientCapabilities|CapabilityBoundingSet)=(.*)$", text, re.MULTILINE) == ["CAP_NET_ADMIN"] * 2
    )


def test_the_custodian_has_no_network_and_no_capability() -> None:
    text = (UNITS / "fabric-keyd.service").read_text()
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert (settings["PrivateNetwork"], settings["IPAddressDeny"]) == ("yes", "any")
    assert settings["RestrictAddressFamilies"] == "AF_UNIX"
    assert settings["CapabilityBoundingSet"] == ""
    assert "AmbientCapabilities" not in settings


def test_the_daemon_alone_is_let_in_to_the_custodian() -> None:
    listening = dict(re.findall(r"^(\w+)=(.*)$", (UNITS / "fabric-keyd.socket").read_text(), re.MULTILINE))
    daemon = (UNITS / "fabricd.service").read_text()
    group = re.search(r"^Group=(\S+)$", daemon, re.MULTILINE)
    assert group is not None
    assert (listening["SocketMode"], listening["SocketGroup"]) == ("0660", group[1])
    assert Path(listening["ListenStream"]) == SYSTEM_SOCKET
    assert re.search(r"^Wants=.*\bfabric-keyd\.socket\b", daemon, re.MULTILINE)
    assert f"--user {group[1]}" in (UNITS / "fabric-keyd.service").read_text()
