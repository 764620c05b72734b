"""How `fabricd` ends when it can't begin; what it does otherwise is for namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabric.custody.identity_file import Surroundings
from fabric.custody.vault import Vault
from fabric.shell.lock import only_one
from tests.shell.homestead import found

pytestmark = pytest.mark.slow

WITHOUT_NET_ADMIN = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 12, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_ADMIN
os.execv(sys.executable, [sys.executable, "-c", "from fabric.shell.start import main; main()", *sys.argv[1:]])
"""
PROGRAM = "from fabric.shell.start import main; main()"


def fabricd(state: Path, *, program: str = PROGRAM, **environment: str) -> tuple[int, str]:
    """Returns the exit code and what was said on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", program, "--state", str(state)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stderr


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return found(tmp_path).settle("alice")


def test_a_host_that_is_not_enrolled_is_told_how(tmp_path: Path) -> None:
    code, said = fabricd(tmp_path)
    assert code == 78
    assert said.startswith("fabricd: ")
    assert "fabric enrol KEY" in said
    assert len(said.splitlines()) == 1


def test_a_wrong_setting_ends_with_78(state: Path) -> None:
    code, said = fabricd(state, FABRIC_CIPHER="rot13")
    assert code == 78
    assert "cipher" in said
    assert len(said.splitlines()) == 1


def test_a_second_daemon_on_the_same_state_is_refused(state: Path) -> None:
    with only_one(state):
        code, said = fabricd(state)
    assert code == 1
    assert "another fabricd runs" in said


def test_a_key_that_is_not_the_certificates_is_refused(state: Path) -> None:
    for name in ("identity.key", "identity.passphrase"):
        (state / name).unlink()
    code, said = fabricd(state)
    assert code == 78
    assert "enrol again" in said


def test_without_the_privilege_for_a_device_it_ends_with_3(state: Path) -> None:
    code, said = fabricd(state, program=WITHOUT_NET_ADMIN, FABRIC_DEVICE="fabtest9")
    assert code == 3
    assert len(said.splitlines()) == 1
    assert "fabtest9" in said


def test_a_lock_is_free_again_when_its_holder_is_gone(tmp_path: Path) -> None:
    for _ in range(2):
        with only_one(tmp_path):
            pass


def test_a_key_that_another_name_has_is_refused_and_not_tried_again(state: Path) -> None:
    Vault(Surroundings(state, None, {})).begin("bob.home")
    code, said = fabricd(state)
    assert code == 78
    assert "this identity key is bob.home's" in said
