"""Super-frames through the lane: whole, and as far as they came when slices are lost, late, doubled or lies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether

from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Drop
from fabric.dataplane.reference import ReferenceLane
from fabric.dataplane.segment import segment
from fabric.dataplane.slices import EXPIRY_S, HURRY_S, LATER_INDEX, MAX_PARTIAL, MAX_WAITING_BYTES
from fabric.dataplane.superframe import slice_super_frame
from fabric.wire.record import MAX_FRAME_BYTES, SLICE_HEAD, VNET_FLAG, RecordKind
from fabric.wire.vnet import GSO_NONE, GSO_TCPV4, NEEDS_CSUM, NO_VNET, VNET_BYTES, VnetHeader, decode_vnet, encode_vnet
from tests.dataplane.pair import Datagram, End, LaneMaker, frame, meet, pair
from tests.dataplane.superframes import NETWORK, Stream

pytestmark = pytest.mark.usefixtures("each_lane")

LIMIT = 700
"""Of a datagram, so that a frame of some thousand bytes takes many slices."""

TCP4, TCP6 = Stream(), Stream(is_ipv6=True)
UDP4, UDP6 = Stream(is_udp=True, gso_size=300), Stream(is_udp=True, is_ipv6=True, gso_size=300)
COARSE_UDP = Stream(is_udp=True, gso_size=900)
"""No datagram of it fits a slice."""

KINDS = [TCP4, TCP6, UDP4, UDP6, COARSE_UDP]
NAMES = ["TCP over IPv4", "TCP over IPv6", "UDP over IPv4", "UDP over IPv6", "long UDP datagrams"]
each_kind = pytest.mark.parametrize("stream", KINDS, ids=NAMES)


def ends(
    limit: int = LIMIT, suite: Suite = Suite.CHACHA20_POLY1305, make_lane: LaneMaker | None = None
) -> tuple[End, End]:
    return pair(NETWORK, make_lane, limit=limit, suite=suite)


def sent(ann: End, *streams: Stream) -> list[list[Datagram]]:
    """Returns the datagrams of each stream's super-frame."""
    datagrams = []
    for stream in streams:
        ann.lane.handle_frames([stream.vnet() + stream.whole()], 0.0)
        datagrams.append(ann.take())
    return datagrams


def without(datagrams: list[Datagram], *lost: int) -> list[Datagram]:
    return [each for index, each in enumerate(datagrams) if index not in lost]


def delivered_whole(stream: Stream) -> bytes:
    return stream.vnet(hdr_len=stream.headers) + stream.whole()


def covered(stream: Stream, items: list[bytes]) -> list[tuple[int, int]]:
    """Returns from where to where in the payload each plain frame reaches that the kernel would make of `items`.

    All of their bytes have to be those that a kernel without offloads would have sent, but for the bounds of TCP
    segments and what follows from these: a segment's identification.
    """
    reached = []
    for item in items:
        for made in segment(item[:VNET_BYTES], item[VNET_BYTES:]):
            start = _find(stream, made)
            end = start + len(made) - stream.headers
            number = int.from_bytes(made[18:20]) - stream.identification & 0xFFFF
            assert made == stream.plain(start, end, None if stream.is_ipv6 else number)
            reached.append((start, end))
    return reached


def _find(stream: Stream, made: bytes) -> int:
    if stream.is_udp:
        return stream.payload.index(made[stream.headers :])
    return (int(Ether(made)[TCP].seq) - stream.sequence) % 2**32


def total(reached: list[tuple[int, int]]) -> set[int]:
    places = [place for start, end in reached for place in range(start, end)]
    assert len(places) == len(set(places)), "bytes came twice"
    return set(places)


def carried(stream: Stream, lost: set[int], limit: int = LIMIT) -> set[int]:
    """Returns which bytes of the payload can come when these slices do not."""
    slices = slice_super_frame(stream.vnet(), stream.whole(), limit - 32, 1)
    at = -stream.headers
    come: set[int] = set()
    for index, each in enumerate(slices):
        length = len(each) - SLICE_HEAD.size
        if index not in lost:
            come |= set(range(max(0, at), at + length))
        at += length
    if stream.is_udp:
        bounds = range(0, stream.length, stream.gso_size)
        datagrams = [range(start, min(start + stream.gso_size, stream.length)) for start in bounds]
        come = {place for datagram in datagrams if come >= set(datagram) for place in datagram}
    return come


