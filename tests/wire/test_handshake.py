"""The messages of a handshake on the wire: as drawn, there and back, and `DecodeError` for anything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.handshake import (
    ANSWER_PROOFS,
    FINISH_PROOFS,
    MAX_CERTIFICATE_BYTES,
    MAX_EXTENSION_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PIECES,
    MAX_SLICE_BYTES,
    Answer,
    Credentials,
    Extension,
    Finish,
    Hello,
    MessageKind,
    Piece,
    Proof,
    ProofKind,
    decode_answer,
    decode_credentials,
    decode_finish,
    decode_hello,
    decode_piece,
    encode_answer,
    encode_credentials,
    encode_finish,
    encode_hello,
    encode_piece,
    kind_of,
)

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
u8 = st.integers(0, 255)


def exactly(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=1, max_size=16).map(lambda seed: (seed * (count // len(seed) + 1))[:count])


extensions = st.lists(st.builds(Extension, st.integers(0, 2**16 - 1), st.binary(max_size=60)), max_size=5).map(tuple)
hellos = st.builds(
    Hello,
    u32,
    u64,
    exactly(32),
    exactly(1184),
    exactly(32),
    st.lists(u8, min_size=1, max_size=16).map(tuple),
    extensions,
)
answers = st.builds(Answer, u32, u32, exactly(32), exactly(1088), exactly(32), u8, extensions)
proofs = st.one_of(
    st.builds(Proof, st.just(ProofKind.PROOF), exactly(32)),
    st.builds(Proof, st.sampled_from([kind for kind in ProofKind if kind is not ProofKind.PROOF])),
)
credentials = st.builds(Credentials, st.binary(max_size=900), exactly(64), proofs, extensions)
pieces = st.integers(1, MAX_PIECES).flatmap(
    lambda count: st.builds(
        Piece,
        st.sampled_from(MessageKind),
        st.integers(0, count - 1),
        st.just(count),
        u64,
        exactly(16),
        st.binary(min_size=1, max_size=MAX_SLICE_BYTES),
    )
)
ALL_PROOFS = ANSWER_PROOFS | FINISH_PROOFS

DECODERS: list[Callable[[bytes], object]] = [
    kind_of,
    decode_hello,
    decode_answer,
    decode_finish,
    lambda opened: decode_credentials(opened, ANSWER_PROOFS),
    lambda opened: decode_credentials(opened, FINISH_PROOFS),
    decode_piece,
]

HELLO = Hello(0x01020304, 1_700_000_000_123, b"e" * 32, b"k" * 1184, b"c" * 32, (1, 2))
ANSWER = Answer(0x01020304, 0x05060708, b"E" * 32, b"K" * 1088, b"C" * 32, 2)


@given(hellos)
def test_a_hello_comes_back_as_it_was(hello: Hello) -> None:
    assert decode_hello(encode_hello(hello)) == hello


@given(answers, st.binary(max_size=700))
def test_an_answer_comes_back_with_its_clear_bytes_and_its_sealed_part(answer: Answer, sealed: bytes) -> None:
    clear = encode_answer(answer)
    assert decode_answer(clear + sealed) == (answer, clear, sealed)


@given(u32, st.binary(max_size=700))
def test_a_finish_comes_back_with_its_clear_bytes_and_its_sealed_part(index: int, sealed: bytes) -> None:
    clear = encode_finish(Finish(index))
    assert decode_finish(clear + sealed) == (Finish(index), clear, sealed)


@given(credentials)
def test_a_sealed_part_comes_back_as_it_was(inside: Credentials) -> None:
    assert decode_credentials(encode_credentials(inside), ALL_PROOFS) == inside


@given(pieces)
def test_a_piece_comes_back_as_it_was(piece: Piece) -> None:
    assert decode_piece(encode_piece(piece)) == piece


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=1500))
def test_bytes_from_anyone_decode_or_raise_decode_error(decode: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode(data)


@pytest.mark.parametrize("decode", DECODERS)
@given(
    original=st.one_of(hellos.map(encode_hello), answers.map(encode_answer), credentials.map(encode_credentials)),
    at=st.integers(0, 1400),
    value=u8,
    cut=st.integers(0, 1400),
)
def test_damaged_messages_decode_or_raise_decode_error(
    decode: Callable[[bytes], object], original: bytes, at: int, value: int, cut: int
) -> None:
    damaged = bytearray(original)
    damaged[at % len(damaged)] = value
    with contextlib.suppress(DecodeError):
        decode(bytes(damaged[: cut % (len(damaged) + 1)]))


def test_hello_lies_in_memory_as_drawn() -> None:
    message = encode_hello(HELLO)
    assert message[:2] == b"\x01\x01"
    assert message[2:6] == b"\x01\x02\x03\x04"
    assert int.from_bytes(message[6:14]) == 1_700_000_000_123
    assert message[14:46] == b"e" * 32
    assert message[46:1230] == b"k" * 1184
    assert message[1230:1262] == b"c" * 32
    assert message[1262:] == b"\x02\x01\x02"


def test_answer_and_finish_lie_in_memory_as_drawn() -> None:
    message = encode_answer(ANSWER)
    assert message[:2] == b"\x02\x01"
    assert message[2:10] == bytes(range(1, 9))
    assert message[10:42] == b"E" * 32
    assert message[42:1130] == b"K" * 1088
    assert message[1130:1162] == b"C" * 32
    assert message[1162:] == b"\x02\x00\x00"
    assert encode_finish(Finish(7)) == b"\x03\x01\x00\x00\x00\x07"


def test_a_sealed_part_has_one_length_whatever_is_said_of_the_root() -> None:
    said = [Proof(kind, b"m" * 32 if kind is ProofKind.PROOF else b"") for kind in ProofKind]
    lengths = {len(encode_credentials(Credentials(b"cert", b"s" * 64, proof))) for proof in said}
    assert lengths == {2 + 4 + 64 + 1 + 32}


def test_no_shortened_hello_decodes() -> None:
    for length in range(len(encode_hello(HELLO))):
        with pytest.raises(DecodeError):
            decode_hello(encode_hello(HELLO)[:length])


def test_unknown_extensions_are_carried_past() -> None:
    later = encode_hello(HELLO) + b"\xff\xfe\x00\x03new"
    assert decode_hello(later).extensions == (Extension(0xFFFE, b"new"),)


def test_too_many_extension_bytes_are_refused() -> None:
    with pytest.raises(DecodeError, match="extensions"):
        decode_hello(encode_hello(HELLO) + bytes(MAX_EXTENSION_BYTES + 1))


def test_half_an_extension_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_hello(encode_hello(HELLO) + b"\x00\x01\x00\x05abc")


@pytest.mark.parametrize("suites", [(), tuple(range(17))])
def test_no_suite_or_too_many_are_refused(suites: tuple[int, ...]) -> None:
    message = encode_hello(Hello(1, 2, b"e" * 32, b"k" * 1184, b"c" * 32, suites))
    with pytest.raises(DecodeError, match="suites"):
        decode_hello(message)


def test_another_version_is_refused() -> None:
    with pytest.raises(DecodeError, match="version 2"):
        kind_of(b"\x01\x02" + encode_hello(HELLO)[2:])


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_another_kind_is_refused(kind: int) -> None:
    with pytest.raises(DecodeError, match=f"kind {kind}"):
        kind_of(bytes((kind, 1)))


def test_each_kind_is_taken_by_its_own_decoder_only() -> None:
    with pytest.raises(DecodeError, match="HELLO where ANSWER"):
        decode_answer(encode_hello(HELLO))
    with pytest.raises(DecodeError, match="ANSWER where HELLO"):
        decode_hello(encode_answer(ANSWER))
    with pytest.raises(DecodeError, match="ANSWER where FINISH"):
        decode_finish(encode_answer(ANSWER))


def test_a_message_longer_than_its_pieces_can_be_is_refused() -> None:
    with pytest.raises(DecodeError, match="bytes"):
        decode_answer(encode_answer(ANSWER) + bytes(MAX_MESSAGE_BYTES))


def test_an_oversized_certificate_is_refused() -> None:
    inside = Credentials(bytes(MAX_CERTIFICATE_BYTES + 1), b"s" * 64, Proof(ProofKind.NONE))
    with pytest.raises(DecodeError, match="2049"):
        decode_credentials(encode_credentials(inside), ANSWER_PROOFS)


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        (ProofKind.FIRST, ANSWER_PROOFS),
        (ProofKind.MISMATCH, ANSWER_PROOFS),
        (ProofKind.NONE, FINISH_PROOFS),
    ],
)
def test_what_the_other_message_may_say_of_the_root_is_refused(kind: ProofKind, allowed: frozenset[ProofKind]) -> None:
    inside = encode_credentials(Credentials(b"cert", b"s" * 64, Proof(kind)))
    with pytest.raises(DecodeError, match="proof kind"):
        decode_credentials(inside, allowed)


def test_a_proof_beside_none_is_refused() -> None:
    inside = bytearray(encode_credentials(Credentials(b"cert", b"s" * 64, Proof(ProofKind.NONE))))
    inside[-1] = 1
    with pytest.raises(DecodeError, match="beside NONE"):
        decode_credentials(bytes(inside), ANSWER_PROOFS)


@pytest.mark.parametrize(("index", "count", "length"), [(0, 0, 5), (1, 1, 5), (0, 5, 5), (0, 1, 0), (0, 1, 1149)])
def test_a_piece_out_of_bounds_is_refused(index: int, count: int, length: int) -> None:
    with pytest.raises(DecodeError, match=f"piece {index} of {count}"):
        decode_piece(encode_piece(Piece(MessageKind.HELLO, index, count, 1, bytes(16), bytes(length))))


def test_a_body_of_another_kind_is_no_piece() -> None:
    with pytest.raises(DecodeError, match="not a piece"):
        decode_piece(b"\x01" + bytes(100))
