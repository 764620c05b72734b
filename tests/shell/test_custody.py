"""The identity key at rest, and who holds what opens it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabric.custody.at_rest import GENERATED_COST
from fabric.errors import ConfigurationError
from fabric.shell import custody
from fabric.shell.custody import GENERATED_FILE, IDENTITY_FILE, Custody, Secrets, open_identity
from tests.shell.test_durable import Kernel, PowerLoss


@pytest.fixture(autouse=True)
def _light_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is not what is tested here."""
    monkeypatch.setattr(custody, "PASSPHRASE_COST", GENERATED_COST)


def opened(directory: Path, *, passphrase_file: Path | None = None, credentials: Path | None = None) -> Secrets:
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)} if credentials else {}
    return open_identity(directory, str(passphrase_file) if passphrase_file else None, environment, os.urandom)


def credential(directory: Path, passphrase: str = "correct horse") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "fabric-passphrase").write_text(passphrase + "\n")
    return directory


def test_without_a_passphrase_one_is_generated_for_its_owner_only(tmp_path: Path) -> None:
    made = opened(tmp_path)
    assert made.custody is Custody.KEY_FILE
    assert opened(tmp_path) == made
    for name in (IDENTITY_FILE, GENERATED_FILE):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_no_secret_is_in_the_file_or_in_a_repr(tmp_path: Path) -> None:
    made = opened(tmp_path)
    stored = (tmp_path / IDENTITY_FILE).read_bytes()
    for secret in (made.seed, made.storage_key):
        assert secret not in stored
        assert secret.hex().encode() not in stored
        assert repr(secret)[2:-1] not in repr(made)


def test_a_systemd_credential_is_used_before_a_file(tmp_path: Path) -> None:
    state, secret = tmp_path / "state", tmp_path / "secret"
    state.mkdir()
    secret.write_text("from a file")
    made = opened(state, passphrase_file=secret, credentials=credential(tmp_path / "credentials"))
    assert made.custody is Custody.SYSTEMD_CREDENTIAL
    assert not (state / GENERATED_FILE).exists()


def test_a_key_moves_to_a_stronger_source_when_it_is_there(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    before = opened(state)
    credentials = credential(tmp_path / "credentials")
    after = opened(state, credentials=credentials)
    assert (after.seed, after.storage_key) == (before.seed, before.storage_key)
    assert after.custody is Custody.SYSTEMD_CREDENTIAL
    assert not (state / GENERATED_FILE).exists(), "the weak key must not go on opening it"
    assert opened(state, credentials=credentials) == after


@pytest.mark.parametrize("fatal", range(5))
def test_a_crash_while_it_moves_loses_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    before = opened(state)
    credentials = credential(tmp_path / "credentials")
    with monkeypatch.context() as patched:
        Kernel(patched, fatal)
        with pytest.raises(PowerLoss):
            opened(state, credentials=credentials)
    after = opened(state, credentials=credentials)
    assert (after.seed, after.storage_key) == (before.seed, before.storage_key)


@pytest.mark.parametrize("fatal", range(8))
def test_a_crash_at_the_first_start_is_made_good_by_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    with monkeypatch.context() as patched:
        Kernel(patched, fatal)
        with pytest.raises(PowerLoss):
            opened(tmp_path)
    assert opened(tmp_path) == opened(tmp_path)


def test_another_passphrase_does_not_open_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    opened(state, credentials=credential(tmp_path / "credentials"))
    with pytest.raises(ConfigurationError, match="does not open"):
        opened(state, credentials=credential(tmp_path / "credentials", "wrong donkey"))


def test_a_missing_passphrase_is_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    opened(state, credentials=credential(tmp_path / "credentials"))
    with pytest.raises(ConfigurationError, match="sealed under a systemd-credential, and there is none"):
        opened(state)
    with pytest.raises(ConfigurationError, match="there is no"):
        opened(state, passphrase_file=tmp_path / "nowhere")


def test_an_empty_passphrase_is_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    with pytest.raises(ConfigurationError, match="empty"):
        opened(tmp_path, passphrase_file=empty)


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_a_damaged_file_is_a_mistake_in_the_configuration_and_nothing_else(tmp_path: Path, position: int) -> None:
    opened(tmp_path)
    path = tmp_path / IDENTITY_FILE
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigurationError):
        opened(tmp_path)