def drops(end: End, peer: End) -> dict[Drop, int]:
    return dict(end.lane.counters(peer.name).drops)


# whole


@pytest.mark.parametrize("suite", list(Suite))
@each_kind
def test_a_super_frame_comes_out_as_it_went_in(stream: Stream, suite: Suite) -> None:
    ann, bob = ends(suite=suite)
    (datagrams,) = sent(ann, stream)
    assert len(datagrams) > 10
    assert max(len(payload) for payload, _ in datagrams) <= LIMIT
    assert bob.lane.handle_datagrams(datagrams, 0.0) == []
    assert bob.lane.take_frames() == [delivered_whole(stream)]
    assert ann.lane.counters(bob.name).tx_bytes == bob.lane.counters(ann.name).rx_bytes == len(stream.whole())
    assert drops(ann, bob) == drops(bob, ann) == {}
    assert bob.lane.next_timeout() is None


@each_kind
def test_the_longest_super_frame_of_a_tap_comes_out_as_it_went_in(stream: Stream) -> None:
    stream = stream.like(length=57_900, gso_size=1348, tags=2)
    ann, bob = ends(limit=1472)
    (datagrams,) = sent(ann, stream)
    bob.lane.handle_datagrams(datagrams[::-1], 0.0)
    assert bob.lane.take_frames() == [delivered_whole(stream)]


def test_a_super_frame_that_fits_one_record_stays_one() -> None:
    ann, bob = ends(limit=1472)
    stream = TCP4.like(length=1000, gso_size=400)
    (datagrams,) = sent(ann, stream)
    assert len(datagrams) == 1
    bob.lane.handle_datagrams(datagrams, 0.0)
    assert bob.lane.take_frames() == [delivered_whole(stream)]


@given(st.data())
def test_slices_of_super_frames_come_in_any_order_and_every_byte_is_delivered_once(data: st.DataObject) -> None:
    ann, bob = ends()
    streams = [TCP4.like(length=2500), TCP4.like(length=2500, sequence=77_000, seed=2)]
    datagrams = data.draw(st.permutations([each for some in sent(ann, *streams) for each in some]))
    for each in datagrams:
        bob.lane.handle_datagrams([each], 0.0)
    items = bob.lane.take_frames()
    for stream in streams:
        own = [item for item in items if (_find(stream, item[VNET_BYTES:])) < stream.length]
        assert total(covered(stream, own)) == set(range(stream.length))
    assert drops(bob, ann) == {}
    assert bob.lane.next_timeout() is None


def test_frames_leave_in_the_order_in_which_they_came() -> None:
    ann, bob = ends()
    small = [frame(ann, bob, bytes((n,)) * 20) for n in range(3)]
    items = [NO_VNET + small[0], TCP4.vnet() + TCP4.whole(), NO_VNET + small[1], NO_VNET + small[2]]
    ann.lane.handle_frames(items, 0.0)
    bob.lane.handle_datagrams(ann.take(), 0.0)
    assert bob.lane.take_frames() == [items[0], delivered_whole(TCP4), *items[2:]]


def test_what_was_held_until_promotion_is_put_together_then() -> None:
    ann, bob = End(1, NETWORK), End(2, NETWORK)
    _, at_bob = meet(ann, bob, limit=LIMIT, awaiting=True)
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(datagrams, 0.0)
    assert bob.lane.take_frames() == []
    bob.lane.promote(at_bob)
    assert bob.lane.take_frames() == [delivered_whole(TCP4)]


