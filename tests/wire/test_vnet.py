"""The vnet header: a vector, round trips and what is too short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.vnet import (
    GSO_ECN,
    GSO_TCPV4,
    NEEDS_CSUM,
    NO_VNET,
    VNET_BYTES,
    VnetHeader,
    decode_vnet,
    encode_vnet,
)

byte = st.integers(0, 255)
word = st.integers(0, 65_535)
vnet_headers = st.builds(VnetHeader, byte, byte, word, word, word, word)


def test_a_header_is_as_virtio_has_it() -> None:
    header = VnetHeader(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, hdr_len=66, gso_size=1348, csum_start=34, csum_offset=16)
    assert encode_vnet(header) == bytes.fromhex("01 81 4200 4405 2200 1000")


def test_no_header_is_one_that_says_nothing() -> None:
    assert decode_vnet(NO_VNET) == VnetHeader(0, 0, 0, 0, 0, 0)


@given(vnet_headers, st.binary(max_size=40))
def test_what_is_encoded_is_decoded_whatever_frame_follows(header: VnetHeader, frame: bytes) -> None:
    assert decode_vnet(encode_vnet(header) + frame) == header


@given(st.binary(min_size=VNET_BYTES, max_size=VNET_BYTES))
def test_each_ten_bytes_are_a_header(encoded: bytes) -> None:
    assert encode_vnet(decode_vnet(encoded)) == encoded


@given(st.binary(max_size=VNET_BYTES - 1))
def test_fewer_bytes_are_none(encoded: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_vnet(encoded)
