"""The URI of a key in a token (RFC 7512), as far as one is wanted here: which token, which object, by which library.

    pkcs11:token=NAME;object=NAME?module-path=/PATH.so&pin-source=file:/PATH

    token, serial   which token, by its label, its serial number or both; one of them is needed
    object          the label of the identity key in it; `DEFAULT_OBJECT` where there is none
    type            `private`, if anything
    module-path     the library that speaks to the token; absolute
    pin-source      the file with the user's PIN; absolute

A PIN in the URI itself (`pin-value`) is refused: the URI stands in files and lists of processes that others may read.
Anything else in it is refused by name, rather than left out: a word that was misread may lead to another key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from fabric.errors import ConfigurationError

SCHEME = "pkcs11:"
DEFAULT_OBJECT = "fabric-identity"

_PATH_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})+")
_QUERY_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})+")
_IN_PATH = frozenset(("token", "serial", "object", "type"))
_IN_QUERY = frozenset(("module-path", "pin-source"))


@dataclass(frozen=True, slots=True)
class KeyUri:
    """Where the identity key lies. `token` and `serial` are None where the URI does not name them, never both."""

    text: str
    token: str | None
    serial: str | None
    object: str
    module: Path
    pin_file: Path

    @property
    def where(self) -> str:
        """The token, in words for a person."""
        return f"token {self.token!r}" if self.token is not None else f"the token with serial number {self.serial}"


def parse_key_uri(text: str) -> KeyUri:
    """Raises `ConfigurationError` for anything else than the form above; the text of a PIN is never repeated."""
    if not text.startswith(SCHEME):
        raise ConfigurationError("it is no URI of a token: one begins with pkcs11:")
    path_text, _, query_text = text[len(SCHEME) :].partition("?")
    path = _attributes(path_text, ";", _PATH_VALUE, _IN_PATH)
    query = _attributes(query_text, "&", _QUERY_VALUE, _IN_QUERY)
    if not path.keys() & {"token", "serial"}:
        raise ConfigurationError("the token's URI names no token: add token=NAME")
    if path.get("type", "private") != "private":
        raise ConfigurationError("the token's URI is to name a private key: leave type out")
    return KeyUri(
        text=text,
        token=path.get("token"),
        serial=path.get("serial"),
        object=path.get("object", DEFAULT_OBJECT),
        module=_path("module-path", query),
        pin_file=_path("pin-source", query),
    )


def _attributes(text: str, separator: str, value_form: re.Pattern[str], known: frozenset[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(separator) if text else ():
        name, _, value = part.partition("=")
        if name == "pin-value":
            raise ConfigurationError(
                "the token's URI has the PIN in it: put it into a file, and say pin-source=file:/PATH"
            )
        if name not in known:
            raise ConfigurationError(f"the token's URI has {name!r} in it: known are {', '.join(sorted(known))}")
        if name in found:
            raise ConfigurationError(f"the token's URI says {name} twice")
        if not value_form.fullmatch(value):
            raise ConfigurationError(
                f"the token's URI has no proper value for {name}: write %20 for a space and the like"
            )
        found[name] = _decoded(name, value)
    return found


def _decoded(name: str, value: str) -> str:
    try:
        decoded = unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"the token's URI: {name} is not UTF-8") from None
    if not decoded.isprintable():
        raise ConfigurationError(f"the token's URI: {name} has unprintable characters")
    return decoded


def _path(name: str, query: dict[str, str]) -> Path:
    """Returns the absolute path, which may be written as a URI with the scheme `file`."""
    value = query.get(name)
    if value is None:
        raise ConfigurationError(f"the token's URI has no {name}: add {name}=/PATH")
    bare = value.removeprefix("file:")
    if bare.startswith("///"):
        bare = bare[2:]
    if not bare.startswith("/") or bare.startswith("//"):
        raise ConfigurationError(f"the token's URI: {name} is to be an absolute path, and is {value}")
    return Path(bare)