def test_copies_of_slices_bring_a_super_frame_once() -> None:
    ann, bob = ends()
    for end, other in ((ann, bob), (bob, ann)):
        end.lane.steer(other.name, other.underlay, LIMIT, End(9).underlay)
    (datagrams,) = sent(ann, TCP4)
    assert [payload for payload, _ in datagrams[::2]] == [payload for payload, _ in datagrams[1::2]]
    bob.lane.handle_datagrams(datagrams[::2][3:] + datagrams[1::2], 0.0)
    assert bob.lane.take_frames() == [delivered_whole(TCP4)]
    assert drops(bob, ann) == {Drop.COPY: len(datagrams) // 2 - 3}


# with holes


@pytest.mark.slow  # every slice of every kind; the test behind it draws some of them
@each_kind
def test_whichever_slice_is_lost_all_the_others_are_delivered(stream: Stream) -> None:
    count = len(slice_super_frame(stream.vnet(), stream.whole(), LIMIT - 32, 1))
    for lost in range(1, count):
        ann, bob = ends()
        (datagrams,) = sent(ann, stream)
        bob.lane.handle_datagrams(without(datagrams, lost), 0.0)
        assert bob.lane.take_frames() == []
        bob.lane.handle_timeout(HURRY_S)
        items = bob.lane.take_frames()
        assert total(covered(stream, items)) == carried(stream, {lost})
        assert bob.lane.counters(ann.name).rx_bytes == sum(len(item) - VNET_BYTES for item in items)
        bob.lane.handle_timeout(EXPIRY_S)
        assert drops(bob, ann) == {Drop.REASSEMBLY: 1}
        assert bob.lane.next_timeout() is None


@settings(max_examples=40)
@given(st.sampled_from(KINDS), st.sets(st.integers(1, 20)), st.sampled_from([LIMIT, 450, 1472]))
def test_any_loss_costs_what_was_lost_and_no_more(stream: Stream, lost: set[int], limit: int) -> None:
    ann, bob = ends(limit)
    (datagrams,) = sent(ann, stream)
    lost &= set(range(len(datagrams)))
    bob.lane.handle_datagrams(without(datagrams, *lost), 0.0)
    bob.lane.handle_timeout(HURRY_S)
    assert total(covered(stream, bob.lane.take_frames())) == carried(stream, lost, limit)
    bob.lane.handle_timeout(EXPIRY_S)
    assert drops(bob, ann) == ({Drop.REASSEMBLY: 1} if lost else {})
    assert bob.lane.next_timeout() is None


def test_without_its_first_slice_nothing_of_a_super_frame_is_of_use() -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(datagrams[1:], 0.0)
    for at in (HURRY_S, EXPIRY_S):
        assert bob.lane.next_timeout() == at
        bob.lane.handle_timeout(at)
    assert bob.lane.take_frames() == []
    assert drops(bob, ann) == {Drop.REASSEMBLY: 1}
    assert bob.lane.next_timeout() is None


def test_runs_leave_when_no_slice_has_come_for_a_while() -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(datagrams[:2], 1.0)
    bob.lane.handle_datagrams(datagrams[3:5], 1.0 + HURRY_S / 2)
    assert bob.lane.next_timeout() == 1.0 + HURRY_S / 2 + HURRY_S
    bob.lane.handle_timeout(1.0 + HURRY_S)
    assert bob.lane.take_frames() == []
    bob.lane.handle_timeout(1.0 + HURRY_S / 2 + HURRY_S)
    assert len(bob.lane.take_frames()) == 2
    assert bob.lane.next_timeout() == 1.0 + EXPIRY_S


def test_a_single_slice_waits_as_long_as_many() -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(datagrams[:1], 1.0)
    assert bob.lane.next_timeout() == 1.0 + HURRY_S
    bob.lane.handle_timeout(1.0 + HURRY_S)
    assert total(covered(TCP4, bob.lane.take_frames())) == carried(TCP4, set(range(1, len(datagrams))))


def test_runs_leave_before_whatever_comes_too_late_for_them() -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(without(datagrams, 5), 1.0)
    ann.send([frame(ann, bob)])
    bob.lane.handle_datagrams(ann.take(), 1.0 + HURRY_S)
    items = bob.lane.take_frames()
    assert items[-1] == NO_VNET + frame(ann, bob)
    assert total(covered(TCP4, items[:-1])) == carried(TCP4, {5})


@pytest.mark.parametrize("first_of_later", [LATER_INDEX, 12])
def test_runs_leave_when_a_later_super_frame_is_well_on_its_way(first_of_later: int) -> None:
    ann, bob = ends()
    later = TCP4.like(sequence=TCP4.sequence + TCP4.length, seed=2)
    first, second = sent(ann, TCP4, later)
    bob.lane.handle_datagrams(without(first, 4) + second[:LATER_INDEX], 0.0)
    assert bob.lane.take_frames() == []
    bob.lane.handle_datagrams([second[first_of_later]], 0.0)
    assert total(covered(TCP4, bob.lane.take_frames())) == carried(TCP4, {4})
    bob.lane.handle_datagrams(without(second[LATER_INDEX:], first_of_later - LATER_INDEX), 0.0)
    assert bob.lane.take_frames() == [delivered_whole(later)]


def test_runs_leave_before_a_later_super_frame_of_few_slices() -> None:
    ann, bob = ends()
    later = TCP4.like(length=500, gso_size=400, sequence=TCP4.sequence + TCP4.length)
    first, second = sent(ann, TCP4, later)
    assert len(second) == 1
    bob.lane.handle_datagrams(without(first, 4) + second, 0.0)
    items = bob.lane.take_frames()
    assert total(covered(TCP4, items[:-1])) == carried(TCP4, {4})
    assert items[-1] == delivered_whole(later)


def test_an_earlier_super_frame_hurries_none_and_neither_do_frames_and_messages_in_slices() -> None:
    ann, bob = ends()
    at_ann = next(iter(ann.keys))
    early, late = sent(ann, TCP4, TCP4.like(seed=2))
    ann.send([frame(ann, bob, bytes(5000))])
    ann.lane.send_control(at_ann, bytes(5000), bob.underlay)
    bob.lane.handle_datagrams(without(late, 2), 0.0)
    bob.lane.handle_datagrams(early[:-1] + ann.take(), 0.0)
    assert bob.received() == [frame(ann, bob, bytes(5000))]
    assert len(bob.lane.take_controls()) == 1


def test_a_late_slice_leaves_at_once_as_a_run_of_its_own() -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(without(datagrams, 3, 4, 9), 0.0)
    bob.lane.handle_timeout(HURRY_S)
    reached = covered(TCP4, bob.lane.take_frames())
    for late in (4, 9, 3):
        bob.lane.handle_datagrams([datagrams[late]], 0.1)
        (item,) = bob.lane.take_frames()
        reached += covered(TCP4, [item])
    assert total(reached) == set(range(TCP4.length))
    assert bob.lane.next_timeout() is None
    assert drops(bob, ann) == {}


@each_kind
def test_a_late_first_slice_brings_what_waited_for_it(stream: Stream) -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, stream)
    bob.lane.handle_datagrams(without(datagrams, 0, 5), 0.0)
    bob.lane.handle_timeout(HURRY_S)
    bob.lane.handle_datagrams([datagrams[0]], HURRY_S)
    assert total(covered(stream, bob.lane.take_frames())) == carried(stream, {5})
    bob.lane.handle_datagrams([datagrams[5]], 0.1)
    reached = total(covered(stream, bob.lane.take_frames()))
    assert reached == carried(stream, set(range(len(datagrams))) - {5})
    assert drops(bob, ann) == {}
    assert bob.lane.next_timeout() is None


