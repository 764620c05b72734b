"""A stream of any length sealed in chunks, in constant memory: libsodium's secretstream (XChaCha20-Poly1305).

    +-----------+------------------------+------------------------+-- - - --+----------------------------+
    | header 24 | chunk 65,536 + 17      | chunk 65,536 + 17      |         | last chunk, 0..65,536 + 17 |
    +-----------+------------------------+------------------------+-- - - --+----------------------------+

Each chunk is bound to its place. The last, and only the last, carries the final mark, so that a stream cut short
or made longer does not open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_keygen,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
)
from nacl.exceptions import CryptoError

from fabric.errors import AuthenticationError

STREAM_KEY_BYTES = 32
CHUNK_BYTES = 65_536
"""Plaintext of a full chunk: large enough that 17 bytes and one call weigh nothing."""

_HEADER_BYTES = crypto_secretstream_xchacha20poly1305_HEADERBYTES
_SEALED_CHUNK_BYTES = CHUNK_BYTES + crypto_secretstream_xchacha20poly1305_ABYTES
_MESSAGE = crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_FINAL = crypto_secretstream_xchacha20poly1305_TAG_FINAL


def new_stream_key() -> bytes:
    """Returns 32 bytes from the system's entropy: like an encapsulation, a content key must never be repeatable."""
    return crypto_secretstream_xchacha20poly1305_keygen()


def seal_stream(key: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the header, then the sealed chunks; `pieces` may be cut anyhow. A key must seal one stream only."""
    state = crypto_secretstream_xchacha20poly1305_state()
    yield crypto_secretstream_xchacha20poly1305_init_push(state, key)
    for chunk, is_last in _regroup(pieces, CHUNK_BYTES):
        yield crypto_secretstream_xchacha20poly1305_push(state, chunk, tag=_FINAL if is_last else _MESSAGE)


def open_stream(key: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the opened chunks; `pieces` may be cut anyhow. Raises `AuthenticationError`.

    What was yielded may be delivered only when the iterator has ended without an exception: until then the
    stream may yet turn out to be cut short.
    """
    source = iter(pieces)
    header, rest = _split_header(source)
    state = crypto_secretstream_xchacha20poly1305_state()
    crypto_secretstream_xchacha20poly1305_init_pull(state, header, key)
    for sealed, is_last in _regroup(_chain(rest, source), _SEALED_CHUNK_BYTES):
        chunk, tag = _pull(state, sealed)
        if tag != (_FINAL if is_last else _MESSAGE):
            raise AuthenticationError("the stream does not end where its sender ended it")
        yield chunk


def _pull(state: crypto_secretstream_xchacha20poly1305_state, sealed: bytes) -> tuple[bytes, int]:
    try:
        return crypto_secretstream_xchacha20poly1305_pull(state, sealed)
    except CryptoError:
        raise AuthenticationError("a chunk of the stream does not hold") from None


def _split_header(source: Iterator[bytes]) -> tuple[bytes, bytes]:
    head = b""
    while len(head) < _HEADER_BYTES:
        piece = next(source, None)
        if piece is None:
            raise AuthenticationError("the stream ends within its header")
        head += piece
    return head[:_HEADER_BYTES], head[_HEADER_BYTES:]


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _regroup(pieces: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """Yields (chunk, is last): chunks of `size` bytes, and a last one of 0 to `size` bytes, always."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) > size:
            yield bytes(held[:size]), False
            del held[:size]
    yield bytes(held), True
