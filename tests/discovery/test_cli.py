"""`discoveryd` as people and scripts use it: what it prints, its exit codes, and what it leaves on the disk."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from discovery.cli.main import main
from discovery.cli.options import parse_duration
from discovery.core.authority import revoke
from discovery.shell.config import CONFIG_FILE, Config, load_config, split_address
from discovery.shell.store_sqlite import DATABASE_FILE, SqliteStore
from fabric.errors import ConfigurationError
from fabric.identity.enrolment_key import EnrolmentKey
from fabric.shell.exit_code import CommandError
from tests.discovery.town import Town

DISCOVERYD = Path(sys.executable).parent / "discoveryd"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    assert main(["init", "--state", str(directory), "--network", "home", "--address", "svc.example"]) == 0
    return directory


def test_a_key_is_all_that_create_prints(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "create", "--state", str(state), "--uses", "3", "--expires", "24h", "--tag", "web"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("\n") == 1
    key = EnrolmentKey.parse(printed.out)
    assert key.addresses == ("svc.example:443",)
    assert main(["key", "list", "--json", "--state", str(state)]) == 0
    listed = capsys.readouterr().out
    (shown,) = json.loads(listed)["keys"]
    assert (shown["id"], shown["uses_left"], shown["tags"], shown["state"]) == (key.key_id, 3, ["web"], "good")
    assert key.secret.hex() not in listed
    assert main(["key", "revoke", key.key_id, "--state", str(state)]) == 0
    assert main(["key", "list", "--state", str(state)]) == 0
    assert "revoked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["key", "revoke", "nosuch"], 4),
        (["endpoint", "revoke", "nosuch"], 4),
        (["endpoint", "revoke", "web.other"], 4),
        (["key", "create", "--uses", "0"], 2),
        (["key", "create", "--expires", "soon"], 2),
        (["key", "create", "--tag", "No Tag"], 2),
        (["key"], 2),
        (["frobnicate"], 2),
        (["init", "--network", "home", "--address", "svc.example"], 1),
    ],
)
def test_what_does_not_work_is_said_in_one_sentence_with_an_exit_code(
    state: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int
) -> None:
    with_state = [*words, "--state", str(state)] if len(words) > 1 else words
    assert main(with_state) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("discoveryd: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--network", "Bad Name", "--address", "svc.example"], 1),
        (["--network", "home", "--address", "svc example"], 78),
        (["--network", "home", "--address", "svc.example", "--overlay", "10.0.0.0/31"], 78),
        (["--network", "home", "--address", "svc.example", "--overlay", "10.0.0.1/8"], 2),
        (["--network", "home"], 2),
    ],
)
def test_a_setup_that_can_not_work_leaves_no_authority(tmp_path: Path, words: list[str], code: int) -> None:
    assert main(["init", "--state", str(tmp_path / "s"), *words]) == code
    assert not (tmp_path / "s" / "authority.pem").exists()


def test_a_directory_without_a_service_is_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--state", str(tmp_path)]) == 78
    assert "discoveryd init" in capsys.readouterr().err


def test_the_state_directory_may_come_from_the_environment(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISCOVERY_STATE", str(state))
    assert main(["endpoint", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"endpoints": []}


def test_a_revoked_host_is_listed_with_reason_time_and_where_its_two_renewals_came_from(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    town = Town(SqliteStore(state))
    town.resident("ada")
    revoke(town.store, "ada.home", "renewed twice", town.unix, ("192.0.2.1", "198.51.100.66"))
    assert main(["endpoint", "list", "--json", "--state", str(state)]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["endpoints"]
    assert (shown["state"], shown["why"], shown["revoked"]) == ("revoked", "renewed twice", town.unix)
    assert shown["renewed_from"] == ["192.0.2.1", "198.51.100.66"]
    assert main(["endpoint", "list", "--state", str(state)]) == 0
    assert "revoked" in capsys.readouterr().out


def test_keys_and_store_are_for_the_service_alone(state: Path) -> None:
    for name in ("authority.key", DATABASE_FILE):
        assert stat.S_IMODE((state / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_a_configuration_that_says_all_its_defaults_sets_nothing(state: Path) -> None:
    path = state / CONFIG_FILE
    assert load_config(state, {}) == Config()
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line.removeprefix("# ") for line in lines if " = " in line))
    assert load_config(state, {}) == Config()


def test_the_environment_wins_over_the_file_and_options_over_both(state: Path) -> None:
    (state / CONFIG_FILE).write_text('port = 1\nstun_port = 1\nlisten = ["192.0.2.1"]\n')
    config = load_config(state, {"DISCOVERY_STUN_PORT": "2", "DISCOVERY_LISTEN": "::,127.0.0.1"}, {"port": 3})
    assert (config.port, config.stun_port, config.listen) == (3, 2, ("::", "127.0.0.1"))


@pytest.mark.parametrize(
    "line", ["prot = 1", "port = 70000", 'listen = ["svc.example"]', 'addresses = ["a b"]', "port = ", 'port = "x"']
)
def test_a_mistake_in_the_configuration_is_blamed_on_it(state: Path, line: str) -> None:
    (state / CONFIG_FILE).write_text(line)
    with pytest.raises(ConfigurationError):
        load_config(state, {})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("svc.example", ("svc.example", 443)),
        ("SVC.example:8443", ("svc.example", 8443)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("2001:db8::1", ("2001:db8::1", 443)),
        ("[2001:DB8::1]:8443", ("2001:db8::1", 8443)),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, address: tuple[str, int]) -> None:
    assert split_address(text, 443) == address


@pytest.mark.parametrize("text", ["", "a b", "host:", "host:0", "host:70000", "-a.example", "[::1", "http://a"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        split_address(text, 443)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)])
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "h", "-1h", "1.5h", "1 h", "1y"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        parse_duration(text)


def test_a_store_of_a_later_version_or_one_that_is_damaged_is_not_touched(state: Path) -> None:
    path = state / DATABASE_FILE
    store = SqliteStore(state)
    store._connection.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(ConfigurationError):
        SqliteStore(state)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigurationError):
        SqliteStore(state)


def test_a_change_that_fails_half_way_changes_nothing(state: Path) -> None:
    store = SqliteStore(state)

    def fail() -> None:
        with store.change():
            store.put_fact("one", "1")
            with store.change():
                store.put_fact("two", "2")
            raise ConfigurationError("half-way")

    with pytest.raises(ConfigurationError):
        fail()
    assert (store.fact("one"), store.fact("two")) == (None, None)
    store.close()


def test_a_port_that_is_taken_is_said_in_one_sentence(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ["run", "--state", str(state), "--listen", "127.0.0.1", "--port", port, "--stun-port", "0"]
        assert main(words) == 78
    assert capsys.readouterr().err.startswith(f"discoveryd: can't listen on 127.0.0.1 TCP port {port}")


def test_a_revocation_by_another_process_is_never_overwritten(state: Path) -> None:
    """Whoever reads inside of a change holds the write lock: nobody else changes what was read."""
    one, other = SqliteStore(state), SqliteStore(state)
    other._connection.execute("PRAGMA busy_timeout = 0")

    def change() -> None:
        with other.change():
            raise AssertionError("two changes at once")

    with one.change(), pytest.raises(sqlite3.OperationalError):
        change()
    assert not one.has_changed()
    with other.change():
        other.put_fact("one", "1")
    assert one.has_changed()
    assert not one.has_changed()
    one.close()
    other.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "relay"])
async def test_a_daemon_tells_systemd_when_it_serves_and_ends_on_sigterm(
    state: Path, tmp_path: Path, command: str
) -> None:
    if command == "relay":
        assert main(["relay-invite", str(tmp_path / "relay.pem"), "--address", "::1", "--state", str(state)]) == 0
        state = tmp_path
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        await listener.bind(str(tmp_path / "notify"))
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "200000",
            "DISCOVERY_PORT": "0",
            "DISCOVERY_STUN_PORT": "0",
            "DISCOVERY_LISTEN": "127.0.0.1",
        }
        with trio.fail_after(30):
            process = await trio.lowlevel.open_process(
                [DISCOVERYD, command, "--state", str(state)], env=environment, stderr=subprocess.DEVNULL
            )
            told = [await listener.recv(4096) for _ in range(3)]
            second = main([command, "--state", str(state), "--port", "0"])
            process.send_signal(signal.SIGTERM)
            code = await process.wait()
    assert told[0] == b"READY=1"
    assert b"WATCHDOG=1" in told
    assert second == 1
    assert code == 0
