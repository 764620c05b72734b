"""Settings: the file, the environment, the command line, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fabric.errors import ConfigurationError
from fabric.shell.config import Config, control_path, load_config


def written(directory: Path, text: str) -> Path:
    (directory / "config.toml").write_text(text)
    return directory


def test_without_a_file_everything_has_a_default(tmp_path: Path) -> None:
    assert load_config(tmp_path, {}) == Config()


def test_the_environment_wins_over_the_file_and_options_over_both(tmp_path: Path) -> None:
    state = written(tmp_path, 'device = "file0"\nport = 1\ncipher = "aes-256-gcm"\n')
    config = load_config(
        state, {"FABRIC_PORT": "2", "FABRIC_CIPHER": "auto"}, {"cipher": "chacha20-poly1305", "port": None}
    )
    assert (config.device, config.port, config.cipher) == ("file0", 2, "chacha20-poly1305")


@pytest.mark.parametrize("field", [field.name for field in msgspec.structs.fields(Config)])
def test_every_setting_has_a_twin_in_the_environment(tmp_path: Path, field: str) -> None:
    texts = {
        "device": "tap7",
        "port": "4711",
        "cipher": "aes-256-gcm",
        "lane": "reference",
        "cipher_library": "pynacl",
        "entangle": "alert",
        "log_level": "debug",
        "service": "a.example:443,[::1]:444",
        "stun": "192.0.2.1:3478",
        "path_mtu": "1450",
        "mtu": "1300",
        "relay_copies": "2",
        "port_mapping": "false",
        "find_on_lan": "false",
        "ask_peers": "false",
    }
    text = texts.get(field, "17")
    config = load_config(tmp_path, {f"FABRIC_{field.upper()}": text})
    assert getattr(config, field) != getattr(Config(), field)
    assert str(getattr(config, field)) in (text.capitalize(), text, f"{text}.0", str(tuple(text.split(","))))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('devise = "fabric0"', 'there is no setting "devise"'),
        ("port = 70000", "port: expected `int` <= 65535"),
        ('port = "many"', "port: "),
        ('cipher = "rot13"', "cipher: invalid enum value 'rot13'"),
        ('log_level = "loud"', "log_level: "),
        ('service = ["nowhere"]', "service: "),
        ('device = "a-name-that-is-too-long"', "device: "),
        ("keepalive_s = 0", "keepalive_s: expected `float` > 0"),
        ("mtu = 100", "mtu: "),
        ("port 1", "is no TOML"),
    ],
)
def test_a_mistake_in_the_file_is_told_in_one_sentence_that_names_it(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_config(written(tmp_path, line), {})
    assert said in str(raised.value)
    assert "config.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_mistake_is_blamed_on_where_it_was_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^the environment: port"):
        load_config(tmp_path, {"FABRIC_PORT": "-1"})
    with pytest.raises(ConfigurationError, match=r"^the command line: port"):
        load_config(tmp_path, {}, {"port": -1})


def test_unrelated_variables_of_the_environment_are_left_alone(tmp_path: Path) -> None:
    assert load_config(tmp_path, {"FABRIC_STATE": "/x", "FABRIC_ENROLMENT_KEY": "k", "PORT": "9"}) == Config()


def test_the_control_socket_lies_in_the_state_directory_unless_it_is_put_elsewhere(tmp_path: Path) -> None:
    assert control_path(tmp_path, Config()) == tmp_path / "control.sock"
    assert control_path(tmp_path, Config(control_socket="/run/fabric.sock")) == Path("/run/fabric.sock")


@pytest.mark.parametrize("setting", ["service", "stun"])
@pytest.mark.parametrize("place", ["a..example:443", "a.example:99999", "a.example:0", "a.example"])
def test_a_place_that_cannot_be_is_said_in_one_sentence(tmp_path: Path, setting: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"config.toml: {setting}: .*is no "):
        load_config(written(tmp_path, f'{setting} = ["{place}"]'), {})


def test_a_switch_that_is_neither_on_nor_off_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^the environment: port_mapping: write true or false$"):
        load_config(tmp_path, {"FABRIC_PORT_MAPPING": "maybe"})