def test_a_super_frame_of_which_only_the_first_slice_was_late_loses_nothing() -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(datagrams[1:], 0.0)
    bob.lane.handle_timeout(HURRY_S)
    bob.lane.handle_datagrams(datagrams[:1], HURRY_S)
    assert total(covered(TCP4, bob.lane.take_frames())) == set(range(TCP4.length))
    assert drops(bob, ann) == {}
    assert bob.lane.next_timeout() is None


# bounds


def record(index: int, count: int, *, id_: int, vnet: bytes = TCP4.vnet(), part: bytes = b"part") -> bytes:
    return SLICE_HEAD.pack(RecordKind.SLICE, index, count, VNET_FLAG, id_, vnet) + part


def give(ann: End, bob: End, records: list[bytes], now: float = 0.0) -> None:
    """Has them sealed as `ann` would, and brings them to `bob`."""
    at_ann = next(iter(ann.keys))
    bob.lane.handle_datagrams([(ann.forge(at_ann, each), ann.source) for each in records], now)


def test_a_slice_that_comes_twice_gives_up_what_waits_and_is_ignored_by_what_has_left() -> None:
    ann, bob = ends()
    slices = slice_super_frame(TCP4.vnet(), TCP4.whole(), LIMIT - 32, 7)
    give(ann, bob, [*slices[:3], slices[1]])
    assert drops(bob, ann) == {Drop.REASSEMBLY: 1}
    assert bob.lane.next_timeout() is None
    give(ann, bob, slices[:3])
    bob.lane.handle_timeout(HURRY_S)
    give(ann, bob, [slices[1], slices[2]], HURRY_S)
    assert len(bob.lane.take_frames()) == 1
    assert drops(bob, ann) == {Drop.REASSEMBLY: 1}


