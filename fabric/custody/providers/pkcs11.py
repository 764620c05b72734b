"""The identity key inside a PKCS#11 token (a smart card, an HSM, a service of the cloud), which signs and keeps it.

The secret is sealed under a key that an AES key in the same token wraps: see `pkcs11_session` for all keys, and
`fabric.custody.wrapped` for the blob. The token is opened when it is first asked for something, and stays open.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from fabric.custody.provider import Rank
from fabric.custody.providers.pkcs11_uri import KeyUri, parse_key_uri
from fabric.custody.wrapped import open_wrapped, seal_wrapped
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError

if TYPE_CHECKING:
    from fabric.custody.providers.pkcs11_session import TokenSession

NAME = "pkcs11"

_LIBRARY = "pkcs11"
_KIND = b"PK11"


class Pkcs11Token:
    """A `Token`: the one that the URI names."""

    __slots__ = ("_public_keys", "_session", "_uri")

    def __init__(self, uri: KeyUri) -> None:
        self._uri = uri
        self._session: TokenSession | None = None
        self._public_keys: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        return f"Pkcs11Token({self._uri.text!r})"

    @property
    def name(self) -> str:
        return NAME

    @property
    def place(self) -> str:
        return self._uri.text

    @property
    def rank(self) -> Rank:
        return Rank.TOKEN

    def is_available(self) -> bool:
        """Whether the token is there and can make such keys; no PIN is tried."""
        if importlib.util.find_spec(_LIBRARY) is None or not self._uri.pin_file.exists():
            return False
        try:
            return self._token().has_mechanisms()
        except ConfigurationError:
            return False

    def seal(self, secret: bytes) -> bytes:
        return seal_wrapped(_KIND, secret, self._token().wrap)

    def unseal(self, blob: bytes) -> bytes:
        try:
            return open_wrapped(_KIND, blob, self._token().unwrap)
        except (AuthenticationError, DecodeError):
            raise ConfigurationError(
                "it is damaged, or sealed by another token: restore it from a backup, or remove it and enrol again"
            ) from None

    def make_key(self) -> bytes:
        self._public_keys[b""] = self._token().make_key()
        return self._public_keys[b""]

    def make_successor(self, successor: bytes) -> bytes:
        self._public_keys[successor] = self._token().make_successor(successor)
        return self._public_keys[successor]

    def public_key(self, successor: bytes = b"") -> bytes:
        if successor not in self._public_keys:
            self._public_keys[successor] = self._token().read_public_key(successor)
        return self._public_keys[successor]

    def sign_raw(self, message: bytes, successor: bytes = b"") -> bytes:
        return self._token().sign(message, successor)

    def destroy_key(self, public_key: bytes, successor: bytes = b"") -> bool:
        self._public_keys.pop(successor, None)
        return self._token().destroy_key(public_key, successor)

    def _token(self) -> TokenSession:
        if self._session is None:
            try:
                from fabric.custody.providers.pkcs11_session import TokenSession
            except ImportError as error:
                raise ConfigurationError(f"{NAME} needs python-pkcs11: {error}") from None
            self._session = TokenSession(self._uri)
        return self._session


def open_provider(place: str, directory: Path) -> Pkcs11Token:  # noqa: ARG001 each provider is asked the same way
    """Returns the provider of the URI `place`. Raises `ConfigurationError` for what is none."""
    return Pkcs11Token(parse_key_uri(place))
