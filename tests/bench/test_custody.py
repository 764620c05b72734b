"""The measurement of the custodian's process runs, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.custody import STEM

pytestmark = pytest.mark.slow


def test_each_operation_is_measured_here_and_there(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "tests.bench.custody", "--quick", "--output", str(tmp_path)]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    found = json.loads((tmp_path / f"{STEM}.json").read_text())
    assert len(found["operations"]) == 6
    for label, both in found["operations"].items():
        assert f"| {label} |" in printed
        assert both["there"]["median_us"] > both["here"]["median_us"] > 0
    assert min(found["process"].values()) > 0
