"""The measurement of custody runs, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.custody_providers import STEM
from tests.custody.hardware import needs, why_no_token, why_no_tpm

pytestmark = [pytest.mark.slow, needs(why_no_tpm()), needs(why_no_token())]


def test_every_kind_of_custody_is_measured(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "tests.bench.custody_providers", "--quick", "--output", str(tmp_path)]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    found = json.loads((tmp_path / f"{STEM}.json").read_text())["medians"]
    assert len(found) == 4
    for label, costs in found.items():
        assert f"| {label} |" in printed
        assert min(costs.values()) > 0