def test_the_oldest_makes_room_where_there_are_too_many() -> None:
    ann, bob = ends()
    give(ann, bob, [record(1, 9, id_=number) for number in range(MAX_PARTIAL + 3)])
    assert drops(bob, ann) == {Drop.REASSEMBLY: 3}


def test_the_bytes_that_wait_are_bounded() -> None:
    ann, bob = ends()
    part = bytes(60_000)
    give(ann, bob, [record(1, 9, id_=number, part=part) for number in range(2 * MAX_WAITING_BYTES // len(part))])
    assert drops(bob, ann)[Drop.REASSEMBLY] >= MAX_WAITING_BYTES // len(part) - 1


def test_the_bytes_of_what_has_a_hole_count_until_it_is_forgotten() -> None:
    ann, bob = ends(limit=1472)
    stream = TCP4.like(length=57_000)
    number = 2 * MAX_WAITING_BYTES // stream.length
    for datagrams in sent(ann, *[stream] * number):
        bob.lane.handle_datagrams(without(datagrams, 5), 0.0)
    assert len(bob.lane.take_frames()) == 2 * (number - 1)
    fits = MAX_WAITING_BYTES // (stream.length * (len(datagrams) - 1) // len(datagrams))
    assert drops(bob, ann) == {Drop.REASSEMBLY: number - fits}


def test_a_super_frame_longer_than_any_is_given_up() -> None:
    ann, bob = ends()
    give(ann, bob, [record(index, 255, id_=1, part=bytes(MAX_FRAME_BYTES // 49)) for index in range(50)])
    assert drops(bob, ann) == {Drop.REASSEMBLY: 1}
    assert bob.lane.next_timeout() is None


# lies


def malformed_whole(vnet: bytes, whole: bytes) -> None:
    """Both ways in: all slices at once, and with a hole."""
    room = 400
    parts = [whole[at : at + room] for at in range(0, len(whole), room)]
    for lost in (set(), {2}):
        ann, bob = ends()
        given = [record(i, len(parts), id_=1, vnet=vnet, part=p) for i, p in enumerate(parts) if i not in lost]
        give(ann, bob, given)
        bob.lane.handle_timeout(HURRY_S)
        assert bob.lane.take_frames() == []
        assert drops(bob, ann) == {Drop.MALFORMED: 1}
        assert bob.lane.next_timeout() is None


@pytest.mark.parametrize(
    "lie",
    [
        NO_VNET,
        encode_vnet(VnetHeader(0, GSO_TCPV4, 54, 1000, 34, 16)),
        encode_vnet(VnetHeader(NEEDS_CSUM, GSO_NONE, 54, 0, 34, 16)),
        encode_vnet(VnetHeader(NEEDS_CSUM, GSO_TCPV4, 54, 0, 34, 16)),
        encode_vnet(VnetHeader(NEEDS_CSUM, 3, 54, 1000, 34, 16)),
        encode_vnet(VnetHeader(NEEDS_CSUM, GSO_TCPV4, 54, 1000, 34, 6)),
        encode_vnet(VnetHeader(NEEDS_CSUM, GSO_TCPV4, 54, 1000, 9000, 16)),
        UDP4.vnet(),
        TCP6.vnet(),
    ],
)
def test_a_vnet_header_that_lies_about_its_frame_is_counted_once(lie: bytes) -> None:
    malformed_whole(lie, TCP4.whole())


def test_headers_that_lie_about_a_super_frame_are_counted_once() -> None:
    whole = TCP4.whole()
    malformed_whole(TCP4.vnet(), whole[:12] + b"\x88\xb5" + whole[14:])
    malformed_whole(TCP4.vnet(), whole[:14] + b"\x46" + whole[15:])
    malformed_whole(TCP4.vnet(), whole[:16] + (300).to_bytes(2) + whole[18:])
    malformed_whole(TCP4.vnet(), whole[:20] + b"\x20\x00" + whole[22:])
    malformed_whole(TCP4.vnet(), whole[:46] + b"\x10" + whole[47:])


def test_an_index_beyond_the_count_is_counted_once() -> None:
    ann, bob = ends()
    give(ann, bob, [record(0, 9, id_=1), record(9, 9, id_=1), record(0, 0, id_=2)])
    assert drops(bob, ann) == {Drop.MALFORMED: 2}


def test_slices_of_wrong_length_give_up_a_super_frame_with_a_hole() -> None:
    ann, bob = ends()
    slices = slice_super_frame(TCP4.vnet(), TCP4.whole(), LIMIT - 32, 7)
    give(ann, bob, [*slices[:4], slices[5][:-1], *slices[6:]])
    bob.lane.handle_timeout(HURRY_S)
    assert total(covered(TCP4, bob.lane.take_frames())) == carried(TCP4, set(range(4, len(slices))))
    assert drops(bob, ann) == {Drop.REASSEMBLY: 1}
    assert bob.lane.next_timeout() is None


def test_slices_that_contradict_each_other_give_up_the_whole() -> None:
    for other in (record(1, 8, id_=1), record(1, 9, id_=1, vnet=TCP6.vnet())):
        ann, bob = ends()
        give(ann, bob, [record(0, 9, id_=1), other])
        assert drops(bob, ann) == {Drop.REASSEMBLY: 1}
        assert bob.lane.next_timeout() is None


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5), st.integers(0, 3), st.binary(max_size=90)), max_size=30)
)
def test_any_slices_give_frames_or_counts_and_nothing_else(pieces: list[tuple[int, int, int, bytes]]) -> None:
    ann, bob = ends()
    start = TCP4.like(length=200, gso_size=60).whole()
    for number, (index, count, id_, part) in enumerate(pieces):
        given = part if index else start[: 54 + len(part)]
        give(ann, bob, [record(index, count, id_=id_, part=given)], number * HURRY_S / 3)
    bob.lane.handle_timeout(10.0)
    for item in bob.lane.take_frames():
        assert segment(item[:VNET_BYTES], item[VNET_BYTES:])
    assert set(drops(bob, ann)) <= {Drop.MALFORMED, Drop.REASSEMBLY}
    assert bob.lane.next_timeout() is None


# the guard


@each_kind
def test_nobody_speaks_for_another_in_a_super_frame_or_in_a_run(stream: Stream) -> None:
    eve, bob = End(9, NETWORK), End(2, NETWORK)
    meet(eve, bob, limit=LIMIT)
    datagrams, again = sent(eve, stream, stream.like(seed=3))
    bob.lane.handle_datagrams(datagrams, 0.0)
    assert drops(bob, eve) == {Drop.SOURCE_GUARD: 1}
    bob.lane.handle_datagrams(without(again, 6), 0.0)
    bob.lane.handle_timeout(HURRY_S)
    assert drops(bob, eve)[Drop.SOURCE_GUARD] >= 2
    assert set(drops(bob, eve)) == {Drop.SOURCE_GUARD}
    assert bob.lane.take_frames() == []
    assert bob.lane.counters(eve.name).rx_bytes == 0


def test_who_is_behind_a_bridge_is_learned_from_its_super_frames() -> None:
    ann, bob = End(7, NETWORK), End(2, NETWORK)
    meet(ann, bob, limit=LIMIT, bridge=True)
    cem = End(4, NETWORK)
    meet(bob, cem, limit=LIMIT)
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(datagrams, 0.0)
    assert bob.lane.take_frames() == [delivered_whole(TCP4)]
    bob.send([TCP4.whole()[6:12] + bob.mac + b"\x88\xb5answer"])
    assert [to for _, to in bob.lane.take_datagrams()] == [ann.source]


# going out


def test_a_super_frame_to_a_group_goes_to_every_peer_that_can_be_reached() -> None:
    ann, others = End(1, NETWORK), [End(2, NETWORK), End(3, NETWORK)]
    for other in others:
        meet(ann, other, limit=LIMIT)
    ann.lane.admit("away.test", End(9, NETWORK).port())
    for mac in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "02:99:99:99:99:99"):
        stream = UDP4.like(destination_mac=mac)
        ann.lane.handle_frames([stream.vnet() + stream.whole()], 0.0)
        datagrams = ann.lane.take_datagrams()
        assert [to for _, to in datagrams[:: len(datagrams) // 2]] == [other.source for other in others]
        for other in others:
            own = [(payload, ann.source) for payload, to in datagrams if to == other.source]
            other.lane.handle_datagrams(own, 0.0)
            assert other.lane.take_frames() == [delivered_whole(stream)]
    assert ann.lane.counters("away.test").drops == {}


@pytest.mark.parametrize("kind", [TCP4, TCP6, UDP4, UDP6])
def test_a_checksum_that_the_kernel_left_partial_is_completed(kind: Stream) -> None:
    stream = kind.like(length=500)
    ann, bob = ends(limit=1472)
    vnet = encode_vnet(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, stream.transport_at, stream.csum_offset))
    ann.lane.handle_frames([vnet + stream.whole()], 0.0)
    bob.lane.handle_datagrams(ann.take(), 0.0)
    assert bob.received() == [stream.plain(0, stream.length)]


def test_a_checksum_is_completed_once_for_all_peers_that_a_frame_goes_to() -> None:
    ann, others = End(1, NETWORK), [End(2, NETWORK), End(3, NETWORK)]
    for other in others:
        meet(ann, other)
    stream = UDP4.like(length=500, destination_mac="ff:ff:ff:ff:ff:ff")
    vnet = encode_vnet(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, stream.transport_at, stream.csum_offset))
    ann.lane.handle_frames([vnet + stream.whole()], 0.0)
    for (payload, _), other in zip(ann.lane.take_datagrams(), others, strict=True):
        other.lane.handle_datagrams([(payload, ann.source)], 0.0)
        (got,) = other.received()
        assert Ether(got)[UDP].chksum == Ether(stream.plain(0, 500))[UDP].chksum


def test_a_frame_whose_checksum_is_known_to_be_good_is_plain() -> None:
    ann, bob = ends(limit=1472)
    data_valid = encode_vnet(VnetHeader(2, GSO_NONE, 0, 0, 0, 0))
    ann.lane.handle_frames([data_valid + TCP4.like(length=99).plain(0, 99)], 0.0)
    bob.lane.handle_datagrams(ann.take(), 0.0)
    assert bob.received() == [TCP4.like(length=99).plain(0, 99)]


def test_a_vnet_header_that_does_not_fit_its_frame_is_counted_and_dropped() -> None:
    ann, bob = ends()
    whole = TCP4.whole()
    beyond = encode_vnet(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, len(whole), 16))
    unknown = encode_vnet(VnetHeader(NEEDS_CSUM, 3, 0, 1000, 34, 16))
    ann.lane.handle_frames([beyond + whole, unknown + whole, UDP4.vnet() + whole, TCP4.vnet()[:9], b"\1"], 0.0)
    assert ann.take() == []
    assert ann.lane.drops() == {Drop.MALFORMED: 5}
    assert drops(ann, bob) == {}


def test_a_super_frame_to_all_that_is_none_is_counted_once() -> None:
    ann = End(1, NETWORK)
    for other in (End(2, NETWORK), End(3, NETWORK)):
        meet(ann, other, limit=LIMIT)
    stream = TCP4.like(destination_mac="ff:ff:ff:ff:ff:ff")
    ann.lane.handle_frames([UDP4.vnet() + stream.whole()], 0.0)
    assert ann.take() == []
    assert ann.lane.drops() == {Drop.MALFORMED: 1}


def test_where_a_frame_goes_is_asked_before_a_checksum_is_written_over_it() -> None:
    ann, bob = ends(limit=1472)
    cem = End(3, NETWORK)
    meet(ann, cem)
    into_the_mac = encode_vnet(VnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, 0, 0))
    ann.lane.handle_frames([into_the_mac + TCP4.like(length=99).plain(0, 99)], 0.0)
    assert [to for _, to in ann.lane.take_datagrams()] == [bob.source]


