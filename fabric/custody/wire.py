"""What a daemon and the custodian of its keys say to each other over a UNIX socket: a question, then its answer.

    +------------+--------------------------------------------------+
    | length u32 | MessagePack: [class name, fields...]             |
    +------------+--------------------------------------------------+

One question at a time, answered in the order in which they came. Decoders raise `DecodeError` only.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from fabric.errors import DecodeError

T = TypeVar("T")

LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 24_576
"""An envelope's head is the longest statement: 8,192 bytes sealed and some 600 of header."""

Text = Annotated[str, msgspec.Meta(max_length=255)]
Place = Annotated[str, msgspec.Meta(max_length=1024)]
Field = Annotated[bytes, msgspec.Meta(max_length=8192)]
Label = Annotated[bytes, msgspec.Meta(max_length=64)]
Fields = Annotated[tuple[Field, ...], msgspec.Meta(max_length=8)]
Serial = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Unix = Annotated[float, msgspec.Meta(ge=0, le=2**40)]


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of everything on the socket."""


# the daemon asks


class Begin(Message, frozen=True):
    """First of all: who holds what? `name` is the own full name, empty before enrolment; `custody` as a person may
    ask for it where no identity is there yet. Answered by `Begun`."""

    name: Text = ""
    custody: Place = "auto"


class Sign(Message, frozen=True):
    """Answered by `Done` with the signature, 64 bytes."""

    label: Label
    fields: Fields


class Open(Message, frozen=True):
    """Answered by `Done` with what was sealed to a key of an own bundle, bound to `info`."""

    sealed: Field
    info: Field


class Request(Message, frozen=True):
    """Answered by `Done` with a certificate request (PKCS#10), over the next identity key where that is wished."""

    name: Text
    nonce: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    by_next: bool = False


class Rotate(Message, frozen=True):
    """Answered by `Done` with the statement of the present identity key that it hands over to the next one."""

    unix: Unix


class TakeOver(Message, frozen=True):
    """The next identity key, of which this is the public one, takes over. Answered by `Done`, empty or with a
    sentence for the log."""

    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class NextBundle(Message, frozen=True):
    """Answered by `Done` with the next key bundle, signed. `unix` is the daemon's wall time."""

    unix: Unix
    above: Serial = 0


class Forget(Message, frozen=True):
    """Answered by `Done`, with a byte where any key was deleted, else empty."""

    unix: Unix


class Move(Message, frozen=True):
    """Seal the identity's secrets otherwise. Answered by `Done` with the provider's name; only for an administrator."""

    custody: Place


# the custodian answers


class Begun(Message, frozen=True):
    """`storage_key` seals the daemon's own database; `bundle` is the newest, empty for none; `refused` counts what
    was refused since the custodian started."""

    public_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    storage_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    custody: Text
    bundle: Field
    refused: int

    def __repr__(self) -> str:
        return f"Begun({self.public_key.hex()}, {self.custody})"


class Done(Message, frozen=True):
    value: Field

    def __repr__(self) -> str:
        return f"Done({len(self.value)} bytes)"


Kind = Literal["decode", "authentication", "policy", "configuration"]


class Refused(Message, frozen=True):
    """`kind` says which error of `fabric.errors` it is to whoever asked."""

    kind: Kind
    why: Annotated[str, msgspec.Meta(max_length=1024)]


AnyQuestion = Begin | Sign | Open | Request | Rotate | TakeOver | NextBundle | Forget | Move
AnyAnswer = Begun | Done | Refused

_question_decoder = msgspec.msgpack.Decoder(AnyQuestion)
_answer_decoder = msgspec.msgpack.Decoder(AnyAnswer)
_encoder = msgspec.msgpack.Encoder()


def encode(message: AnyQuestion | AnyAnswer) -> bytes:
    """Returns the message with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES) + body


def take_message(buffer: bytearray) -> bytes | None:
    """Takes the first whole message from the front of `buffer`; None where there is none yet.

    Raises `DecodeError` as soon as its length says that it is too long.
    """
    if len(buffer) < LENGTH_BYTES:
        return None
    length = int.from_bytes(buffer[:LENGTH_BYTES])
    if length > MAX_MESSAGE_BYTES:
        raise DecodeError(f"a message of {length} bytes")
    if len(buffer) < LENGTH_BYTES + length:
        return None
    body = bytes(buffer[LENGTH_BYTES : LENGTH_BYTES + length])
    del buffer[: LENGTH_BYTES + length]
    return body


def decode_question(body: bytes) -> AnyQuestion:
    question: AnyQuestion = _decoded(_question_decoder, body)
    return question


def decode_answer(body: bytes) -> AnyAnswer:
    answer: AnyAnswer = _decoded(_answer_decoder, body)
    return answer


def _decoded(decoder: msgspec.msgpack.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise DecodeError("no message of this socket") from None
