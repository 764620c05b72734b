"""The outermost layer: what a payload claims to be, and the gated form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.datagram import (
    DATA_HEADER,
    MAX_GATED_BYTES,
    STUN_MAGIC,
    DatagramKind,
    Gated,
    classify,
    decode_gated,
    encode_gated,
)

gated = st.builds(
    Gated,
    gate_index=st.integers(0, 2**32 - 1),
    mac=st.binary(min_size=16, max_size=16),
    body=st.binary(min_size=1, max_size=MAX_GATED_BYTES - 24),
)


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (DATA_HEADER.pack(0xF1, 7, 9) + bytes(16), DatagramKind.DATA),
        (b"\xf2" + bytes(30), DatagramKind.GATED),
        (b"\x00\x01\x00\x00" + STUN_MAGIC + bytes(12), DatagramKind.STUN),
        (b"\x01\x01\x00\x00" + STUN_MAGIC + bytes(12), DatagramKind.STUN),
        (bytes(20), DatagramKind.UNKNOWN),
        (b"\x16\xfe\xfd" + bytes(30), DatagramKind.UNKNOWN),
        (b"\xf1" * 15, DatagramKind.UNKNOWN),
        (b"", DatagramKind.UNKNOWN),
    ],
)
def test_a_payload_is_classified_by_its_first_bytes(payload: bytes, kind: DatagramKind) -> None:
    assert classify(payload) is kind


def test_the_data_header_is_the_one_of_the_page() -> None:
    assert DATA_HEADER.pack(0xF1, 0x01020304, 0x05060708090A0B0C).hex() == "f10000000102030405060708090a0b0c"


@given(gated)
def test_a_gated_datagram_survives_the_wire(datagram: Gated) -> None:
    assert decode_gated(encode_gated(datagram)) == datagram


@given(st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: b"\xf2\0\0\0" + tail))
def test_noise_gives_a_gated_datagram_or_a_decode_error(payload: bytes) -> None:
    classify(payload)
    try:
        decoded = decode_gated(payload)
    except DecodeError:
        return
    assert encode_gated(decoded) == payload


def test_a_gated_datagram_over_the_limit_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_gated(encode_gated(Gated(1, bytes(16), bytes(MAX_GATED_BYTES))))
