"""The papers of an enrolment: all of them, or none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fabric.errors import ConfigurationError
from fabric.shell.papers import is_enrolled, load_papers
from tests.shell.homestead import found
from tests.shell.test_durable import Kernel, PowerLoss


def test_papers_come_back_and_openssl_reads_them(tmp_path: Path) -> None:
    homestead = found(tmp_path)
    state = homestead.settle("alice", 5)
    papers = load_papers(state)
    assert papers.certificate.name == "alice.home"
    assert papers.trust().fingerprint == homestead.authority.fingerprint
    assert papers.trust().crl_number == 1
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-in", state / "certificate.pem"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "DNS:alice.home" in shown
    assert "IP Address:100.64.0.5" in shown


@pytest.mark.parametrize("fatal", range(24))
def test_a_crash_during_enrolment_leaves_it_undone_or_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    homestead = found(tmp_path)
    with monkeypatch.context() as patched:
        Kernel(patched, fatal)
        with pytest.raises(PowerLoss):
            homestead.settle("alice")
    state = tmp_path / "alice"
    if is_enrolled(state):
        assert load_papers(state).certificate.name == "alice.home"
    homestead.settle("alice")
    assert load_papers(state).certificate.name == "alice.home"


@pytest.mark.parametrize("name", ["authority.pem", "network.json", "certificate.pem"])
def test_damaged_and_missing_papers_are_named(tmp_path: Path, name: str) -> None:
    state = found(tmp_path).settle("alice")
    (state / name).write_text("-----BEGIN NONSENSE-----")
    with pytest.raises(ConfigurationError, match="enrol again"):
        load_papers(state)
    (state / name).unlink()
    with pytest.raises(ConfigurationError, match="enrol"):
        load_papers(state)
