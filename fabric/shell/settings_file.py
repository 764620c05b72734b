"""Settings from three places, for both daemons: a TOML file, the environment, and options of the command line.

Each place wins over those before it, and a mistake is blamed on the place that it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_origin

import msgspec

from fabric.errors import ConfigurationError

ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)


def load_settings(
    form: type[ConfigT],
    path: Path,
    environment: Mapping[str, str],
    prefix: str,
    options: Mapping[str, object] | None,
    check: Callable[[ConfigT], None] = lambda _settings: None,
) -> ConfigT:
    """Returns the settings as `form` has them: the line `port` of the file has its twin in `prefix` + `PORT`.

    A file that is not there sets nothing; so does an option that is None. `check` looks at what a type can't tell, and
    raises `ConfigurationError`, as this does.
    """
    settings = _read_file(path)
    _convert(form, settings, str(path), check)
    settings |= _from_environment(form, environment, prefix)
    _convert(form, settings, "the environment", check)
    settings |= {key: value for key, value in (options or {}).items() if value is not None}
    return _convert(form, settings, "the command line", check)


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    import tomllib  # here, because most hosts have no such file

    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from None


def _from_environment(form: type[ConfigT], environment: Mapping[str, str], prefix: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for field in msgspec.structs.fields(form):
        text = environment.get(prefix + field.name.upper())
        if text is not None:
            is_list = get_origin(field.type) is tuple
            settings[field.name] = [part for part in text.split(",") if part] if is_list else text
    return settings


def _convert(
    form: type[ConfigT], settings: Mapping[str, Any], origin: str, check: Callable[[ConfigT], None]
) -> ConfigT:
    try:
        converted = msgspec.convert(settings, form, strict=False)
        check(converted)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{origin}: {_explain(form, str(error), settings)}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"{origin}: {error}") from None
    return converted


def _explain(form: type[ConfigT], complaint: str, settings: Mapping[str, Any]) -> str:
    """Returns msgspec's complaint in the words of the file: `$.port` is a line of it."""
    if "unknown field" in complaint:
        known = {field.name for field in msgspec.structs.fields(form)}
        strange = sorted(set(settings) - known)
        return f'there is no setting "{strange[0]}"; known are {", ".join(sorted(known))}'
    said, _, where = complaint.partition(" - at `$.")
    if said.startswith("Expected `bool`"):
        said = "Write true or false"
    return f"{where.rstrip('`').partition('[')[0]}: {said[0].lower()}{said[1:]}"
