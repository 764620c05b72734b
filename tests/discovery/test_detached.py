"""The authority's key away from a real service: the commands that people type, over a real store and real TLS."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import trio

from discovery.cli.main import main
from discovery.core.settings import DAY_S
from discovery.shell.authority_file import append_journal, journal_path, open_seed, read_journal
from discovery.shell.authority_key import GENERATED_FILE, Safe, key_pem, open_key, store_key
from discovery.shell.config import Config, load_config
from discovery.shell.state import is_certificate_due, open_state
from discovery.shell.store_sqlite import DATABASE_FILE
from fabric.errors import ConfigurationError
from fabric.identity.enrolment_key import EnrolmentKey
from fabric.identity.request import make_request
from fabric.shell.durable import write_durably
from fabric.shell.exit_code import CommandError
from fabric.wire.rendezvous import EnrolmentAnswer, EnrolmentRefusal, Refused, Renew, Renewed, Welcome
from tests.discovery.guest import open_house

PASSPHRASE = "correct horse battery staple"


class Vault:
    """The other machine: the key's file, its passphrase, and what is carried there and back."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.key = directory / "authority"
        self.passphrase = directory / "passphrase"
        self.passphrase.write_text(PASSPHRASE + "\n")
        self.requests = directory / "requests"
        self.answers = directory / "answers"

    @property
    def options(self) -> list[str]:
        return ["--passphrase-file", str(self.passphrase)]

    def sign(self, *more: str) -> int:
        words = ["sign", str(self.requests), "--authority", str(self.key), "-o", str(self.answers), "--yes"]
        return main([*words, *self.options, *more])

    def carry(self, state: Path) -> None:
        """All the way, there and back again."""
        assert main(["requests", "export", str(self.requests), "--state", str(state)]) == 0
        assert self.sign() == 0
        assert main(["requests", "import", str(self.answers), "--state", str(state)]) == 0


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


@pytest.fixture
def state(tmp_path: Path, vault: Vault) -> Path:
    directory = tmp_path / "state"
    words = ["init", "--state", str(directory), "--network", "home", "--address", "127.0.0.1", "--address", "::1"]
    assert main([*words, "--authority-offline", str(vault.key), *vault.options]) == 0
    return directory


