"""PCP and NAT-PMP: requests as the RFCs draw them, answers taken apart, and nothing but DecodeError for the rest."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.wire.address import Transport
from fabric.wire.pcp import (
    MAX_BYTES,
    NatPmpAddress,
    NatPmpMapped,
    PcpMap,
    PcpMapped,
    PcpNews,
    Protocol,
    VersionRefused,
    decode_answer,
    encode_nat_pmp_address,
    encode_nat_pmp_map,
    encode_pcp_map,
    result_words,
)

NONCE = bytes(range(12))
WIDE_OWN = bytes.fromhex("00000000000000000000ffffc0a8010a")
WIDE_OUT = bytes.fromhex("00000000000000000000ffffcb007107")
u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
transports = st.sampled_from([Transport.UDP, Transport.TCP])
PROTOCOL = {Transport.UDP: 17, Transport.TCP: 6}
OPCODE = {Transport.UDP: 1, Transport.TCP: 2}


def pcp_answer(
    *,
    result: int = 0,
    lifetime: int = 7200,
    epoch: int = 5,
    transport: Transport = Transport.UDP,
    out: bytes = WIDE_OUT,
) -> bytes:
    """As RFC 6887 figures 3 and 10 draw it, by code that shares nothing with the decoder."""
    header = bytes([2, 0x81, 0, result]) + struct.pack("!II", lifetime, epoch) + bytes(12)
    return header + NONCE + bytes([PROTOCOL[transport], 0, 0, 0]) + struct.pack("!HH", 4000, 5000) + out


def test_a_pcp_request_is_laid_out_as_in_figures_2_and_9() -> None:
    wanted = PcpMap("192.168.1.10", NONCE, Transport.UDP, 0x1234, "203.0.113.7", 0x5678, 7200)
    expected = bytes.fromhex("0201000000001c20") + WIDE_OWN + NONCE + bytes.fromhex("1100000012345678") + WIDE_OUT
    assert encode_pcp_map(wanted) == expected
    assert len(expected) == 60


def test_a_request_without_a_wish_has_the_ipv4_mapped_zero() -> None:
    wanted = PcpMap("192.168.1.10", NONCE, Transport.TCP, 1, None, 0, 0)
    assert encode_pcp_map(wanted)[-16:] == bytes.fromhex("00000000000000000000ffff00000000")
    assert encode_pcp_map(wanted)[36] == 6


def test_a_relay_has_no_mapping() -> None:
    with pytest.raises(ValueError, match="RELAY_UDP"):
        encode_pcp_map(PcpMap("192.168.1.10", NONCE, Transport.RELAY_UDP, 1, None, 0, 0))


def test_nat_pmp_requests_are_laid_out_as_in_rfc_6886() -> None:
    assert encode_nat_pmp_address() == b"\0\0"
    assert encode_nat_pmp_map(Transport.TCP, 0x1234, 0x5678, 7200) == bytes.fromhex("000200001234567800001c20")
    assert encode_nat_pmp_map(Transport.UDP, 1, 0, 0)[1] == 1


@given(u8.filter(lambda result: result != 1), u32, u32, transports, st.ip_addresses(v=4))
def test_a_pcp_answer_is_read_as_it_was_written(
    result: int, lifetime: int, epoch: int, transport: Transport, ip: ipaddress.IPv4Address
) -> None:
    out = bytes(10) + b"\xff\xff" + ip.packed
    payload = pcp_answer(result=result, lifetime=lifetime, epoch=epoch, transport=transport, out=out)
    expected = PcpMapped(result, lifetime, epoch, NONCE, transport, 4000, 5000, str(ip))
    assert decode_answer(payload) == expected
    assert decode_answer(payload + bytes(8)) == expected  # an option, of whatever kind


def test_an_outside_address_may_be_ipv6() -> None:
    answer = decode_answer(pcp_answer(out=ipaddress.ip_address("2001:db8::7").packed))
    assert isinstance(answer, PcpMapped)
    assert answer.outside_ip == "2001:db8::7"


def test_news_of_a_gateway_tell_its_epoch() -> None:
    assert decode_answer(bytes([2, 0x80, 0, 0]) + struct.pack("!II", 0, 77) + bytes(12)) == PcpNews(77)


@given(u16.filter(lambda result: result > 1), u32)
def test_a_nat_pmp_error_needs_no_address(result: int, epoch: int) -> None:
    assert decode_answer(struct.pack("!BBHI", 0, 128, result, epoch)) == NatPmpAddress(result, epoch, "0.0.0.0")


@given(u32, st.ip_addresses(v=4))
def test_nat_pmp_tells_the_outside_address(epoch: int, ip: ipaddress.IPv4Address) -> None:
    assert decode_answer(struct.pack("!BBHI", 0, 128, 0, epoch) + ip.packed) == NatPmpAddress(0, epoch, str(ip))


@given(transports, u32, u16, u16, u32)
def test_nat_pmp_tells_a_mapping(transport: Transport, epoch: int, port: int, outside: int, life: int) -> None:
    payload = struct.pack("!BBHIHHI", 0, 128 + OPCODE[transport], 0, epoch, port, outside, life)
    assert decode_answer(payload) == NatPmpMapped(0, epoch, transport, port, outside, life)


@pytest.mark.parametrize(
    ("payload", "version"),
    [
        (bytes.fromhex("0081000100000005"), 0),  # RFC 6887 appendix A: a NAT-PMP gateway, asked in PCP
        (bytes.fromhex("0080000100000005"), 0),
        (bytes.fromhex("01810001") + bytes(20), 1),
        (bytes.fromhex("03810001") + bytes(20), 3),
    ],
)
def test_a_gateway_of_another_version_says_which(payload: bytes, version: int) -> None:
    assert decode_answer(payload) == VersionRefused(version)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\2",
        encode_nat_pmp_address(),
        encode_pcp_map(PcpMap("192.168.1.10", NONCE, Transport.UDP, 1, None, 0, 0)),
        pcp_answer()[:-4],
        pcp_answer() + b"x",
        pcp_answer() + bytes(MAX_BYTES),
        bytes([3]) + pcp_answer()[1:],
        bytes([2, 0x82]) + pcp_answer()[2:],
        pcp_answer()[:36] + b"\x84" + pcp_answer()[37:],
        struct.pack("!BBHIHHI", 0, 131, 0, 5, 1, 2, 3),
        struct.pack("!BBHI", 0, 128, 0, 5),
    ],
)
def test_what_is_no_answer_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_answer(payload)


@given(st.binary(max_size=80), st.sampled_from([b"", b"\2\x81", b"\2\x80", b"\0\x80", b"\0\x81", b"\0\x82"]))
def test_anything_at_all_is_an_answer_or_a_decode_error(noise: bytes, start: bytes) -> None:
    try:
        decode_answer(start + noise)
    except DecodeError:
        return


def test_refusals_have_words() -> None:
    assert result_words(Protocol.PCP, 2) == "not authorised"
    assert result_words(Protocol.NAT_PMP, 3) == "its own line is down"
    assert result_words(Protocol.PCP, 200) == "result 200"