def test_a_super_frame_of_more_datagrams_than_a_kernel_takes_is_none() -> None:
    ann, bob = ends(limit=1472)
    most = UDP4.like(length=128 * 20, gso_size=20)
    for stream, malformed in ((most, 0), (most.like(length=128 * 20 + 1), 1), (TCP4.like(gso_size=8), 1)):
        ann.lane.handle_frames([stream.vnet() + stream.whole()], 0.0)
        assert ann.lane.drops().get(Drop.MALFORMED, 0) == malformed
    ann.take()
    records = slices_of(most.like(length=200 * 20), 1400)
    give(ann, bob, records)
    assert drops(bob, ann) == {Drop.MALFORMED: 1}


@pytest.mark.parametrize("stream", [TCP4, TCP6])
def test_no_run_goes_beyond_what_the_first_headers_tell(stream: Stream) -> None:
    ann, bob = ends(limit=1472)
    whole = bytearray(stream.whole())
    at = 18 if stream.is_ipv6 else 16
    whole[at : at + 2] = (5000).to_bytes(2)
    records = slices_of(stream, 1000, bytes(whole))
    give(ann, bob, records[:3] + records[4:])
    bob.lane.handle_timeout(HURRY_S)
    assert drops(bob, ann) == {Drop.MALFORMED: 1}
    (item,) = bob.lane.take_frames()
    assert item[VNET_BYTES + stream.headers :] == stream.payload[: 3000 - stream.headers]
    assert bob.lane.next_timeout() is None