def waiting(state: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    capsys.readouterr()
    assert main(["requests", "--json", "--state", str(state)]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["requests"]
    return found


def new_key(state: Path, capsys: pytest.CaptureFixture[str]) -> EnrolmentKey:
    capsys.readouterr()
    assert main(["key", "create", "--state", str(state)]) == 0
    return EnrolmentKey.parse(capsys.readouterr().out)


def make_older(state: Path, seconds: float) -> None:
    """All certificates were issued longer ago."""
    with closing(sqlite3.connect(state / DATABASE_FILE)) as database:
        database.execute("UPDATE certificates SET issued = issued - ?", (seconds,))
        database.commit()


def test_nothing_of_the_key_is_left_with_the_service(state: Path, vault: Vault) -> None:
    seed = open_seed(vault.key, PASSPHRASE.encode())
    for path in [*state.iterdir(), *vault.key.parent.iterdir()]:
        assert seed not in path.read_bytes()
        assert key_pem(seed) not in path.read_bytes()
    assert not (state / "authority.key").exists()
    assert not (state / GENERATED_FILE).exists()
    assert vault.key.stat().st_mode & 0o077 == 0


async def test_an_enrolment_waits_a_person_signs_and_the_host_is_in(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    key, seed = new_key(state, capsys), os.urandom(32)
    async with open_house(state) as house:
        answer = await house.enrol(key, "ada", seed)
        assert isinstance(answer, EnrolmentRefusal)
        assert answer.code == "waiting"
        (request,) = waiting(state, capsys)
        assert (request["kind"], request["name"], request["state"]) == ("enrolment", "ada.home", "waiting")
        assert str(request["id"]) in answer.why
        vault.carry(state)
        assert waiting(state, capsys) == []
        answer = await house.enrol(key, "ada", seed)
        assert isinstance(answer, EnrolmentAnswer)
    assert len(read_journal(vault.key).certificates) == 1


@pytest.mark.slow
async def test_a_renewal_that_was_signed_is_pushed_to_the_host_at_once(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    key, seed = new_key(state, capsys), os.urandom(32)
    async with open_house(state) as house:
        await house.enrol(key, "ada", seed)
        vault.carry(state)
        make_older(state, 6 * DAY_S)
        guest = await house.guest_with(key, "ada", seed)
        await guest.say(Renew(make_request(seed, "ada.home", bytes(16))))
        refused = await guest.hear()
        assert isinstance(refused, Refused)
        assert "waits as request" in refused.why
        vault.carry(state)
        renewed = await guest.hear()
        assert isinstance(renewed, Renewed)


@pytest.mark.slow
async def test_a_revocation_is_heeded_at_once_and_listed_when_it_was_signed(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    key, seed = new_key(state, capsys), os.urandom(32)
    async with open_house(state) as house:
        await house.enrol(key, "eve", seed)
        vault.carry(state)
        guest = await house.guest_with(key, "eve", seed)
        assert house.command("endpoint", "revoke", "eve", "--why", "stolen") == 0
        await guest.until_closed()
        (request,) = waiting(state, capsys)
        assert (request["kind"], request["name"]) == ("revocations", "eve.home")
        vault.carry(state)
        assert waiting(state, capsys) == []
        welcome = await guest.connect()
        assert isinstance(welcome, Welcome)
        refused = await guest.hear()
        assert isinstance(refused, Refused)
        assert refused.why.endswith("stolen")
    journal = read_journal(vault.key)
    assert journal.newest_list is not None
    assert len(journal.newest_list.serials) == 1


def test_the_services_own_certificate_lasts_a_year_and_is_asked_for_when_the_address_changes(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_state(state) as opened:
        soon = is_certificate_due(opened, Config(), 0.0)
        assert soon  # its life has not begun then: what is looked at is real
    assert waiting(state, capsys) == []
    with (state / "config.toml").open("a") as file:
        file.write('addresses = ["discovery.example"]\n')
    (request,) = waiting(state, capsys)
    assert (request["kind"], request["name"]) == ("service", "discovery.example")
    before = (state / "service.pem").read_bytes()
    vault.carry(state)
    assert (state / "service.pem").read_bytes() != before
    assert not (state / "service.next").exists()
    assert waiting(state, capsys) == []


@pytest.mark.slow
def test_what_a_person_refuses_is_said_and_the_rest_is_signed(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    async def two() -> None:
        key = new_key(state, capsys)
        async with open_house(state) as house:
            for name in ("ada", "eve"):
                await house.enrol(key, name, os.urandom(32))

    trio.run(two)
    eve = next(str(request["id"]) for request in waiting(state, capsys) if request["name"] == "eve.home")
    assert main(["requests", "export", str(vault.requests), "--state", str(state)]) == 0
    assert vault.sign("--refuse", eve) == 1
    said = capsys.readouterr()
    assert "a person decided so" in said.err
    assert "ada.home" in said.out
    assert main(["requests", "import", str(vault.answers), "--state", str(state)]) == 0
    (left,) = waiting(state, capsys)
    assert left["name"] == "eve.home"
    assert str(left["state"]).startswith("refused")
    assert main(["requests", "drop", eve, "--state", str(state)]) == 0
    assert waiting(state, capsys) == []
    assert main(["requests", "drop", eve, "--state", str(state)]) == 4


@pytest.mark.slow
def test_a_person_who_says_no_has_signed_nothing(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (state / "config.toml").open("a") as file:
        file.write('addresses = ["discovery.example"]\n')
    assert main(["requests", "export", str(vault.requests), "--state", str(state)]) == 0
    before = journal_path(vault.key).read_bytes()
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    words = ["sign", str(vault.requests), "--authority", str(vault.key), "-o", str(vault.answers)]
    assert main([*words, *vault.options]) == 1
    assert not vault.answers.exists()
    assert journal_path(vault.key).read_bytes() == before


@pytest.mark.slow
def test_a_wrong_passphrase_signs_nothing(state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    with (state / "config.toml").open("a") as file:
        file.write('addresses = ["discovery.example"]\n')
    assert main(["requests", "export", str(vault.requests), "--state", str(state)]) == 0
    vault.passphrase.write_text("another one altogether")
    assert vault.sign() == 3
    assert "does not open" in capsys.readouterr().err
    assert not vault.answers.exists()


@pytest.mark.slow
def test_requests_of_another_network_are_not_signed(
    state: Path, vault: Vault, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Vault(tmp_path / "other-vault")
    words = ["init", "--state", str(tmp_path / "other"), "--network", "home", "--address", "127.0.0.1"]
    assert main([*words, "--authority-offline", str(other.key), *other.options]) == 0
    with (tmp_path / "other" / "config.toml").open("a") as file:
        file.write('addresses = ["discovery.example"]\n')
    assert main(["requests", "export", str(vault.requests), "--state", str(tmp_path / "other")]) == 0
    assert vault.sign() == 1
    assert "can't be used" in capsys.readouterr().err
    vault.requests.write_bytes(b"no requests at all")
    assert vault.sign() == 1
    assert main(["requests", "import", str(vault.requests), "--state", str(state)]) == 1


@pytest.mark.slow
def test_the_key_goes_only_where_the_service_is_not_and_only_once(
    tmp_path: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    assert main(["init", "--state", str(state), "--network", "home", "--address", "127.0.0.1"]) == 0
    detach = ["authority", "detach", "--state", str(state), *vault.options]
    assert main([*detach, str(state / "beside")]) == 2
    vault.passphrase.write_text("short")
    assert main([*detach, str(vault.key)]) == 2
    assert (state / "authority.key").exists()
    vault.passphrase.write_text(PASSPHRASE)
    assert main([*detach, str(vault.key)]) == 0
    assert main([*detach, str(vault.key)]) == 1
    assert main(["relay-invite", str(tmp_path / "relay.pem"), "--address", "x.example", "--state", str(state)]) == 1
    with_file = ["--authority", str(vault.key), *vault.options]
    assert main(["relay-invite", str(tmp_path / "relay.pem"), "--address", "x.example", *with_file]) == 0


@pytest.mark.slow
async def test_the_key_comes_back_and_what_waited_is_signed(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    key, seed = new_key(state, capsys), os.urandom(32)
    async with open_house(state) as house:
        await house.enrol(key, "ada", seed)
    assert main(["authority", "attach", str(vault.key), "--state", str(state), *vault.options]) == 0
    assert waiting(state, capsys) == []
    async with open_house(state) as house:
        assert isinstance(await house.enrol(key, "ada", seed), EnrolmentAnswer)
        assert isinstance(await house.enrol(key, "bob", os.urandom(32)), EnrolmentAnswer)
    assert main(["authority", "detach", str(vault.key), "--state", str(state), *vault.options]) == 0
    assert {entry.name for entry in read_journal(vault.key).certificates.values()} == {"ada.home", "bob.home"}


@pytest.mark.slow
def test_a_detach_that_was_cut_off_before_the_key_was_wiped_is_finished_by_the_next(
    tmp_path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    assert main(["init", "--state", str(state), "--network", "home", "--address", "127.0.0.1"]) == 0
    detach = ["authority", "detach", str(vault.key), "--state", str(state), *vault.options]

    def power_cut(_: Safe) -> None:
        raise OSError("the power failed")

    with monkeypatch.context() as patched:
        patched.setattr("discovery.shell.detaching.remove_key", power_cut)
        assert main(detach) == 1
    assert (state / "authority.key").exists()
    with open_state(state) as opened:
        assert opened.is_authority_away
    assert main(detach) == 0
    assert not (state / "authority.key").exists()


def test_a_journal_that_was_cut_off_in_the_middle_of_a_line_goes_on(state: Path, vault: Vault) -> None:
    before = read_journal(vault.key)
    with journal_path(vault.key).open("ab") as file:
        file.write(b'{"what":"certificate","unix":17')
    assert read_journal(vault.key) == before
    assert before.newest_list is not None
    append_journal(vault.key, [before.newest_list])
    assert read_journal(vault.key) == before


@pytest.mark.slow
def test_a_power_cut_between_journal_and_answers_costs_nothing(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        key = new_key(state, capsys)
        async with open_house(state) as house:
            await house.enrol(key, "ada", os.urandom(32))

    def power_cut(*_: object, **__: object) -> None:
        raise OSError("the power failed")

    trio.run(ask)
    assert main(["requests", "export", str(vault.requests), "--state", str(state)]) == 0
    with monkeypatch.context() as patched:
        patched.setattr("discovery.cli.authority.write_durably", power_cut)
        assert vault.sign() == 1
    assert not vault.answers.exists()
    (entry,) = read_journal(vault.key).certificates.values()
    assert vault.sign() == 0
    assert read_journal(vault.key).certificates == {entry.serial: entry}
    assert main(["requests", "import", str(vault.answers), "--state", str(state)]) == 0
    with open_state(state) as opened:
        stored = opened.store.endpoint("ada.home")
    assert stored is not None
    assert stored.certificate == entry.der


@pytest.mark.slow
def test_requests_and_answers_pass_through_pipes(
    state: Path, vault: Vault, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (state / "config.toml").open("a") as file:
        file.write('addresses = ["discovery.example"]\n')
    capfdbinary.readouterr()
    assert main(["requests", "export", "-", "--state", str(state)]) == 0
    sys.stdout.flush()
    vault.requests.write_bytes(capfdbinary.readouterr().out)
    assert vault.sign() == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(vault.answers.read_bytes())))
    assert main(["requests", "import", "-", "--state", str(state)]) == 0
    with open_state(state) as opened:
        assert not is_certificate_due(opened, load_config(state, {}), time.time())


@pytest.mark.slow
def test_without_its_journal_or_with_a_damaged_one_the_key_signs_nothing(
    state: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    path = journal_path(vault.key)
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ConfigurationError):
        read_journal(vault.key)
    path.unlink()
    with pytest.raises(ConfigurationError):
        read_journal(vault.key)


# at rest, with the service


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "safe").mkdir()
    return tmp_path / "safe"


SEED = bytes(range(32))


def test_a_plain_key_of_before_is_read_and_sealed(directory: Path) -> None:
    safe = Safe(directory, "", {})
    write_durably(safe.path, key_pem(SEED))
    assert open_key(safe) == SEED
    assert not safe.path.read_bytes().startswith(b"-----BEGIN")
    assert SEED not in safe.path.read_bytes()
    assert open_key(safe) == SEED


def test_the_key_moves_to_the_strongest_passphrase_that_is_there(directory: Path, tmp_path: Path) -> None:
    store_key(Safe(directory, "", {}), SEED)
    assert (directory / GENERATED_FILE).exists()
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    with_file = Safe(directory, str(tmp_path / "passphrase"), {})
    assert open_key(with_file) == SEED
    assert with_file.path.read_bytes().startswith(b"passphrase-file\n")
    assert not (directory / GENERATED_FILE).exists()
    (tmp_path / "discovery-passphrase").write_text("of the system")
    with_both = Safe(directory, str(tmp_path / "passphrase"), {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert open_key(with_both) == SEED
    assert with_both.path.read_bytes().startswith(b"systemd-credential\n")
    with pytest.raises(ConfigurationError):
        open_key(with_file)


def test_a_passphrase_file_that_is_named_and_missing_is_no_reason_to_take_a_weaker_one(directory: Path) -> None:
    with pytest.raises(ConfigurationError):
        store_key(Safe(directory, str(directory / "missing"), {}), SEED)
    assert not (directory / GENERATED_FILE).exists()


def test_a_damaged_or_missing_key_is_said_in_one_sentence(directory: Path) -> None:
    safe = Safe(directory, "", {})
    with pytest.raises(ConfigurationError):
        open_key(safe)
    store_key(safe, SEED)
    content = bytearray(safe.path.read_bytes())
    content[-1] ^= 1
    safe.path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        open_key(safe)
    assert SEED.hex() not in str(raised.value)


def test_the_key_of_another_authority_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["init", "--state", str(tmp_path / name), "--network", "home", "--address", "127.0.0.1"]) == 0
    for file in ("authority.key", GENERATED_FILE):
        (tmp_path / "one" / file).write_bytes((tmp_path / "two" / file).read_bytes())
    with open_state(tmp_path / "one") as opened, pytest.raises(ConfigurationError):
        opened.authority(Config())


def test_a_key_that_is_away_is_not_asked_for(state: Path) -> None:
    with open_state(state) as opened, pytest.raises(CommandError):
        opened.authority(Config())
