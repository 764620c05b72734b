"""The queue of the native lane, in C and under the sanitizers: `queue_checks.c` says what is checked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = HERE.parent.parent / "fabric" / "dataplane" / "native"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-fno-sanitize-recover=all")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: the native lane can't be built here either")
def test_the_queue_keeps_what_it_promises(tmp_path: Path) -> None:
    program = tmp_path / "queue_checks"
    sources = (HERE / "queue_checks.c", NATIVE / "queue.c")
    subprocess.run(["cc", *FLAGS, "-fsanitize=address,undefined", *sources, "-lm", "-o", program], check=True)
    ran = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "all hold\n"), ran.stdout + ran.stderr
