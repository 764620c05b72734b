"""What is done inside a token, by python-pkcs11, which this module needs: keys that are made there and never let out.

    OBJECT           Ed25519 key pair (see `pkcs11_pair`): signs
    OBJECT 16 x HEX  the same, where it came after another one; the digits are the first 8 bytes of its name
    OBJECT storage   AES-256 key: wraps 32 bytes into a nonce of 12 and what CKM_AES_GCM makes

All are sensitive and not extractable, and a token that makes them otherwise is refused, as is one that lacks Ed25519.

It logs in when it is first asked for something, stays so, and begins anew where the token was away meanwhile. A wrong
PIN is tried once and never again: tokens lock themselves after a few.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from fabric.crypto.aead import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from fabric.custody.providers.pkcs11_pair import (
    LOCKED,
    destroy_pair,
    find_pair,
    generate_pair,
    point_of,
    require_locked,
    require_sound,
)
from fabric.custody.providers.pkcs11_uri import KeyUri
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError

Answer = TypeVar("Answer")

_PAIR = (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
_LABEL_BYTES = 8
"""Of a name, as digits: with `DEFAULT_OBJECT` these fill the 32 characters that a label of any token holds."""
_WRAP_HEADER = b"fabric/1 token wrap"
_WRONG_PIN = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)
_NO_PIN = (pkcs11.PinLocked, pkcs11.PinExpired, pkcs11.UserPinNotInitialized)
_BAD_TAG = (pkcs11.GeneralError, pkcs11.EncryptedDataInvalid, pkcs11.DataInvalid)
"""Libraries differ in what they call a tag that does not hold."""


class TokenSession:
    """The token of a URI, opened when it is first asked. Every method raises `ConfigurationError`, one sentence.

    `successor` names which pair is meant (see `fabric.custody.provider`): empty for the first one.
    """

    __slots__ = ("_keys", "_session", "_uri", "_wanted")

    def __init__(self, uri: KeyUri) -> None:
        self._uri = uri
        self._session: pkcs11.Session | None = None
        self._wanted = {(each, uri.object) for each in _PAIR} | {(ObjectClass.SECRET_KEY, self._storage_label)}
        self._keys: dict[tuple[ObjectClass, str], list[pkcs11.Key]] = {}

    def has_mechanisms(self) -> bool:
        """Whether the token is one that signs with Ed25519 and seals with AES-GCM. Nobody logs in."""
        with self._explained():
            return bool(self._find_token().slot.get_mechanisms() >= {Mechanism.EDDSA, Mechanism.AES_GCM})

    def sign(self, message: bytes, successor: bytes = b"") -> bytes:
        """Returns 64 bytes."""
        label = self._label(successor)
        return self._asked(
            lambda: bytes(self._key(ObjectClass.PRIVATE_KEY, label).sign(message, mechanism=Mechanism.EDDSA))
        )

    def read_public_key(self, successor: bytes = b"") -> bytes:
        """Returns the 32 bytes of the pair's public half."""
        return self._asked(lambda: point_of(self._key(ObjectClass.PUBLIC_KEY, self._label(successor))))

    def make_key(self) -> bytes:
        """Makes the first pair and returns its public half. One that is there already is not touched."""
        return self._asked(self._make_key)

    def make_successor(self, successor: bytes) -> bytes:
        """Returns the public half of the pair of this name, which is made if there is none.

        A run before may have ended while it was made: a whole pair is taken as it is, and half of one is destroyed.
        """
        return self._asked(lambda: self._make_successor(self._label(successor)))

    def destroy_key(self, public_key: bytes, successor: bytes = b"") -> bool:
        """Destroys the pair of this name if it has this public half; returns whether the token has no such pair now."""
        return self._asked(lambda: self._destroy_key(self._label(successor), public_key))

    def wrap(self, key: bytes) -> bytes:
        """Returns 60 bytes that `unwrap` makes 32 again; the key that does so is made if there is none."""
        return self._asked(lambda: self._wrap(key))

    def unwrap(self, wrapped: bytes) -> bytes:
        """Raises `DecodeError` and `AuthenticationError` as well, for what `wrap` of this token did not make."""
        return self._asked(lambda: self._unwrap(wrapped))

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        """Returns the token's answer, asked a second time where its session ended meanwhile: it was unplugged."""
        with self._explained():
            was_open = bool(self._keys)
            try:
                return question()
            except pkcs11.PKCS11Error as error:
                if not was_open or isinstance(error, _WRONG_PIN + _NO_PIN):
                    raise
            self._begin_anew()
            return question()

    def _make_key(self) -> bytes:
        if self._found(ObjectClass.PRIVATE_KEY, self._uri.object):
            raise ConfigurationError(
                f"{self._uri.where} already has a key {self._uri.object!r}: name another object in the URI"
            )
        return self._generate(self._uri.object)

    def _make_successor(self, label: str) -> bytes:
        found = find_pair(self._log_in(is_writable=True), label)
        if max(len(found.private), len(found.public)) > 1:
            raise ConfigurationError(f"{self._uri.where} has several keys {label!r} where one is wanted")
        if found.private and found.public:
            try:
                return require_sound(found.public[0], found.private[0])
            except (AuthenticationError, ConfigurationError, pkcs11.PKCS11Error):
                pass  # neither made to its end nor, therefore, ever told to anybody
        if found.private or found.public:
            try:
                destroy_pair(found)
            except pkcs11.PKCS11Error:
                raise ConfigurationError(
                    f"{self._uri.where} has half a key {label!r} and keeps it: remove it by the token's own program"
                ) from None
        return self._generate(label)

    def _destroy_key(self, label: str, public_key: bytes) -> bool:
        if not find_pair(self._log_in(), label):
            return True
        try:  # the token is there: what it refuses now it refuses for good
            destroy_pair(find_pair(self._log_in(is_writable=True), label).only(public_key))
        except pkcs11.PKCS11Error:
            return False
        finally:
            self._forget_session()
        return True

    def _generate(self, label: str) -> bytes:
        made = generate_pair(self._log_in(is_writable=True), label, self._uri.where)
        try:
            public_key = require_sound(made.public[0], made.private[0])
        except (AuthenticationError, ConfigurationError) as error:
            destroy_pair(made)
            raise ConfigurationError(f"{self._uri.where} makes no key to rely on: {error}") from None
        self._forget_session()
        return public_key

    def _wrap(self, key: bytes) -> bytes:
        if not self._found(ObjectClass.SECRET_KEY, self._storage_label):
            self._make_storage_key()
        nonce = os.urandom(NONCE_BYTES)
        storage_key = self._key(ObjectClass.SECRET_KEY, self._storage_label)
        return nonce + bytes(storage_key.encrypt(key, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce)))

    def _make_storage_key(self) -> None:
        label = self._storage_label
        made = self._log_in(is_writable=True).generate_key(
            KeyType.AES,
            8 * KEY_BYTES,
            id=label.encode(),
            label=label,
            store=True,
            capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
            template=LOCKED,
        )
        try:
            require_locked(made)
        except ConfigurationError as error:
            made.destroy()
            raise ConfigurationError(f"{self._uri.where} makes no key to rely on: {error}") from None
        self._forget_session()

    def _unwrap(self, wrapped: bytes) -> bytes:
        if len(wrapped) != NONCE_BYTES + KEY_BYTES + TAG_BYTES:
            raise DecodeError(f"a wrapped key of {len(wrapped)} bytes")
        nonce, body = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
        storage_key = self._key(ObjectClass.SECRET_KEY, self._storage_label)
        try:
            return bytes(storage_key.decrypt(body, mechanism=Mechanism.AES_GCM, mechanism_param=_gcm(nonce)))
        except _BAD_TAG:
            raise AuthenticationError("the seal does not hold") from None

    def _key(self, kind: ObjectClass, label: str) -> pkcs11.Key:
        """Raises `ConfigurationError` unless there is exactly one of this kind."""
        found = self._found(kind, label)
        if len(found) != 1:
            number = len(found) or "no"
            raise ConfigurationError(f"{self._uri.where} has {number} keys {label!r} where one is wanted")
        return found[0]

    def _found(self, kind: ObjectClass, label: str) -> list[pkcs11.Key]:
        """All that is known of is looked for at once, after the login: a search in a session that ended complains on
        stderr."""
        if self._session is None or (kind, label) not in self._keys:
            self._wanted |= {(kind, label)} if kind is ObjectClass.SECRET_KEY else {(each, label) for each in _PAIR}
            session = self._log_in()
            self._keys = {
                (each, name): list(session.get_objects({Attribute.CLASS: each, Attribute.LABEL: name}))
                for each, name in self._wanted
            }
            self._session = session
        return self._keys[kind, label]

    @property
    def _storage_label(self) -> str:
        return f"{self._uri.object} storage"

    def _label(self, successor: bytes) -> str:
        return f"{self._uri.object} {successor[:_LABEL_BYTES].hex()}" if successor else self._uri.object

    def _log_in(self, *, is_writable: bool = False) -> pkcs11.Session:
        token = self._find_token()
        try:
            return token.open(rw=is_writable, user_pin=self._read_pin())
        except pkcs11.UserAlreadyLoggedIn:  # by another session of this process: a token knows programs, not sessions
            return token.open(rw=is_writable)

    def _forget_session(self) -> None:
        """It is not closed: that would log out every session of this process."""
        self._session = None

    def _begin_anew(self) -> None:
        """Libraries differ in what of a token they forget when it goes; none remembers anything after this."""
        self._forget_session()
        self._library().reinitialize()

    def _find_token(self) -> pkcs11.Token:
        serial = self._uri.serial.encode() if self._uri.serial is not None else None
        return self._library().get_token(token_label=self._uri.token, token_serial=serial)

    def _library(self) -> pkcs11.lib:
        module = self._uri.module
        if not module.exists():
            raise ConfigurationError(f"module-path: there is no {module}: install the library of the token")
        try:
            return pkcs11.lib(str(module))
        except pkcs11.PKCS11Error as error:
            raise ConfigurationError(
                f"module-path: {module} does not work as the library of a token ({type(error).__name__}): name the one"
                " that its vendor gives, and set up what that one reads"
            ) from None

    def _read_pin(self) -> str:
        path = self._uri.pin_file
        try:
            if path.stat().st_mode & stat.S_IROTH:
                raise ConfigurationError(f"pin-source: everybody may read {path}: take that away with chmod o=")
            pin = path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"pin-source: {path} can't be read: {type(error).__name__}") from None
        if not pin:
            raise ConfigurationError(f"pin-source: {path} is empty")
        return pin

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says in one sentence what the token, or the library of it, refused."""
        uri = self._uri
        try:
            yield
        except pkcs11.NoSuchToken:
            raise ConfigurationError(f"{uri.module} sees no {uri.where}: plug it in, or check its name") from None
        except pkcs11.MultipleTokensReturned:
            raise ConfigurationError(f"there are several of {uri.where}: add serial=NUMBER to the URI") from None
        except _WRONG_PIN:
            raise ConfigurationError(
                f"{uri.where} refuses the PIN in {uri.pin_file}: put the right one there before you start again, for"
                " tokens lock themselves after a few wrong ones"
            ) from None
        except _NO_PIN as error:
            raise ConfigurationError(
                f"{uri.where} takes no PIN ({type(error).__name__}): its security officer has to set a new one"
            ) from None
        except pkcs11.PKCS11Error as error:
            raise ConfigurationError(f"{uri.where} refuses: {type(error).__name__}") from None


def _gcm(nonce: bytes) -> pkcs11.GCMParams:
    return pkcs11.GCMParams(nonce, _WRAP_HEADER, 8 * TAG_BYTES)
