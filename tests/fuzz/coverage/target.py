"""What a target is: something that takes bytes from anyone, and all that may come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fabric.errors import DecodeError

Check = Callable[[bytes], object]
Seeds = Callable[[], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Target:
    """`check` takes any bytes. It returns, or raises one of `errors`, or the code behind it has a fault.

    What it asserts beside that (that what was read can be written and read again, that no answer is long) is part of
    the check. `seeds` are genuine inputs to begin with. `covers` names the public decoders that it feeds, as
    module:function. `length` bounds the inputs that are worth trying, in bytes.
    """

    name: str
    check: Check
    seeds: Seeds
    covers: tuple[str, ...] = ()
    errors: tuple[type[Exception], ...] = (DecodeError,)
    length: int = 2048


def again(decode: Callable[[bytes], object], encode: Callable[..., bytes]) -> Check:
    """Returns the check of a codec whose readers skip what they don't know: what was read says the same when it is
    written and read again."""

    def check(data: bytes) -> None:
        written = encode(decode(data))
        assert encode(decode(written)) == written

    return check


def exactly(decode: Callable[[bytes], object], encode: Callable[..., bytes]) -> Check:
    """Returns the check of a codec with one way to write each thing: what was read is written as it came."""

    def check(data: bytes) -> None:
        assert encode(decode(data)) == data

    return check


def steps(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields what a script for a machine says: each step is what to do (u8), a length (u16) and so many bytes; the last
    one may be cut."""
    at = 0
    while at + 3 <= len(data):
        end = at + 3 + int.from_bytes(data[at + 1 : at + 3])
        yield data[at], data[at + 3 : end]
        at = end


def script(*said: tuple[int, bytes]) -> bytes:
    """Returns the script with these steps."""
    return b"".join(bytes((what,)) + len(payload).to_bytes(2) + payload for what, payload in said)
