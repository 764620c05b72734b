"""The sealed stream: any cut of the input, and every way to shorten, lengthen or reorder it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.stream import CHUNK_BYTES, new_stream_key, open_stream, seal_stream
from fabric.errors import AuthenticationError

KEY = bytes(range(32))
SEALED_CHUNK_BYTES = CHUNK_BYTES + 17


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 5])
@pytest.mark.parametrize("size", [1000, CHUNK_BYTES, 10 * CHUNK_BYTES])
def test_a_stream_opens_however_it_was_cut(length: int, size: int) -> None:
    data = bytes(itertools.islice(itertools.cycle(range(251)), length))
    sealed = b"".join(seal_stream(KEY, cut(data, size)))
    assert b"".join(open_stream(KEY, cut(sealed, size + 7))) == data


def test_a_stream_cut_short_anywhere_does_not_open() -> None:
    sealed = b"".join(seal_stream(KEY, [bytes(CHUNK_BYTES + 100)]))
    for end in (0, 10, 24, 25, 24 + 16, 24 + SEALED_CHUNK_BYTES, 24 + SEALED_CHUNK_BYTES + 17, len(sealed) - 1):
        with pytest.raises(AuthenticationError):
            list(open_stream(KEY, [sealed[:end]]))


def test_a_stream_made_longer_does_not_open() -> None:
    sealed = b"".join(seal_stream(KEY, [b"text"]))
    for more in (b"\0", bytes(SEALED_CHUNK_BYTES), sealed[24:]):
        with pytest.raises(AuthenticationError):
            list(open_stream(KEY, [sealed, more]))


def test_chunks_in_another_order_do_not_open() -> None:
    header, *chunks = seal_stream(KEY, [bytes(3 * CHUNK_BYTES)])
    assert len(chunks) == 3
    assert b"".join(open_stream(KEY, [header, *chunks])) == bytes(3 * CHUNK_BYTES)
    with pytest.raises(AuthenticationError):
        list(open_stream(KEY, [header, chunks[1], chunks[0], chunks[2]]))


def test_a_stream_opens_with_its_own_key_only() -> None:
    sealed = b"".join(seal_stream(KEY, [b"text"]))
    with pytest.raises(AuthenticationError):
        list(open_stream(new_stream_key(), [sealed]))


@given(st.binary(max_size=200))
def test_anything_may_be_offered_as_a_stream(data: bytes) -> None:
    with pytest.raises(AuthenticationError):
        list(open_stream(KEY, [data]))


def test_a_long_stream_is_opened_piece_by_piece() -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        for sealed in seal_stream(KEY, itertools.repeat(bytes(CHUNK_BYTES))):
            taken += 1
            yield sealed

    opened = open_stream(KEY, endless())
    assert len(next(opened)) == CHUNK_BYTES
    assert taken <= 4
