"""The lane through its contract: frames in, frames out, and every way to lose one counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Control, Drop, Lane, Port, SessionKeys
from fabric.dataplane.peer_port import COPY_LINGER_S
from fabric.dataplane.reference import ReferenceLane
from fabric.dataplane.session import LAST_COUNTER, Session
from fabric.wire.address import Address, Transport, address_of, target_of
from fabric.wire.record import CONTROL_FLAG, MAX_CONTROL_BYTES, VNET_FLAG, overlay_mtu, slice_frame
from tests.dataplane.pair import End, carry, frame, ipv4, key_pair, meet, pair

pytestmark = pytest.mark.usefixtures("each_lane")

BROADCAST = b"\xff" * 6


def drops(end: End, peer: End) -> dict[Drop, int]:
    return dict(end.lane.counters(peer.name).drops)


def test_the_reference_lane_fits_the_contract() -> None:
    lane: Lane = End(1).lane
    assert lane.drops() == {}


# frames


@pytest.mark.parametrize("suite", list(Suite))
def test_a_frame_comes_out_as_it_went_in(suite: Suite) -> None:
    ann, bob = pair(suite=suite)
    sent = ipv4(ann, bob)
    assert carry(ann, bob, [sent]) == [sent]
    assert carry(bob, ann, [ipv4(bob, ann)]) == [ipv4(bob, ann)]
    assert ann.lane.counters(bob.name).tx_bytes == bob.lane.counters(ann.name).rx_bytes == len(sent)


@given(
    st.lists(st.integers(0, 4000), max_size=40),
    st.integers(200, 1472),
    st.sampled_from(list(Suite)),
)
def test_every_batch_arrives_whole_and_in_order(sizes: list[int], limit: int, suite: Suite) -> None:
    ann, bob = pair(limit=limit, suite=suite)
    frames = [frame(ann, bob, number.to_bytes(2) + bytes(size)) for number, size in enumerate(sizes)]
    ann.send(frames, 0.0)
    datagrams = ann.take()
    assert all(len(payload) <= limit for payload, _ in datagrams)
    assert bob.lane.handle_datagrams(datagrams, 0.0) == []
    assert bob.received() == frames
    assert drops(bob, ann) == drops(ann, bob) == {}
    assert ann.lane.counters(bob.name).tx_bytes == sum(len(each) for each in frames)


def test_small_frames_that_wait_together_share_a_record() -> None:
    ann, bob = pair()
    ann.send([frame(ann, bob, bytes(50))] * 40, 0.0)
    datagrams = ann.take()
    assert len(datagrams) == 2
    assert len(datagrams[0][0]) > 1400
    bob.lane.handle_datagrams(datagrams, 0.0)
    assert len(bob.received()) == 40


def test_nothing_waits_longer_than_its_batch() -> None:
    ann, bob = pair()
    for _ in range(3):
        ann.send([frame(ann, bob)], 0.0)
        assert len(ann.take()) == 1


def test_a_full_sized_frame_leaves_alone_and_unsliced_at_the_overlay_mtu() -> None:
    ann, bob = pair(limit=1452)
    tagged = bob.mac + ann.mac + b"\x81\x00\x00\x05\x88\xb5" + bytes(1399)
    ann.send([tagged], 0.0)
    assert [len(payload) for payload, _ in ann.take()] == [1452]


def test_a_broadcast_and_an_unknown_destination_go_to_every_peer_that_can_be_reached() -> None:
    ann, others = End(1), [End(2), End(3), End(4)]
    for other in others:
        meet(ann, other)
    ann.lane.admit("away.test", End(9).port())
    for destination in (BROADCAST, b"\x01\x00\x5e\x00\x00\xfb", b"\x02\x99\x99\x99\x99\x99"):
        sent = destination + ann.mac + b"\x88\xb5hello"
        ann.send([sent], 0.0)
        datagrams = ann.lane.take_datagrams()
        assert [to for _, to in datagrams] == [other.source for other in others]
        for (payload, _), other in zip(datagrams, others, strict=True):
            other.lane.handle_datagrams([(payload, ann.source)], 0.0)
            assert other.received() == [sent]
    assert ann.lane.counters("away.test").drops == {}


def test_a_frame_from_one_peer_is_never_forwarded_to_another() -> None:
    ann, bob, cem = End(1), End(2), End(3)
    meet(ann, bob)
    meet(bob, cem)
    for sent in (BROADCAST + ann.mac + b"\x88\xb5to all", cem.mac + ann.mac + b"\x88\xb5to cem by bob"):
        ann.send([sent], 0.0)
        bob.lane.handle_datagrams(ann.take(), 0.0)
        assert bob.received() == [sent]
        assert bob.lane.take_datagrams() == []


def test_a_stub_of_a_frame_is_dropped() -> None:
    ann, bob = pair()
    ann.send([b"", b"\xff" * 13, bob.mac + b"short"], 0.0)
    assert ann.take() == []
    assert ann.lane.drops() == {Drop.MALFORMED: 2}
    assert drops(ann, bob) == {Drop.MALFORMED: 1}


# steering


def test_without_a_session_or_a_path_frames_are_counted_and_dropped() -> None:
    ann, bob = End(1), End(2)
    ann.lane.admit(bob.name, bob.port())
    ann.send([ipv4(ann, bob)], 0.0)
    keys, _ = key_pair(ann, bob)
    ann.lane.install(keys, awaiting=False)
    ann.lane.promote(keys.local_index)
    ann.send([ipv4(ann, bob), frame(ann, bob)], 0.0)
    ann.lane.steer(bob.name, None, 0, bob.underlay)
    ann.send([ipv4(ann, bob)], 0.0)
    assert drops(ann, bob) == {Drop.NO_SESSION: 1, Drop.NO_PATH: 3}
    assert ann.take() == []


def test_datagrams_follow_the_steering() -> None:
    ann, bob = pair()
    ann.lane.steer(bob.name, Address("2001:db8::7", 777), 1452)
    ann.send([ipv4(ann, bob)], 0.0)
    assert [to for _, to in ann.lane.take_datagrams()] == [("2001:db8::7", 777)]
    ann.lane.steer(bob.name, None, 0)
    ann.send([ipv4(ann, bob)], 0.0)
    assert drops(ann, bob) == {Drop.NO_PATH: 1}


RELAY_ONE = Address("203.0.113.1", 3478, Transport.RELAY_UDP, 71)
RELAY_TWO = Address("203.0.113.2", 443, Transport.RELAY_TLS, 72)


@pytest.mark.parametrize(
    "to",
    [Address("192.0.2.9", 7, via=16), Address("192.0.2.9", 7, Transport.TCP, 3), RELAY_ONE, RELAY_TWO],
)
def test_frames_and_controls_go_to_any_transport_and_are_known_by_it(to: Address) -> None:
    ann, bob = End(1), End(2)
    at_ann, _ = meet(ann, bob)
    ann.lane.steer(bob.name, to, 1452)
    ann.send([ipv4(ann, bob)], 0.0)
    ann.lane.send_control(at_ann, b"hello", to)
    sent = ann.lane.take_datagrams()
    assert [target for _, target in sent] == [target_of(to)] * 2
    bob.lane.handle_datagrams(sent, 0.0)
    assert bob.received() == [ipv4(ann, bob)]
    assert [control.source for control in bob.lane.take_controls()] == [to]
    assert [report.source for report in bob.lane.take_traffic()] == [to]


@pytest.mark.parametrize("limit", [1232, 548])
def test_a_frame_of_the_full_overlay_mtu_gets_through_a_narrow_path(limit: int) -> None:
    ann, bob = pair(limit=limit)
    sent = bob.mac + ann.mac + b"\x81\x00\x00\x05\x88\xb5" + bytes(overlay_mtu(1500))
    ann.send([sent], 0.0)
    datagrams = ann.take()
    assert len(datagrams) == (2 if limit == 1232 else 3)
    assert max(len(payload) for payload, _ in datagrams) <= limit
    bob.lane.handle_datagrams(datagrams, 0.0)
    assert bob.received() == [sent]


# copies


def test_a_copy_of_each_datagram_goes_out_and_one_of_two_comes_in() -> None:
    ann, bob = End(1), End(2)
    at_ann, _ = meet(ann, bob)
    for end, other in ((ann, bob), (bob, ann)):
        end.lane.steer(other.name, RELAY_ONE, 1300, RELAY_TWO)
    frames = [ipv4(ann, bob), frame(ann, bob), frame(ann, bob, bytes(3000))]
    ann.send(frames, 0.0)
    sent = ann.lane.take_datagrams()
    assert [to for _, to in sent] == [target_of(RELAY_ONE), target_of(RELAY_TWO)] * (len(sent) // 2)
    assert [payload for payload, _ in sent[::2]] == [payload for payload, _ in sent[1::2]]
    bob.lane.handle_datagrams(sent, 0.0)
    assert bob.received() == frames
    assert drops(bob, ann) == {Drop.COPY: len(sent) // 2}
    assert ann.lane.counters(bob.name).tx_bytes == bob.lane.counters(ann.name).rx_bytes
    (report,) = bob.lane.take_traffic()
    assert (report.source, report.opened) == (None, len(sent) // 2)
    ann.lane.send_control(at_ann, b"hello", RELAY_ONE)
    assert len(ann.lane.take_datagrams()) == 1


@given(st.lists(st.sampled_from(["first", "second", "both"]), min_size=1, max_size=30))
def test_no_frame_is_lost_while_each_datagram_gets_through_one_of_two_ways(ways: list[str]) -> None:
    ann, bob = pair()
    for end, other in ((ann, bob), (bob, ann)):
        end.lane.steer(other.name, RELAY_ONE, 1300, RELAY_TWO)
    frames = [ipv4(ann, bob, 1000 + number) for number in range(len(ways))]
    ann.send(frames, 0.0)
    sent = ann.lane.take_datagrams()
    wanted = {"first": (RELAY_ONE,), "second": (RELAY_TWO,), "both": (RELAY_ONE, RELAY_TWO)}
    through = [item for n, item in enumerate(sent) if address_of(item[1]) in wanted[ways[n // 2]]]
    bob.lane.handle_datagrams(through, 0.0)
    assert bob.received() == frames
    assert drops(bob, ann).get(Drop.COPY, 0) == ways.count("both")


def test_late_copies_are_copies_and_later_ones_are_replays() -> None:
    ann, bob = pair()
    bob.lane.steer(ann.name, ann.underlay, 1472, RELAY_TWO)
    ann.send([ipv4(ann, bob)], 0.0)
    datagrams = ann.take()
    bob.lane.handle_datagrams(datagrams, 5.0)
    bob.lane.steer(ann.name, ann.underlay, 1472)
    bob.lane.handle_datagrams(datagrams, 5.0 + COPY_LINGER_S - 0.1)
    assert drops(bob, ann) == {Drop.COPY: 1}
    bob.lane.handle_datagrams(datagrams, 5.0 + COPY_LINGER_S)
    assert drops(bob, ann) == {Drop.COPY: 1, Drop.REPLAY: 1}


def test_what_a_relay_brings_twice_is_a_copy_to_who_sends_none() -> None:
    ann, bob = pair()
    ann.send([ipv4(ann, bob)], 0.0)
    ((payload, source),) = ann.take()
    for relay in (RELAY_ONE, RELAY_TWO):
        bob.lane.handle_datagrams([(payload, target_of(relay))], 0.0)
    bob.lane.handle_datagrams([(payload, source), (payload, (*source, Transport.TCP, 3))], 0.0)
    assert bob.received() == [ipv4(ann, bob)]
    assert drops(bob, ann) == {Drop.COPY: 1, Drop.REPLAY: 2}


def test_a_call_that_names_nobody_does_nothing() -> None:
    ann, bob = End(1), End(2)
    keys, _ = key_pair(ann, bob)
    ann.lane.install(keys, awaiting=False)
    ann.lane.promote(keys.local_index)
    ann.lane.retire(7)
    ann.lane.dismiss("nobody.test")
    ann.lane.steer("nobody.test", bob.underlay, 1472)
    ann.lane.send_control(keys.local_index, b"x", bob.underlay)
    assert ann.lane.take_datagrams() == []
    assert ann.lane.counters("nobody.test").drops == {}


def test_the_same_keys_installed_again_never_begin_their_counters_anew() -> None:
    ann, bob = End(1), End(2)
    keys, others = key_pair(ann, bob)
    for end, other, its in ((ann, bob, keys), (bob, ann, others)):
        end.lane.admit(other.name, other.port())
        end.lane.install(its, awaiting=False)
        end.lane.promote(its.local_index)
        end.lane.steer(other.name, other.underlay, 1472)
    counters = []
    for _ in range(3):
        ann.lane.install(keys, awaiting=True)
        ann.lane.admit(bob.name, bob.port())
        ann.send([ipv4(ann, bob)], 0.0)
        counters += [payload[8:16] for payload, _ in ann.take()]
    assert [int.from_bytes(counter) for counter in counters] == [0, 1, 2]


def test_a_used_up_key_seals_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = pair(make_lane=ReferenceLane)  # the other one's limit is no variable: see tests/native
    assert LAST_COUNTER <= 2**31
    monkeypatch.setattr("fabric.dataplane.session.LAST_COUNTER", 2)
    sent = [ipv4(ann, bob)] * 4
    assert len(carry(ann, bob, sent)) == 2
    assert carry(ann, bob, [frame(ann, bob)] * 3 + [frame(ann, bob, bytes(3000))]) == []
    assert drops(ann, bob) == {Drop.EXHAUSTED: 6}


def test_a_rekey_under_load_loses_no_frame() -> None:
    ann, bob = pair()
    new, news = key_pair(ann, bob)
    on_the_way = [ipv4(ann, bob, 100 + n) for n in range(10)]
    ann.send(on_the_way, 0.0)
    late = ann.take()
    bob.lane.install(news, awaiting=False)
    bob.lane.promote(news.local_index)
    ann.lane.install(new, awaiting=True)
    assert carry(ann, bob, [ipv4(ann, bob, 300)]) == [ipv4(ann, bob, 300)]
    ann.lane.promote(new.local_index)
    assert carry(ann, bob, [ipv4(ann, bob, 301)]) == [ipv4(ann, bob, 301)]
    bob.lane.handle_datagrams(late, 0.0)
    assert bob.received() == on_the_way
    assert carry(bob, ann, [ipv4(bob, ann)]) == [ipv4(bob, ann)]


def test_a_retired_session_opens_and_seals_nothing() -> None:
    ann, bob = End(1), End(2)
    at_ann, at_bob = meet(ann, bob)
    ann.send([ipv4(ann, bob)], 0.0)
    late = ann.take()
    bob.lane.retire(at_bob)
    ann.lane.retire(at_ann)
    bob.lane.handle_datagrams(late, 0.0)
    ann.send([ipv4(ann, bob)], 0.0)
    assert bob.received() == []
    assert bob.lane.drops() == {Drop.UNKNOWN_INDEX: 1}
    assert drops(ann, bob) == {Drop.NO_SESSION: 1}


def test_a_dismissed_peer_leaves_nothing_behind() -> None:
    ann, bob = pair()
    ann.send([ipv4(ann, bob)], 0.0)
    datagrams = ann.take()
    bob.lane.dismiss(ann.name)
    bob.lane.handle_datagrams(datagrams, 0.0)
    bob.send([ipv4(bob, ann)], 0.0)
    assert bob.received() == []
    assert bob.take() == []
    assert bob.lane.take_traffic() == []
    meet(ann, bob)
    assert carry(bob, ann, [ipv4(bob, ann)]) == [ipv4(bob, ann)]


def test_a_port_with_a_mac_that_is_taken_is_not_admitted() -> None:
    ann, bob, eve = End(1), End(2), End(3)
    meet(ann, bob)
    for mac in (ann.mac, bob.mac):
        ann.lane.admit(eve.name, Port(mac, eve.addresses))
    keys, _ = key_pair(ann, eve)
    ann.lane.install(keys, awaiting=False)
    ann.lane.send_control(keys.local_index, b"x", eve.underlay)
    assert ann.lane.take_datagrams() == []
    assert carry(ann, bob, [ipv4(ann, bob)]) == [ipv4(ann, bob)]


def test_a_renewed_certificate_moves_the_port_and_keeps_its_sessions() -> None:
    ann, bob = pair()
    before = ipv4(ann, bob)
    assert carry(ann, bob, [before])
    moved = End(7)
    bob.lane.admit(ann.name, Port(ann.mac, moved.addresses))
    assert carry(ann, bob, [before]) == []
    now_right = before[:14] + before[14:].replace(ann.ipv4, moved.ipv4)
    assert carry(ann, bob, [now_right]) == [now_right]


# control and reports


def test_controls_and_empty_records_are_no_frames() -> None:
    ann, bob = End(1), End(2)
    at_ann, at_bob = meet(ann, bob)
    ann.lane.send_control(at_ann, b"hello", Address("198.51.100.1", 99))
    ann.lane.send_control(at_ann, b"", bob.underlay)
    sent = ann.lane.take_datagrams()
    assert [to for _, to in sent] == [("198.51.100.1", 99), bob.source]
    assert len(sent[1][0]) == 32
    bob.lane.handle_datagrams([(payload, ("203.0.113.5", 5)) for payload, _ in sent], 3.0)
    assert bob.received() == []
    assert bob.lane.take_controls() == [Control(ann.name, at_bob, b"hello", Address("203.0.113.5", 5))]
    assert bob.lane.take_controls() == []
    (report,) = bob.lane.take_traffic()
    assert (report.peer, report.local_index, report.opened, report.last_opened) == (ann.name, at_bob, 2, 3.0)
    assert report.source == Address("203.0.113.5", 5)


@given(st.integers(0, MAX_CONTROL_BYTES), st.sampled_from([0, 548, 1232, 1472]), st.data())
def test_a_long_control_comes_out_whole_however_narrow_the_path(length: int, limit: int, data: st.DataObject) -> None:
    ann, bob = End(1), End(2)
    at_ann, at_bob = meet(ann, bob, limit=limit)
    message = bytes(range(256)) * (length // 256) + bytes(length % 256)
    ann.lane.send_control(at_ann, message, bob.underlay)
    datagrams = ann.take()
    assert max(len(payload) for payload, _ in datagrams) <= (limit or 1200)
    bob.lane.handle_datagrams(data.draw(st.permutations(datagrams)), 0.0)
    controls = bob.lane.take_controls()
    assert controls == ([Control(ann.name, at_bob, message, ann.underlay)] if message else [])
    assert drops(bob, ann) == drops(ann, bob) == {}
    assert bob.received() == []
    assert bob.lane.next_timeout() is None


def test_a_control_that_asks_for_its_own_length_travels_whole() -> None:
    ann, bob = End(1), End(2)
    at_ann, _ = meet(ann, bob, limit=1232)
    ann.lane.send_control(at_ann, bytes(1400), bob.underlay, whole=True)
    assert [len(payload) for payload, _ in ann.take()] == [1433]


def test_a_control_longer_than_any_is_counted_at_both_ends() -> None:
    ann, bob = End(1), End(2)
    at_ann, _ = meet(ann, bob)
    ann.lane.send_control(at_ann, bytes(MAX_CONTROL_BYTES + 1), bob.underlay)
    assert ann.take() == []
    assert drops(ann, bob) == {Drop.OVERSIZE: 1}
    parts = slice_frame(bytes(MAX_CONTROL_BYTES + 1), 1400, 1, CONTROL_FLAG)
    bob.lane.handle_datagrams([(ann.forge(at_ann, part), ann.source) for part in parts], 0.0)
    assert bob.lane.take_controls() == []
    assert drops(bob, ann) == {Drop.REASSEMBLY: 1}


@pytest.mark.parametrize("flags", [VNET_FLAG | CONTROL_FLAG, 4, 0x80])
def test_slices_of_what_this_lane_does_not_take_are_counted(flags: int) -> None:
    ann, bob = End(1), End(2)
    at_ann, _ = meet(ann, bob)
    parts = slice_frame(frame(ann, bob, bytes(2000)), 1400, 1, flags)
    bob.lane.handle_datagrams([(ann.forge(at_ann, part), ann.source) for part in parts], 0.0)
    assert bob.received() == []
    assert bob.lane.take_controls() == []
    assert drops(bob, ann) == {Drop.UNKNOWN_KIND: len(parts)}


def test_a_key_used_up_amid_a_control_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    ann, bob = End(1, make_lane=ReferenceLane), End(2)
    at_ann, _ = meet(ann, bob)
    monkeypatch.setattr("fabric.dataplane.session.LAST_COUNTER", 2)
    ann.lane.send_control(at_ann, bytes(6000), bob.underlay)
    assert len(ann.take()) == 2
    assert drops(ann, bob) == {Drop.EXHAUSTED: 1}


def test_traffic_is_reported_once_a_batch_and_session() -> None:
    ann, bob = End(1), End(2)
    at_ann, at_bob = meet(ann, bob)
    assert carry(ann, bob, [ipv4(ann, bob)] * 5, now=4.0)
    (sealed,) = ann.lane.take_traffic()
    (opened,) = bob.lane.take_traffic()
    assert (sealed.local_index, sealed.sealed, sealed.opened, sealed.highest_sealed_counter) == (at_ann, 5, 0, 4)
    assert (sealed.last_sealed, sealed.last_opened, sealed.source) == (4.0, None, None)
    assert (opened.local_index, opened.opened, opened.sealed, opened.last_opened) == (at_bob, 5, 0, 4.0)
    assert ann.lane.take_traffic() == bob.lane.take_traffic() == []


def test_what_core_seals_itself_is_no_traffic() -> None:
    """Else every probe's reply would be a reason for the next probe."""
    ann, bob = End(1), End(2)
    at_ann, _ = meet(ann, bob)
    ann.lane.send_control(at_ann, b"probe", bob.underlay)
    assert ann.lane.take_traffic() == []


