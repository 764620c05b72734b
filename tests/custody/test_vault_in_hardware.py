"""A whole identity under a TPM, and one inside a token: the vault as the daemons' custodian uses it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_HANDSHAKE_CLIENT, Ed25519Signer, verify
from fabric.custody.identity_file import IDENTITY_FILE, Surroundings
from fabric.custody.vault import Vault
from fabric.errors import ConfigurationError, PolicyError
from fabric.identity.request import decode_request
from fabric.shell.custody import Child, RemoteCustodian, open_custody
from fabric.shell.exit_code import CommandError, ExitCode
from tests.custody.hardware import (
    SoftTokens,
    SoftTpm,
    loaded_tokens,
    needs,
    running_tpm,
    why_no_token,
    why_no_tpm,
)

pytestmark = pytest.mark.slow

NAME = "web-1.home"
NOW = 1_800_000_000.0
HASHES = (blake2b_256(b"transcript"), blake2b_256(b"certificates"))


@pytest.fixture
def tpm() -> Iterator[SoftTpm]:
    with running_tpm() as made:
        yield made


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTokens]:
    with loaded_tokens(tmp_path_factory.mktemp("softhsm"), "here", "there") as made:
        yield made


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    directory = tmp_path / "state"
    directory.mkdir()
    return Surroundings(directory, None, {})


def _all_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file())


def _require_at_work(vault: Vault | RemoteCustodian) -> None:
    """It does what a daemon asks of it."""
    signature = vault.sign(LABEL_HANDSHAKE_CLIENT, *HASHES)
    verify(vault.public_key, LABEL_HANDSHAKE_CLIENT, signature, *HASHES)
    assert decode_request(vault.make_request(NAME, b"n" * 16)).public_key == vault.public_key


@needs(why_no_tpm())
def test_an_identity_under_a_tpm_works_and_comes_back(tpm: SoftTpm, around: Surroundings) -> None:
    vault = Vault(around, f"tpm2:{tpm.tcti}")
    vault.next_bundle(NAME, NOW)
    _require_at_work(vault)
    tpm.stop()
    tpm.start()
    back = Vault(around)
    assert (back.public_key, back.storage_key, back.bundle) == (vault.public_key, vault.storage_key, vault.bundle)
    assert back.custody == "tpm2"
    _require_at_work(back)


@needs(why_no_tpm())
def test_the_process_that_holds_the_keys_reaches_the_tpm_without_a_network(tpm: SoftTpm, around: Surroundings) -> None:
    public_keys = set()
    for _ in range(2):
        way = Child(around.directory, None, os.environ)
        with open_custody(way, name=NAME, custody=f"tpm2:{tpm.tcti}") as custodian:
            assert custodian.custody == "tpm2"
            _require_at_work(custodian)
            public_keys.add(custodian.public_key)
    assert len(public_keys) == 1


@needs(why_no_token())
def test_the_process_that_holds_the_keys_reaches_the_token(tokens: SoftTokens, around: Surroundings) -> None:
    uri = tokens.uri("here", "keyd")
    for _ in range(2):
        with open_custody(Child(around.directory, None, os.environ), name=NAME, custody=uri) as custodian:
            assert custodian.custody == "pkcs11"
            _require_at_work(custodian)
    assert Vault(around).public_key == custodian.public_key


@needs(why_no_token())
def test_a_daemon_whose_token_is_away_is_to_be_started_again_until_it_is_back(
    tokens: SoftTokens, around: Surroundings
) -> None:
    uri = tokens.uri("here", "absent")
    with open_custody(Child(around.directory, None, os.environ), name=NAME, custody=uri) as custodian:
        _require_at_work(custodian)
        with tokens.unplugged(), pytest.raises(CommandError, match="token 'here'") as told:
            _require_at_work(custodian)
        assert told.value.code is ExitCode.UNREACHABLE
        _require_at_work(custodian)


@needs(why_no_tpm())
def test_a_copied_state_directory_is_of_no_use_on_another_machine(tpm: SoftTpm, around: Surroundings) -> None:
    vault = Vault(around, f"tpm2:{tpm.tcti}")
    vault.next_bundle(NAME, NOW)
    tpm.stop()
    shutil.rmtree(tpm.directory)
    tpm.start()
    with pytest.raises(ConfigurationError, match="another TPM"):
        Vault(around)
    copied = _all_bytes(around.directory)
    assert vault.storage_key not in copied
    assert [held for held in vault.keys.held if held.offer.secret_bytes in copied] == []


@needs(why_no_tpm())
def test_an_identity_moves_under_the_tpm_and_back_and_stays_the_same(tpm: SoftTpm, around: Surroundings) -> None:
    vault = Vault(around, "file")
    public_key, in_the_open = vault.public_key, set(around.directory.iterdir())
    vault.move(f"tpm2:{tpm.tcti}")
    assert set(around.directory.iterdir()) < in_the_open
    assert (Vault(around).public_key, Vault(around).custody) == (public_key, "tpm2")
    vault.move("file")
    tpm.stop()
    assert (Vault(around).public_key, Vault(around).custody) == (public_key, "key-file")


@needs(why_no_tpm())
def test_a_new_identity_key_is_made_under_the_tpm_too(tpm: SoftTpm, around: Surroundings) -> None:
    vault = Vault(around, f"tpm2:{tpm.tcti}")
    before = vault.public_key
    vault.rotate(NAME, NOW)
    after = decode_request(vault.make_request(NAME, b"n" * 16, by_next=True)).public_key
    vault.take_over(after)
    back = Vault(around)
    assert before != after == back.public_key
    assert back.custody == "tpm2"
    _require_at_work(back)


@needs(why_no_token())
def test_an_identity_in_a_token_works_and_comes_back(tokens: SoftTokens, around: Surroundings) -> None:
    vault = Vault(around, tokens.uri("here", "back"))
    vault.next_bundle(NAME, NOW)
    _require_at_work(vault)
    back = Vault(around)
    assert (back.public_key, back.storage_key, back.bundle) == (vault.public_key, vault.storage_key, vault.bundle)
    assert back.custody == "pkcs11"
    _require_at_work(back)


@needs(why_no_token())
def test_what_is_sealed_beside_a_token_is_not_its_identity_key(tokens: SoftTokens, around: Surroundings) -> None:
    from fabric.custody.providers.pkcs11 import open_provider

    uri = tokens.uri("here", "apart")
    vault = Vault(around, uri)
    blob = (around.directory / IDENTITY_FILE).read_bytes().partition(b"\n")[2]
    plain = open_provider(uri, around.directory).unseal(blob)
    for seed in (plain[:32], plain[32:]):
        assert Ed25519Signer(seed).public_key != vault.public_key


@needs(why_no_token())
def test_without_its_token_an_identity_says_what_is_missing(tokens: SoftTokens, around: Surroundings) -> None:
    Vault(around, tokens.uri("here", "gone"))
    path = around.directory / IDENTITY_FILE
    path.write_bytes(path.read_bytes().replace(b"token=here", b"token=gone"))
    with pytest.raises(ConfigurationError, match="sees no token 'gone': plug it in"):
        Vault(around)
    path.write_bytes(path.read_bytes().replace(b"token=gone", b"token=there"))
    with pytest.raises(ConfigurationError, match="token 'there'"):
        Vault(around)


@needs(why_no_token())
def test_a_key_neither_moves_out_of_its_token_nor_into_one(tokens: SoftTokens, around: Surroundings) -> None:
    vault = Vault(around, tokens.uri("here", "stays"))
    with pytest.raises(ConfigurationError, match="made in its token and stays there"):
        vault.move("file")
    assert Vault(around).public_key == vault.public_key


@needs(why_no_token())
def test_a_key_in_a_token_signs_no_more_than_any_other(tokens: SoftTokens, around: Surroundings) -> None:
    vault = Vault(around, tokens.uri("here", "rules"))
    with pytest.raises(PolicyError):
        vault.sign(b"fabric/1 grant", bytes(32))
