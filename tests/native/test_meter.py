"""The meters of the native lane, in C and under the sanitizers: `meter_checks.c` says what is checked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.native.test_queue import FLAGS, HERE, NATIVE


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the native lane can't be built here either")
def test_the_meters_keep_what_they_promise(tmp_path: Path) -> None:
    program = tmp_path / "meter_checks"
    sources = (HERE / "meter_checks.c", NATIVE / "meter.c")
    subprocess.run(["cc", *FLAGS, "-fsanitize=address,undefined", *sources, "-lm", "-o", program], check=True)
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "all hold\n"), ran.stdout + ran.stderr