# awaiting


def awaiting_pair() -> tuple[End, End, int]:
    """`bob` waits for the first record of `ann`; returns bob's index too."""
    ann, bob = End(1), End(2)
    keys, others = key_pair(ann, bob)
    ann.lane.admit(bob.name, bob.port())
    bob.lane.admit(ann.name, ann.port())
    ann.lane.install(keys, awaiting=False)
    ann.lane.promote(keys.local_index)
    bob.lane.install(others, awaiting=True)
    for end, other in ((ann, bob), (bob, ann)):
        end.lane.steer(other.name, other.underlay, 1472)
    return ann, bob, others.local_index


def test_an_awaiting_session_reports_its_first_record_and_delivers_nothing() -> None:
    ann, bob, index = awaiting_pair()
    assert not bob.lane.is_urgent
    assert carry(ann, bob, [ipv4(ann, bob)]) == []
    assert bob.lane.is_urgent
    (report,) = bob.lane.take_traffic()
    assert (report.local_index, report.opened) == (index, 1)
    assert not bob.lane.is_urgent
    bob.send([ipv4(bob, ann)], 0.0)
    assert bob.take() == []
    assert drops(bob, ann) == {Drop.NO_SESSION: 1}


def test_what_was_held_is_delivered_in_order_at_promotion() -> None:
    ann, bob, index = awaiting_pair()
    frames = [ipv4(ann, bob, 1000 + n) for n in range(20)] + [frame(ann, bob, bytes(5000))]
    assert carry(ann, bob, frames) == []
    bob.lane.promote(index)
    assert bob.received() == frames
    bob.lane.promote(index)
    assert bob.received() == []
    assert carry(ann, bob, frames) == frames
    assert carry(bob, ann, [ipv4(bob, ann)]) == [ipv4(bob, ann)]