def slices_of(stream: Stream, each: int, frame: bytes | None = None) -> list[bytes]:
    """Cut without a look at what it is."""
    whole = frame or stream.whole()
    count = -(-len(whole) // each)
    return [record(i, count, id_=9, vnet=stream.vnet(), part=whole[i * each :][:each]) for i in range(count)]


def test_a_super_frame_that_cannot_be_sent_is_counted_as_any_frame_is() -> None:
    ann, bob = ends(limit=80)
    item = TCP4.vnet() + TCP4.whole()
    ann.lane.handle_frames([item], 0.0)
    ann.lane.steer(bob.name, None, 0)
    ann.lane.handle_frames([item], 0.0)
    ann.lane.retire(next(iter(ann.keys)))
    ann.lane.handle_frames([item], 0.0)
    assert drops(ann, bob) == {Drop.OVERSIZE: 1, Drop.NO_PATH: 1, Drop.NO_SESSION: 1}
    assert ann.take() == []


def test_a_key_used_up_amid_a_super_frame_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = ends(make_lane=ReferenceLane)
    monkeypatch.setattr("fabric.dataplane.session.LAST_COUNTER", 3)
    ann.lane.handle_frames([TCP4.vnet() + TCP4.whole()] * 2, 0.0)
    assert len(ann.take()) == 3
    assert drops(ann, bob) == {Drop.EXHAUSTED: 2}


def test_super_frames_are_in_the_traffic_report() -> None:
    ann, bob = ends()
    (datagrams,) = sent(ann, TCP4)
    bob.lane.handle_datagrams(datagrams, 3.0)
    (sealed,) = ann.lane.take_traffic()
    (opened,) = bob.lane.take_traffic()
    assert sealed.sealed == opened.opened == sealed.highest_sealed_counter + 1 == len(datagrams)
    assert decode_vnet(bob.lane.take_frames()[0]).gso_type == GSO_TCPV4
