"""`fabric custody move` and `fabric enrol --custody`, over custodians that are real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fabric.cli.main import app
from fabric.custody.identity_file import IDENTITY_FILE, Surroundings, open_identity
from fabric.custody.providers.passphrase import GENERATED_FILE
from fabric.identity.enrolment_key import EnrolmentKey
from fabric.shell.exit_code import ExitCode
from fabric.shell.program import run_program


def fabric(*words: str) -> int:
    return run_program(app, "fabric", list(words))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def test_an_identity_moves_into_the_custody_of_a_passphrase_file(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_identity(Surroundings(state, None, {}))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse")
    monkeypatch.setenv("FABRIC_PASSPHRASE_FILE", str(passphrase))
    assert fabric("custody", "move", "file", "--state", str(state), "--json") == ExitCode.DONE
    assert json.loads(capsys.readouterr().out) == {"custody": "passphrase-file"}
    after = open_identity(Surroundings(state, passphrase, {}))
    assert (after.seed, after.storage_key) == (before.seed, before.storage_key)
    assert not (state / GENERATED_FILE).exists()


@pytest.mark.parametrize("wish", ["systemd", "no-such", "pkcs11:"])
def test_a_custody_that_is_not_to_be_had_leaves_the_identity_where_it_is(
    state: Path, capsys: pytest.CaptureFixture[str], wish: str
) -> None:
    open_identity(Surroundings(state, None, {}))
    content = (state / IDENTITY_FILE).read_bytes()
    assert fabric("custody", "move", wish, "--state", str(state)) == ExitCode.WRONG_CONFIGURATION
    said = capsys.readouterr().err
    assert said.startswith("fabric: ")
    assert len(said.splitlines()) == 1
    assert (state / IDENTITY_FILE).read_bytes() == content


@pytest.mark.parametrize(("custody", "is_made"), [("systemd", False), ("file", True)])
def test_enrolment_makes_an_identity_in_the_custody_that_is_named_or_none(
    state: Path, capsys: pytest.CaptureFixture[str], custody: str, is_made: bool
) -> None:
    key = EnrolmentKey(("127.0.0.1:9",), bytes(32), "k1", b"s" * 32).encode()
    code = fabric("enrol", key, "--name", "a", "--custody", custody, "--state", str(state))
    assert code == (ExitCode.UNREACHABLE if is_made else ExitCode.WRONG_CONFIGURATION)
    assert capsys.readouterr().err
    assert (state / IDENTITY_FILE).exists() == is_made