def test_a_control_message_is_told_while_its_session_waits() -> None:
    ann, bob, index = awaiting_pair()
    ann.send([ipv4(ann, bob)], 0.0)
    at_ann = ann.lane.take_traffic()[0].local_index
    ann.lane.send_control(at_ann, b"hello", bob.underlay)
    ann.lane.send_control(at_ann, bytes(3000), bob.underlay)
    ann.lane.send_control(at_ann, b"", bob.underlay)
    bob.lane.handle_datagrams(ann.take(), 0.0)
    assert [control.payload for control in bob.lane.take_controls()] == [b"hello", bytes(3000)]
    bob.lane.promote(index)
    assert bob.received() == [ipv4(ann, bob)]


def test_no_more_is_held_than_the_bound() -> None:
    ann, bob, index = awaiting_pair()
    carry(ann, bob, [ipv4(ann, bob)] * 300)
    bob.lane.promote(index)
    assert len(bob.received()) == 256
    assert drops(bob, ann) == {Drop.HELD: 44}


def test_a_forged_record_is_no_first_record() -> None:
    ann, bob, _ = awaiting_pair()
    ann.send([ipv4(ann, bob)], 0.0)
    ((payload, source),) = ann.take()
    bob.lane.handle_datagrams([(payload[:-1] + bytes((payload[-1] ^ 1,)), source)], 0.0)
    assert bob.lane.take_traffic() == []
    assert drops(bob, ann) == {Drop.AUTHENTICATION: 1}


# secrets


def test_no_key_shows_in_what_is_printed() -> None:
    keys = SessionKeys("bob.test", 1, 2, Suite.AES_256_GCM, b"seal" * 8, b"open" * 8)
    printed = repr(keys) + repr(Session(keys, awaiting=False)) + str(Session(keys, awaiting=False))
    assert "seal" not in printed.replace("seal_key", "")
    assert "open" not in printed.replace("open_key", "")
