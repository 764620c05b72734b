"""The identity key at rest, and who holds what opens it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fabric.custody.at_rest import GENERATED_COST
from fabric.custody.identity_file import IDENTITY_FILE, Secrets, Surroundings, move_identity, open_identity
from fabric.custody.providers import passphrase
from fabric.custody.providers.passphrase import GENERATED_FILE, KEY_FILE, PASSPHRASE_FILE, SYSTEMD_CREDENTIAL
from fabric.errors import ConfigurationError
from tests.shell.test_durable import Kernel, PowerLoss


@pytest.fixture(autouse=True)
def _light_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost is not what is tested here."""
    monkeypatch.setattr(passphrase, "PASSPHRASE_COST", GENERATED_COST)


def kept(directory: Path, *, passphrase_file: Path | None = None, credentials: Path | None = None) -> Surroundings:
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)} if credentials else {}
    return Surroundings(directory, passphrase_file, environment)


def opened(directory: Path, *, passphrase_file: Path | None = None, credentials: Path | None = None) -> Secrets:
    return open_identity(kept(directory, passphrase_file=passphrase_file, credentials=credentials))


def credential(directory: Path, passphrase: str = "correct horse") -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "fabric-passphrase").write_text(passphrase + "\n")
    return directory


def test_without_a_passphrase_one_is_generated_for_its_owner_only(tmp_path: Path) -> None:
    made = opened(tmp_path)
    assert made.custody == KEY_FILE
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
    assert made.custody == SYSTEMD_CREDENTIAL
    assert not (state / GENERATED_FILE).exists()


def test_a_key_moves_to_a_stronger_source_when_it_is_there(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    before = opened(state)
    credentials = credential(tmp_path / "credentials")
    after = opened(state, credentials=credentials)
    assert (after.seed, after.storage_key) == (before.seed, before.storage_key)
    assert after.custody == SYSTEMD_CREDENTIAL
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


def test_a_key_moves_by_a_persons_word_and_what_was_is_wiped(tmp_path: Path) -> None:
    state, secret = tmp_path / "state", tmp_path / "secret"
    state.mkdir()
    before = opened(state)
    old = os.open(state / IDENTITY_FILE, os.O_RDONLY)
    old_passphrase = os.open(state / GENERATED_FILE, os.O_RDONLY)
    secret.write_text("from a file")
    after = move_identity(kept(state, passphrase_file=secret), "file")
    assert (after.seed, after.storage_key, after.custody) == (before.seed, before.storage_key, PASSPHRASE_FILE)
    assert opened(state, passphrase_file=secret) == after
    for descriptor in (old, old_passphrase):
        assert set(os.read(descriptor, 4096)) == {0}, "whoever held the old file open reads nothing"
        os.close(descriptor)


@pytest.mark.parametrize("fatal", range(8))
def test_a_crash_while_a_person_moves_it_loses_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    state, secret = tmp_path / "state", tmp_path / "secret"
    state.mkdir()
    before = opened(state)
    secret.write_text("from a file")
    around = kept(state, passphrase_file=secret)
    with monkeypatch.context() as patched:
        kernel = Kernel(patched, fatal)
        try:
            move_identity(around, "file")
        except PowerLoss:
            assert len(kernel.steps) == fatal
    after = open_identity(around)
    assert (after.seed, after.storage_key) == (before.seed, before.storage_key)


@pytest.mark.parametrize("wish", ["", "none", "FILE", "tpm3", "pkcs12:token=x", "a" * 5000])
def test_a_custody_that_there_is_not_is_refused(tmp_path: Path, wish: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no custody"):
        open_identity(kept(tmp_path), wish)
    assert not list(tmp_path.iterdir())


def test_a_credential_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no systemd credential"):
        open_identity(kept(tmp_path), "systemd")
    opened(tmp_path)
    with pytest.raises(ConfigurationError, match="no systemd credential"):
        move_identity(kept(tmp_path), "systemd")
    assert opened(tmp_path).custody == KEY_FILE


def test_a_key_that_is_elsewhere_is_not_made_anew_where_a_person_wished_it(tmp_path: Path) -> None:
    before = open_identity(kept(tmp_path), "file")
    assert open_identity(kept(tmp_path), "file") == before
    with pytest.raises(ConfigurationError, match="custody move"):
        open_identity(kept(tmp_path, credentials=credential(tmp_path / "credentials")), "systemd")
