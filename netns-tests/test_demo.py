"""The demo runs to its end, proves what it says, can be played with, and leaves nothing.

its own internet: see the map that it prints
"""

from __future__ import annotations

import re
import subprocess

import pytest

from fabric.lab.namespace import NAMED
from fabric.lab.product import installed
from fabric.lab.world import destroy_lab, leftovers

PREFIX = "fab-demo-"

pytestmark = pytest.mark.timeout(180)


def test_the_demo_stands_to_be_played_with_and_goes_when_told() -> None:
    destroy_lab("demo")
    shown = subprocess.run([installed("fabric"), "demo", "--keep"], capture_output=True, text=True, check=False)
    try:
        assert shown.returncode == 0, shown.stdout + shown.stderr
        assert shown.stdout.count("SHA-256") >= 4
        assert "All three pairs talk directly" in shown.stdout
        at, down = (re.search(rf"^  (/tmp/{PREFIX}\S+/{script})\b", shown.stdout, re.M) for script in ("at", "down"))
        assert at is not None
        assert down is not None
        pinged = subprocess.run([at[1], "alice", "fabric", "ping", "bob", "-c", "1"], check=False)
        assert pinged.returncode == 0
        assert subprocess.run([down[1]], capture_output=True, check=False).returncode == 0
        assert leftovers(PREFIX) == []
    finally:
        destroy_lab("demo")
    assert not list(NAMED.glob(f"{PREFIX}*"))
