"""What an operator may set: DIR/config.toml, and for each line of it a twin in the environment.

    device = "fabric0"            FABRIC_DEVICE=fabric0
    port = 4711                   FABRIC_PORT=4711
    service = ["a:443", "b:443"]  FABRIC_SERVICE=a:443,b:443

The environment wins over the file, and options of the command line over both.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import msgspec

from fabric.errors import ConfigurationError

DEFAULT_STATE = Path("/var/lib/fabric")
STATE_VARIABLE = "FABRIC_STATE"
PREFIX = "FABRIC_"

Seconds = Annotated[float, msgspec.Meta(gt=0)]
HostAndPort = Annotated[str, msgspec.Meta(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$", max_length=260)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults suit a host on the internet; times are for tests and for odd networks."""

    device: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$")] = "fabric0"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    """UDP and TCP port; 0 draws one and keeps it."""
    cipher: Literal["auto", "aes-256-gcm", "chacha20-poly1305"] = "auto"
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    control_socket: str | None = None
    """Path of the control socket; without it, DIR/control.sock."""
    control_group: str | None = None
    """A system group that may steer the daemon; without it, the group of the daemon."""
    service: tuple[HostAndPort, ...] = ()
    """Addresses of the discovery service, instead of those learned at enrolment."""
    stun: tuple[HostAndPort, ...] = ()
    """STUN servers, instead of those that the service names."""
    path_mtu: Annotated[int, msgspec.Meta(ge=1400, le=9216)] = 1500
    """MTU of the networks between endpoints: no outer packet is longer."""
    mtu: Annotated[int, msgspec.Meta(ge=1280, le=9216)] | None = None
    """MTU of the overlay device; without it, the largest that fits `path_mtu`."""
    passphrase_file: str | None = None
    """A file whose content opens the identity key, instead of a generated key beside it."""
    keepalive_s: Seconds | None = None
    rekey_after_s: Seconds | None = None
    session_life_s: Seconds | None = None
    straggler_s: Seconds | None = None
    stun_interval_s: Seconds | None = None
    intent_life_s: Seconds | None = None
    offer_life_s: Seconds | None = None
    service_retry_s: Seconds = 0.25
    """The first pause before the service is tried again; it doubles up to `service_retry_limit_s`."""
    service_retry_limit_s: Seconds = 30.0
    service_silence_s: Seconds = 20.0
    """The service is asked for a sign of life this often, and given up after half of it without one."""


def load_config(state: Path, environment: Mapping[str, str], options: Mapping[str, object] | None = None) -> Config:
    """Returns the configuration of the daemon that keeps its state in `state`. Raises `ConfigurationError`."""
    path = state / "config.toml"
    settings = _read_file(path)
    _convert(settings, str(path))  # so that a mistake is blamed on the file that it is in
    settings |= _from_environment(environment)
    _convert(settings, "the environment")
    settings |= {key: value for key, value in (options or {}).items() if value is not None}
    return _convert(settings, "the command line")


def control_path(state: Path, config: Config) -> Path:
    """Returns where the daemon listens to commands."""
    return Path(config.control_socket) if config.control_socket else state / "control.sock"


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for field in msgspec.structs.fields(Config):
        text = environment.get(PREFIX + field.name.upper())
        if text is not None:
            is_list = get_origin(field.type) is tuple
            settings[field.name] = [part for part in text.split(",") if part] if is_list else text
    return settings


def _convert(settings: Mapping[str, Any], origin: str) -> Config:
    try:
        return msgspec.convert(settings, Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{origin}: {_explain(str(error), settings)}") from None


def _explain(complaint: str, settings: Mapping[str, Any]) -> str:
    """Returns msgspec's complaint in the words of the file: `$.port` is a line of it."""
    if "unknown field" in complaint:
        known = {field.name for field in msgspec.structs.fields(Config)}
        strange = sorted(set(settings) - known)
        return f'there is no setting "{strange[0]}"; known are {", ".join(sorted(known))}'
    said, _, where = complaint.partition(" - at `$.")
    return f"{where.rstrip('`').partition('[')[0]}: {said[0].lower()}{said[1:]}"
