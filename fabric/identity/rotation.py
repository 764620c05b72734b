"""A rotation: the old identity key of a name says which one comes after it.

The body, under the old key's signature (see `signed`):

    +---------+------+------------+------------+---------+
    | network | name | old key 32 | new key 32 | created |
    | text    | text |            |            | time    |
    +---------+------+------------+------------+---------+

It travels inside the sealed part of a full handshake and in a renewal, and is believed there only: a peer takes the
new key where the shared root is proven in the same handshake. In short, as an option of an intent, it lets a peer that
knows an older key believe the introduction that leads to such a handshake, and nothing else.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fabric.crypto.signature import LABEL_ROTATION, PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Signer
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.name import network_of, parse_name
from fabric.identity.signed import (
    VERSION,
    encode_text,
    encode_time,
    open_body,
    peek_body,
    sign_body,
    take_text,
    take_time,
)
from fabric.wire.codec import Reader

MAX_ROTATIONS = 3
"""As many as fit into the extensions of a sealed part: who was away for longer has to be met anew."""

OPTION = "rotation"
"""Of an intent: signature 64, old key 32 and time 8 of a statement, in Base64. What else it says, the intent says."""

_MAX_NAME_BYTES = 255
_TIME_BYTES = 8


@dataclass(frozen=True, slots=True)
class Rotation:
    """`created` is in unix seconds; both keys have 32 bytes."""

    network: str
    name: str
    old_key: bytes
    new_key: bytes
    created: float


def sign_rotation(signer: Signer, name: str, new_key: bytes, created: float) -> bytes:
    """`signer` holds the old key. Raises `DecodeError` for what `open_rotation` would refuse."""
    rotation = Rotation(network_of(name), name, signer.public_key, new_key, created)
    _check(rotation)
    return sign_body(signer, LABEL_ROTATION, encode_rotation(rotation))


def encode_rotation(rotation: Rotation) -> bytes:
    """Returns the body without its signature and version."""
    return _body(rotation.name, rotation.old_key, rotation.new_key, encode_time(rotation.created))


def open_rotation(data: bytes) -> Rotation:
    """Returns what the old key's holder signed. Raises `AuthenticationError`, `DecodeError`.

    That the old key is the one remembered, and the name the expected one, is for the caller to check.
    """
    rotation = peek_rotation(data)
    open_body(data, LABEL_ROTATION, rotation.old_key)
    return rotation


def peek_rotation(data: bytes) -> Rotation:
    """Returns what it says, proving nothing. Raises `DecodeError`."""
    reader = peek_body(data)
    rotation = Rotation(
        network=take_text(reader, _MAX_NAME_BYTES),
        name=take_text(reader, _MAX_NAME_BYTES),
        old_key=reader.take(PUBLIC_KEY_BYTES),
        new_key=reader.take(PUBLIC_KEY_BYTES),
        created=take_time(reader),
    )
    _check(rotation)
    return rotation


def as_option(statement: bytes) -> tuple[str, str]:
    """Returns the statement as an option of an intent of its name. Raises `DecodeError`."""
    rotation = peek_rotation(statement)
    short = statement[:SIGNATURE_BYTES] + rotation.old_key + encode_time(rotation.created)
    return OPTION, b64encode(short).decode()


def decode_options(options: Iterable[tuple[str, str]], name: str, new_key: bytes) -> tuple[bytes, ...]:
    """Returns the statements again, the oldest first, that are said to lead to `new_key` of `name`. They prove nothing
    until `leads` has looked at them. Raises `DecodeError`."""
    statements: list[bytes] = []
    for value in [value for key, value in options if key == OPTION][::-1][:MAX_ROTATIONS]:
        try:
            reader = Reader(b64decode(value, validate=True))
        except ValueError:
            raise DecodeError("a rotation that is no Base64") from None
        signature, old_key = reader.take(SIGNATURE_BYTES), reader.take(PUBLIC_KEY_BYTES)
        body = _body(name, old_key, new_key, reader.take(_TIME_BYTES))
        statements.append(signature + bytes((VERSION,)) + body)
        new_key = old_key
    return tuple(reversed(statements))


def leads(statements: Sequence[bytes], name: str, old_key: bytes, new_key: bytes) -> bool:
    """Whether these statements, each by the key before, take `name` from one key to the other.

    What else stands among them is ignored: a peer sends all that it has.
    """
    after: dict[bytes, bytes] = {}
    for data in statements[:MAX_ROTATIONS]:
        try:
            rotation = open_rotation(data)
        except (AuthenticationError, DecodeError):
            continue
        if rotation.name == name:
            after[rotation.old_key] = rotation.new_key
    key: bytes | None = old_key
    for _ in range(len(after)):
        key = after.get(key) if key is not None else None
        if key == new_key:
            return True
    return False


def _body(name: str, old_key: bytes, new_key: bytes, created: bytes) -> bytes:
    return encode_text(network_of(name)) + encode_text(name) + old_key + new_key + created


def _check(rotation: Rotation) -> None:
    parse_name(rotation.name, None)
    if network_of(rotation.name) != rotation.network:
        raise DecodeError("a rotation across networks")
    if rotation.old_key == rotation.new_key or len(rotation.new_key) != PUBLIC_KEY_BYTES:
        raise DecodeError("a rotation to no new key")
