"""The authority's key under a TPM, or under a token: sealed by what the service's configuration names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography import x509

from discovery.shell.authority_key import AUTHORITY_KEY_FILE, GENERATED_FILE, open_key
from discovery.shell.config import CONFIG_FILE, load_config
from discovery.shell.detaching import detach
from discovery.shell.state import create_state, open_state
from fabric.custody.providers.pkcs11 import open_provider
from fabric.errors import ConfigurationError
from fabric.identity.authority import DAY_S
from fabric.identity.trust import Trust
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

NETWORK, ADDRESSES, OVERLAY = "home", ["discovery.example"], IPv4Network("100.64.0.0/24")


def unix() -> float:
    """The root's life begins with its test: the file may have been read long before."""
    return float(int(time.time()))


@pytest.fixture
def tpm() -> Iterator[SoftTpm]:
    with running_tpm() as made:
        yield made


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTokens]:
    with loaded_tokens(tmp_path_factory.mktemp("softhsm"), "authority") as made:
        yield made


def _configure(directory: Path, custody: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / CONFIG_FILE).write_text(f'authority_custody = "{custody}"\n')


def _seed(directory: Path) -> bytes:
    """What the service signs with, opened as at its start; it fits the network's root, or it would not be opened."""
    with open_state(directory) as state:
        config = load_config(directory, {})
        state.authority(config)
        return open_key(state.safe(config))


def _all_bytes(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file())


@needs(why_no_tpm())
def test_a_new_authority_is_under_the_tpm_from_its_first_moment(tpm: SoftTpm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    _configure(state, f"tpm2:{tpm.tcti}")
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    assert not (state / GENERATED_FILE).exists()
    tpm.stop()
    tpm.start()
    assert _seed(state) not in _all_bytes(state)


@needs(why_no_tpm())
def test_an_authority_moves_under_the_tpm_at_the_next_start(tpm: SoftTpm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    before = _seed(state)
    _configure(state, f"tpm2:{tpm.tcti}")
    assert _seed(state) == before
    assert (state / AUTHORITY_KEY_FILE).read_bytes().startswith(b"tpm2 swtpm:")
    assert not (state / GENERATED_FILE).exists()


@needs(why_no_tpm())
def test_it_stays_under_the_tpm_where_the_setting_was_taken_away(tpm: SoftTpm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    _configure(state, f"tpm2:{tpm.tcti}")
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    (state / CONFIG_FILE).write_text("")
    seed, content = _seed(state), (state / AUTHORITY_KEY_FILE).read_bytes()
    assert _seed(state) == seed
    assert (state / AUTHORITY_KEY_FILE).read_bytes() == content
    assert not (state / GENERATED_FILE).exists()


@needs(why_no_tpm())
def test_the_copied_state_of_a_service_signs_nothing_elsewhere(tpm: SoftTpm, tmp_path: Path) -> None:
    state = tmp_path / "state"
    _configure(state, f"tpm2:{tpm.tcti}")
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    with running_tpm() as other:
        line = (state / AUTHORITY_KEY_FILE).read_bytes().replace(tpm.tcti.encode(), other.tcti.encode(), 1)
        (state / AUTHORITY_KEY_FILE).write_bytes(line)
        _configure(state, f"tpm2:{other.tcti}")
        with pytest.raises(ConfigurationError, match=r"authority\.key: it is sealed to another TPM"):
            _seed(state)


@needs(why_no_token())
def test_an_authority_lies_under_a_key_that_is_in_a_token(tokens: SoftTokens, tmp_path: Path) -> None:
    state = tmp_path / "state"
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    before = _seed(state)
    _configure(state, tokens.uri("authority"))
    assert _seed(state) == before
    assert _seed(state) == before
    assert before not in _all_bytes(state)
    assert not (state / GENERATED_FILE).exists()


@needs(why_no_token())
def test_an_authority_whose_token_was_there_first_has_its_key_in_it_alone(tokens: SoftTokens, tmp_path: Path) -> None:
    state = tmp_path / "state"
    uri = tokens.uri("authority", "inside")
    _configure(state, uri)
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    assert (state / AUTHORITY_KEY_FILE).read_text() == f"pkcs11 {uri}\n"
    assert not (state / GENERATED_FILE).exists()
    with open_state(state) as opened:
        authority = opened.authority(load_config(state, {}))
        assert opened.root.public_key == open_provider(uri, state).public_key()
        now = unix()
        service = authority.issue_service(b"k" * 32, ["discovery.example"], 7, now, now + DAY_S)
        Trust(opened.root.der, NETWORK, None).check_service(service, "discovery.example", now + 1)
        x509.load_der_x509_crl(authority.issue_crl({}, 1, now, now + DAY_S))


@needs(why_no_token())
def test_a_key_that_was_made_in_a_token_stays_there_whatever_is_configured(tokens: SoftTokens, tmp_path: Path) -> None:
    state = tmp_path / "state"
    _configure(state, tokens.uri("authority", "stays"))
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    content = (state / AUTHORITY_KEY_FILE).read_bytes()
    (state / CONFIG_FILE).write_text("")
    with open_state(state) as opened:
        config = load_config(state, {})
        opened.authority(config)
        with pytest.raises(ConfigurationError, match="made in its token and stays there"):
            detach(opened, config, tmp_path / "taken", b"a long passphrase", unix())
    assert (state / AUTHORITY_KEY_FILE).read_bytes() == content


@needs(why_no_token())
def test_while_the_token_is_away_the_authority_may_be_tried_again(tokens: SoftTokens, tmp_path: Path) -> None:
    state = tmp_path / "state"
    _configure(state, tokens.uri("authority", "away"))
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    with open_state(state) as opened:
        authority = opened.authority(load_config(state, {}))
        with tokens.unplugged(), pytest.raises(CommandError, match="the authority can't sign") as told:
            authority.issue_crl({}, 1, unix(), unix() + DAY_S)
        assert told.value.code is ExitCode.UNREACHABLE
        authority.issue_crl({}, 1, unix(), unix() + DAY_S)


@pytest.mark.parametrize("custody", ["file", "tpm", "TPM2", "pkcs11", "pkcs11:token=x", "systemd"])
def test_what_seals_nothing_is_refused_and_the_key_stays(tmp_path: Path, custody: str) -> None:
    state = tmp_path / "state"
    create_state(state, NETWORK, ADDRESSES, OVERLAY)
    content = (state / AUTHORITY_KEY_FILE).read_bytes()
    _configure(state, custody)
    with pytest.raises(ConfigurationError):
        _seed(state)
    assert (state / AUTHORITY_KEY_FILE).read_bytes() == content
