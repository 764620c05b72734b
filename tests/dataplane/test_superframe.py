"""Super-frames: cut into slices, checked, and what is left of one when slices are lost, against scapy."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from fabric.dataplane.segment import segment
from fabric.dataplane.superframe import (
    Shape,
    complete_checksum,
    cut_run,
    header_for,
    shape_of,
    slice_start,
    slice_super_frame,
)
from fabric.errors import DecodeError
from fabric.wire.record import MAX_SLICES, SLICE_HEAD, VNET_FLAG, Slice, decode_record
from fabric.wire.vnet import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    NEEDS_CSUM,
    NO_VNET,
    VNET_BYTES,
    VnetHeader,
    decode_vnet,
    encode_vnet,
)
from tests.dataplane.superframes import Stream

TCP4, TCP6 = Stream(), Stream(is_ipv6=True)
UDP4, UDP6 = Stream(is_udp=True), Stream(is_udp=True, is_ipv6=True)
FULL = {"length": 57_946, "gso_size": 1348}
"""As many bytes as a TAP of 58,000 makes; 1,348 is what TCP with time stamps has in a packet of 1,400."""

KINDS = [TCP4, TCP6, UDP4, UDP6]

streams = st.builds(
    Stream,
    is_udp=st.booleans(),
    is_ipv6=st.booleans(),
    tags=st.integers(0, 2),
    flags=st.sampled_from(["A", "PA", "FPA", "FA", "CA", "CPA", "CEFPA"]),
    length=st.integers(1, 3000),
    gso_size=st.integers(250, 1600),
    sequence=st.integers(0, 2**32 - 1),
    identification=st.integers(0, 2**16 - 1),
    has_options=st.booleans(),
    seed=st.integers(0, 9),
)
limits = st.integers(170, 1900)
"""Of a record, so that slices are now longer and now shorter than segments."""


def slices_of(stream: Stream, record_limit: int) -> list[Slice]:
    slices = [decode_record(each) for each in slice_super_frame(stream.vnet(), stream.whole(), record_limit, 77)]
    return [each for each in slices if isinstance(each, Slice)]


def any_slices_of(stream: Stream, record_limit: int) -> list[Slice]:
    """Another example is asked for where there can be none: the first of as many even parts would not hold the headers.

    That takes records of less than 204 bytes, and no path has less than 500.
    """
    slices = slices_of(stream, record_limit)
    if not slices:
        count = math.ceil(len(stream.whole()) / (record_limit - SLICE_HEAD.size))
        assert math.ceil(len(stream.whole()) / count) < stream.headers
        reject()
    return slices


def runs_of(slices: list[Slice], lost: set[int]) -> Iterator[list[Slice]]:
    """Each longest row of slices that came."""
    run: list[Slice] = []
    for each in slices:
        if each.index in lost:
            if run:
                yield run
            run = []
        else:
            run.append(each)
    if run:
        yield run


def start_and_end(stream: Stream, slices: list[Slice], run: list[Slice]) -> tuple[int, int]:
    """Which part of the payload a run covers, by the lengths of the slices before it."""
    at = sum(len(each.part) for each in slices[: run[0].index])
    end = at + sum(len(each.part) for each in run)
    return max(0, at - stream.headers), end - stream.headers


def deliver(slices: list[Slice], run: list[Slice]) -> bytes | None:
    """As a lane does it, that knows slice 0 and the run."""
    first = slices[0]
    shape = shape_of(first.vnet_header, first.part, run=True)
    joined = b"".join(each.part for each in run)
    start = slice_start(shape, len(first.part), run[0].index) - shape.headers
    if run[0].index == 0:
        start, joined = 0, joined[shape.headers :]
    return cut_run(shape, first.part, start, joined, is_last=run[-1].index == first.count - 1)


def covered(stream: Stream, start: int, end: int) -> tuple[int, int]:
    """What of the payload from `start` to `end` can be delivered: all of TCP, and whole datagrams of UDP."""
    if not stream.is_udp:
        return start, end
    starts = [at for at in range(0, stream.length, stream.gso_size) if at >= start]
    ends = [min(at + stream.gso_size, stream.length) for at in range(0, stream.length, stream.gso_size)]
    return min(starts, default=end), max((each for each in ends if each <= end), default=start)


# -- there and back ---------------------------------------------------------------------------------------------


@given(streams, limits)
def test_slices_are_the_whole_again_and_fit_their_records(stream: Stream, record_limit: int) -> None:
    slices = any_slices_of(stream, record_limit)
    assert b"".join(each.part for each in slices) == stream.whole()
    assert [each.index for each in slices] == list(range(len(slices)))
    vnet = stream.vnet(hdr_len=stream.headers)
    assert {(e.count, e.flags, e.id, e.vnet_header) for e in slices} == {(len(slices), VNET_FLAG, 77, vnet)}
    assert max(SLICE_HEAD.size + len(each.part) for each in slices) <= record_limit


@given(streams, limits)
def test_slice_zero_tells_where_the_others_begin(stream: Stream, record_limit: int) -> None:
    slices = any_slices_of(stream, record_limit)
    first = slices[0]
    shape = shape_of(first.vnet_header, first.part, run=True)
    begins = [slice_start(shape, len(first.part), each.index) for each in slices]
    assert begins == [sum(len(each.part) for each in slices[:index]) for index in range(len(slices))]


@given(streams)
def test_a_whole_one_is_cut_as_scapy_builds_its_segments(stream: Stream) -> None:
    assert segment(stream.vnet(), stream.whole()) == stream.segments()


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_the_full_length_is_cut_as_scapy_builds_its_segments(kind: Stream) -> None:
    stream = kind.like(**FULL)
    assert segment(stream.vnet(), stream.whole()) == stream.segments()
    assert len(stream.segments()) == 43


@given(streams, limits, st.sets(st.integers(1, 30)))
def test_what_was_not_lost_is_delivered_and_nothing_else(stream: Stream, record_limit: int, lost: set[int]) -> None:
    slices = any_slices_of(stream, record_limit)
    for run in runs_of(slices, lost):
        start, end = covered(stream, *start_and_end(stream, slices, run))
        made = deliver(slices, run)
        if start >= end:
            assert made is None
            continue
        assert made is not None
        vnet, frame = made[:VNET_BYTES], made[VNET_BYTES:]
        assert segment(vnet, frame) == stream.segments(start, end)
        assert (decode_vnet(vnet).gso_type == GSO_NONE) == (end - start <= stream.gso_size)


@given(streams, limits)
def test_the_only_run_of_one_that_came_whole_is_the_whole(stream: Stream, record_limit: int) -> None:
    slices = any_slices_of(stream, record_limit)
    made = deliver(slices, slices)
    assert made is not None
    assert made[VNET_BYTES:] == stream.whole()
    shape = shape_of(stream.vnet(), stream.whole())
    assert made[:VNET_BYTES] == header_for(shape, stream.length, is_first=True)


@given(streams, limits, st.integers(1, 12))
def test_a_run_is_a_super_frame_like_any_other(stream: Stream, record_limit: int, lost: int) -> None:
    slices = any_slices_of(stream, record_limit)
    for run in runs_of(slices, {lost}):
        made = deliver(slices, run)
        if made is not None and decode_vnet(made).gso_type != GSO_NONE:
            shape = shape_of(made[:VNET_BYTES], made[VNET_BYTES:])
            assert shape.headers == stream.headers == decode_vnet(made).hdr_len


# -- how it is cut ----------------------------------------------------------------------------------------------


def test_slices_of_tcp_are_of_about_one_length() -> None:
    slices = slices_of(TCP4.like(**FULL), 1400)
    assert [len(each.part) for each in slices] == [1381] * 41 + [58_000 - 41 * 1381]


def test_slices_of_udp_hold_whole_datagrams() -> None:
    slices = slices_of(UDP4.like(length=5050, gso_size=400), 1400)
    assert [len(each.part) for each in slices] == [42 + 1200, 1200, 1200, 1200, 250]


def test_udp_that_is_longer_than_a_slice_is_cut_as_tcp() -> None:
    slices = slices_of(UDP4.like(length=5000, gso_size=2000), 1400)
    assert [len(each.part) for each in slices] == [1261, 1261, 1261, 1259]


def test_what_fits_one_record_is_one_slice() -> None:
    assert [len(each.part) for each in slices_of(TCP4.like(length=1000, gso_size=400), 1400)] == [1054]
    assert [len(each.part) for each in slices_of(UDP4.like(length=1000, gso_size=400), 1400)] == [1042]


def test_more_slices_than_can_be_counted_are_none() -> None:
    long = TCP4.like(length=MAX_SLICES * 100 - 54)
    assert len(slices_of(long, SLICE_HEAD.size + 100)) == MAX_SLICES
    assert slices_of(long.like(length=long.length + 1), SLICE_HEAD.size + 100) == []


@pytest.mark.parametrize("room", [-19, -1, 0, 1, 53])
def test_headers_that_do_not_fit_the_first_slice_can_not_be_sliced(room: int) -> None:
    assert slices_of(TCP4.like(length=2000), SLICE_HEAD.size + room) == []
    assert slices_of(UDP4.like(length=2000), SLICE_HEAD.size + min(room, 41)) == []


def test_a_first_slice_with_nothing_but_headers_gives_no_run_of_its_own() -> None:
    slices = slices_of(TCP4.like(length=54 * 9), SLICE_HEAD.size + 54)
    assert [len(each.part) for each in slices] == [54] * 10
    assert deliver(slices, slices[:1]) is None
    made = deliver(slices, slices[1:3])
    assert made is not None
    assert made[VNET_BYTES:] == TCP4.like(length=54 * 9).partial(0, 108)


# -- what a run says --------------------------------------------------------------------------------------------


def test_only_the_first_run_has_cwr_and_only_the_last_fin_and_push() -> None:
    stream = TCP4.like(flags="CEFPA")
    slices = slices_of(stream, 1400)
    runs = [slices[:2], slices[3:5], slices[6:]]
    flags = []
    for run in runs:
        made = deliver(slices, run)
        assert made is not None
        flags.append((decode_vnet(made).gso_type, str(Ether(made[VNET_BYTES:])[TCP].flags)))
    assert flags == [(GSO_TCPV4 | GSO_ECN, "AEC"), (GSO_TCPV4, "AE"), (GSO_TCPV4, "FPAE")]


def test_sequence_and_identification_count_on_and_wrap() -> None:
    stream = TCP4.like(sequence=0xFFFF_FFFF, identification=0xFFFF, gso_size=500)
    slices = slices_of(stream, 1400)
    made = deliver(slices, slices[2:4])
    assert made is not None
    packet = Ether(made[VNET_BYTES:])
    start, _ = start_and_end(stream, slices, slices[2:4])
    assert (packet[TCP].seq, packet[IP].id) == (start - 1, start // 500 - 1)


def test_one_segment_alone_is_no_super_frame_but_its_checksum_is_partial_still() -> None:
    shape = shape_of(TCP6.vnet(), TCP6.whole())
    assert decode_vnet(header_for(shape, 1000, is_first=True)) == VnetHeader(NEEDS_CSUM, GSO_NONE, 74, 0, 54, 16)
    assert decode_vnet(header_for(shape, 1001, is_first=True)) == VnetHeader(NEEDS_CSUM, GSO_TCPV6, 74, 1000, 54, 16)


def test_a_run_beyond_what_the_first_headers_tell_is_refused() -> None:
    for stream in KINDS:
        first = stream.partial(0, 3000)
        shape = shape_of(stream.vnet(), first[:1000], run=True)
        made = cut_run(shape, first, 1000, bytes(2000), is_last=True)
        assert made is not None
        with pytest.raises(DecodeError):
            cut_run(shape, first, 1001 if not stream.is_udp else 2000, bytes(2000), is_last=True)


def test_a_datagram_in_two_slices_of_which_one_is_lost_is_lost() -> None:
    stream = UDP4.like(length=3000, gso_size=1000)
    slices = slices_of(stream, 700)
    assert deliver(slices, slices[:1]) is None
    made = [deliver(slices, run) for run in runs_of(slices, {2})]
    whole = [segment(each[:VNET_BYTES], each[VNET_BYTES:]) for each in made if each is not None]
    assert whole == [[stream.plain(0, 1000)], [stream.plain(2000, 3000)]]


# -- checksums --------------------------------------------------------------------------------------------------


@given(streams)
def test_a_partial_checksum_is_completed_as_scapy_computes_it(stream: Stream) -> None:
    vnet = VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, stream.transport_at, stream.csum_offset)
    whole = stream.partial(0, stream.length)
    assert complete_checksum(vnet, whole) == stream.plain(0, stream.length)
    assert segment(encode_vnet(vnet), whole) == [stream.plain(0, stream.length)]


@pytest.mark.parametrize(("kind", "expected"), [(UDP4, 0xFFFF), (UDP6, 0xFFFF), (TCP4, 0), (TCP6, 0)])
def test_a_checksum_that_comes_to_nothing_is_all_ones_for_udp_only(kind: Stream, expected: int) -> None:
    vnet = VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, kind.transport_at, kind.csum_offset)
    at = kind.transport_at + kind.csum_offset
    frame = kind.like(length=10).whole()
    zeroed = frame[:-2] + bytes(2)
    checksum = complete_checksum(vnet, zeroed)[at : at + 2]
    assert complete_checksum(vnet, frame[:-2] + checksum)[at : at + 2] == expected.to_bytes(2)


def test_a_pseudo_header_that_comes_to_nothing_sums_to_ones() -> None:
    """As the kernel leaves it: 0 and ffff are one number, but frames are compared byte for byte."""
    stream = TCP6.like(length=1505)
    whole = stream.whole()
    assert whole[70:72] == b"\xff\xff"
    made = cut_run(shape_of(stream.vnet(), whole), whole, 0, stream.payload, is_last=True)
    assert made is not None
    assert made[VNET_BYTES:] == whole


def test_a_region_of_zeros_sums_to_zero_and_not_to_ones() -> None:
    made = complete_checksum(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, 14, 2), bytes(60))
    assert made == bytes(16) + b"\xff\xff" + bytes(42)


@pytest.mark.parametrize(("start", "offset"), [(14, 45), (59, 0), (60, 0), (0, 59), (65_535, 65_535)])
def test_a_checksum_outside_the_frame_is_refused(start: int, offset: int) -> None:
    with pytest.raises(DecodeError):
        complete_checksum(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, start, offset), bytes(60))


def test_a_plain_frame_is_its_own_only_segment() -> None:
    frame = TCP4.plain(0, 10)
    assert segment(NO_VNET, frame) == [frame]
    data_valid = encode_vnet(VnetHeader(2, GSO_NONE, 0, 0, 0, 0))
    assert segment(data_valid, frame) == [frame]


# -- what is refused --------------------------------------------------------------------------------------------


def vnet_with(stream: Stream, **changes: int) -> bytes:
    return encode_vnet(decode_vnet(stream.vnet())._replace(**changes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"flags": 0},
        {"flags": 2},
        {"flags": 3},
        {"gso_type": GSO_NONE},
        {"gso_type": 2},
        {"gso_type": 3},
        {"gso_type": GSO_ECN},
        {"gso_type": GSO_UDP | GSO_ECN},
        {"gso_type": 0x41},
        {"gso_size": 0},
        {"csum_start": 33},
        {"csum_start": 65_535},
        {"csum_offset": 8},
        {"csum_offset": 65_535},
    ],
)
def test_a_vnet_header_that_says_something_else_is_refused(kind: Stream, changes: dict[str, int]) -> None:
    with pytest.raises(DecodeError):
        shape_of(vnet_with(kind, **changes), kind.whole())


@pytest.mark.parametrize("kind", KINDS)
def test_the_gso_type_must_be_that_of_the_packet(kind: Stream) -> None:
    types = {each.gso_type for each in KINDS}
    for other in types - {kind.gso_type}:
        with pytest.raises(DecodeError):
            shape_of(vnet_with(kind, gso_type=other), kind.whole())


def changed(frame: bytes, at: int, value: int) -> bytes:
    return frame[:at] + bytes((value,)) + frame[at + 1 :]


WRONG: dict[str, tuple[Stream, Callable[[bytes], bytes]]] = {
    "IPv4 of version 5": (TCP4, lambda f: changed(f, 14, 0x55)),
    "IPv4 header too short": (TCP4, lambda f: changed(f, 14, 0x44)),
    "IPv4 header longer": (TCP4, lambda f: changed(f, 14, 0x46)),
    "a first fragment": (TCP4, lambda f: changed(f, 20, 0x20)),
    "a later fragment": (TCP4, lambda f: changed(f, 21, 1)),
    "IPv4 and UDP under TCP": (TCP4, lambda f: changed(f, 23, 17)),
    "IPv4 and TCP under UDP": (UDP4, lambda f: changed(f, 23, 6)),
    "IPv4 one longer": (TCP4, lambda f: changed(f, 17, f[17] + 1)),
    "IPv4 one shorter": (TCP4, lambda f: changed(f, 17, f[17] - 1)),
    "IPv6 of version 4": (TCP6, lambda f: changed(f, 14, 0x45)),
    "IPv6 with an extension header": (TCP6, lambda f: changed(f, 20, 0)),
    "IPv6 one longer": (TCP6, lambda f: changed(f, 19, f[19] + 1)),
    "IPv6 of no length, a jumbogram": (TCP6, lambda f: f[:18] + bytes(2) + f[20:]),
    "TCP header too short": (TCP4, lambda f: changed(f, 46, 0x40)),
    "UDP one longer": (UDP4, lambda f: changed(f, 39, f[39] + 1)),
    "UDP one shorter": (UDP4, lambda f: changed(f, 39, f[39] - 1)),
    "UDP over IPv6 one shorter": (UDP6, lambda f: changed(f, 59, f[59] - 1)),
    "another EtherType": (TCP4, lambda f: changed(f, 13, 6)),
    "IPv6 under the EtherType of IPv4": (TCP6, lambda f: f[:12] + b"\x08\x00" + f[14:]),
    "three tags": (TCP4.like(tags=2), lambda f: f[:12] + b"\x88\xa8\x00\x07" + f[12:]),
    "a tag that Linux does not know": (TCP4.like(tags=1), lambda f: f[:12] + b"\x91\x00" + f[14:]),
    "bytes behind the packet": (TCP4, lambda f: f + b"\x00"),
    "a last byte too few": (TCP4, lambda f: f[:-1]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_frame_that_is_not_what_it_says_is_refused(name: str) -> None:
    stream, spoil = WRONG[name]
    frame = stream.whole()
    shape_of(stream.vnet(), frame)
    spoilt = spoil(frame)
    vnet = vnet_with(stream, csum_start=stream.transport_at + len(spoilt) - len(frame)) if "three" in name else None
    with pytest.raises(DecodeError):
        shape_of(vnet or stream.vnet(), spoilt)


@pytest.mark.parametrize("kind", KINDS)
def test_headers_without_payload_are_no_super_frame(kind: Stream) -> None:
    with pytest.raises(DecodeError):
        shape_of(kind.vnet(), kind.partial(0, 0))
    assert shape_of(kind.vnet(), kind.partial(0, 1)).headers == kind.headers


@given(streams, st.integers(0, 200))
def test_what_ends_within_its_headers_is_refused(stream: Stream, length: int) -> None:
    frame = stream.whole()[:length]
    assume(length < stream.headers)
    for run in (False, True):
        with pytest.raises(DecodeError):
            shape_of(stream.vnet(), frame, run=run)


@given(streams)
def test_a_first_slice_may_be_shorter_than_its_headers_say_but_not_longer(stream: Stream) -> None:
    frame = stream.whole()
    assert shape_of(stream.vnet(), frame[: stream.headers], run=True).ends_at == len(frame)
    with pytest.raises(DecodeError):
        shape_of(stream.vnet(), frame + b"\x00", run=True)


def test_the_shorter_of_two_lengths_bounds_a_run_of_udp() -> None:
    frame = UDP4.whole()
    shorter = frame[:38] + struct.pack("!H", 1008) + frame[40:]
    assert shape_of(UDP4.vnet(), shorter[:500], run=True).ends_at == UDP4.headers + 1000
    longer = frame[:38] + struct.pack("!H", 20_000) + frame[40:]
    assert shape_of(UDP4.vnet(), longer[:500], run=True).ends_at == len(frame)


def touch_all(vnet: bytes, frame: bytes, record_limit: int) -> None:
    """Everything that is done to what a peer sent; each may refuse it, and by nothing else than `DecodeError`."""

    def try_run() -> None:
        shape: Shape = shape_of(vnet, frame, run=True)
        cut_run(shape, frame, slice_start(shape, len(frame), 3) - shape.headers, frame, is_last=False)
        cut_run(shape, frame, 0, frame[shape.headers :], is_last=True)

    acts: list[Callable[[], object]] = [
        lambda: shape_of(vnet, frame),
        lambda: slice_super_frame(vnet, frame, record_limit, 1),
        lambda: segment(vnet, frame),
        lambda: complete_checksum(decode_vnet(vnet), frame),
        try_run,
    ]
    for act in acts:
        with contextlib.suppress(DecodeError):
            act()


@given(st.binary(max_size=12), st.binary(max_size=200), limits)
def test_any_bytes_are_refused_or_taken_and_nothing_else(vnet: bytes, frame: bytes, record_limit: int) -> None:
    touch_all(vnet, frame, record_limit)


@given(streams, st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=4), st.integers(0, 3000), limits)
def test_spoilt_super_frames_are_refused_or_taken_and_nothing_else(
    stream: Stream, spoilt: list[tuple[int, int]], length: int, record_limit: int
) -> None:
    both = bytearray(stream.vnet() + stream.whole())
    for at, value in spoilt:
        both[at % len(both)] = value
    touch_all(bytes(both[:VNET_BYTES]), bytes(both[VNET_BYTES:]), record_limit)
    touch_all(bytes(both[:VNET_BYTES]), bytes(both[VNET_BYTES:length]), record_limit)


# -- the streams themselves -------------------------------------------------------------------------------------


def test_a_super_frame_of_these_tests_is_one_by_a_built_packet() -> None:
    """What is compared with must itself be right: its headers are read again by scapy."""
    four, six = Ether(TCP4.plain(1000, 2000)), Ether(UDP6.plain(1000, 2000))
    assert (four[IP].len, four[IP].id, four[TCP].seq) == (1040, 0xFFFD, 0xFFFF_F3E8)
    assert (six[IPv6].plen, six[UDP].len, bytes(six[Raw])) == (1008, 1008, UDP6.payload[1000:2000])
