"""An intent: one endpoint's signed wish to meet another. Two that name each other are what a session needs.

The body, under the signature (see `signed`):

    +---------+--------+-----------+---------+------------+---------+-------+--------------------------+
    | network | sender | recipient | created | not before | expires | count | each option: key, value  |
    | text    | text   | text      | time    | time       | time    | u8    | text, text               |
    +---------+--------+-----------+---------+------------+---------+-------+--------------------------+
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fabric.crypto.signature import LABEL_INTENT, Signer
from fabric.errors import DecodeError
from fabric.identity.name import network_of, parse_name
from fabric.identity.signed import encode_text, encode_time, open_body, peek_body, sign_body, take_text, take_time
from fabric.wire.codec import Reader

MAX_OPTIONS = 16
_MAX_NAME_BYTES = 255
_MAX_OPTION_BYTES = 255

NO_END = math.inf
"""For `expires`: until it is withdrawn."""


@dataclass(frozen=True, slots=True)
class Intent:
    """`sender` and `recipient` are full names in `network`; times are unix seconds, kept to the millisecond.

    It holds from `not_before` until `expires`. `options` are pairs of texts; unknown ones are kept and ignored.
    """

    network: str
    sender: str
    recipient: str
    created: float
    not_before: float
    expires: float
    options: tuple[tuple[str, str], ...] = ()

    def holds(self, unix: float) -> bool:
        return self.not_before <= unix < self.expires


def sign_intent(signer: Signer, intent: Intent) -> bytes:
    """Raises `DecodeError` for an intent that `open_intent` would refuse."""
    _check(intent)
    options = b"".join(encode_text(key) + encode_text(value) for key, value in intent.options)
    names = b"".join(encode_text(text) for text in (intent.network, intent.sender, intent.recipient))
    times = b"".join(encode_time(time) for time in (intent.created, intent.not_before, intent.expires))
    return sign_body(signer, LABEL_INTENT, names + times + bytes((len(intent.options),)) + options)


def open_intent(data: bytes, public_key: bytes) -> Intent:
    """Returns the intent that the key's holder signed. Raises `AuthenticationError`, `DecodeError`.

    That `sender` is this key's name, `recipient` oneself, and that it holds now, is for the caller to check.
    """
    return _decode(open_body(data, LABEL_INTENT, public_key))


def peek_intent(data: bytes) -> Intent:
    """Returns what the intent says, proving nothing. Raises `DecodeError`."""
    return _decode(peek_body(data))


def _decode(reader: Reader) -> Intent:
    intent = Intent(
        network=take_text(reader, _MAX_NAME_BYTES),
        sender=take_text(reader, _MAX_NAME_BYTES),
        recipient=take_text(reader, _MAX_NAME_BYTES),
        created=take_time(reader),
        not_before=take_time(reader),
        expires=take_time(reader),
        options=tuple(_take_option(reader) for _ in range(reader.take_u8())),
    )
    _check(intent)
    return intent


def _take_option(reader: Reader) -> tuple[str, str]:
    return take_text(reader, _MAX_OPTION_BYTES), take_text(reader, _MAX_OPTION_BYTES)


def _check(intent: Intent) -> None:
    for name in (intent.sender, intent.recipient):
        parse_name(name, None)
        if network_of(name) != intent.network:
            raise DecodeError("an intent across networks")
    if intent.sender == intent.recipient:
        raise DecodeError("an intent towards oneself")
    if not intent.not_before < intent.expires:
        raise DecodeError("an intent that ends before it begins")
    if len(intent.options) > MAX_OPTIONS:
        raise DecodeError(f"an intent with {len(intent.options)} options")
