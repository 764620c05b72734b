"""What an attacker on the way, or a stranger, can do to a lane: move one counter, and nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Drop
from tests.dataplane.pair import Datagram, End, WholeLane, frame, ipv4, meet, pair

pytestmark = pytest.mark.usefixtures("each_lane")


def counted(end: End, peer: End) -> int:
    return sum(end.lane.counters(peer.name).drops.values()) + sum(end.lane.drops().values())


def assert_nothing_came(lane: WholeLane) -> None:
    assert lane.take_frames() == []
    assert lane.take_controls() == []
    assert lane.take_traffic() == []
    assert lane.take_datagrams() == []
    assert lane.next_timeout() is None


@pytest.mark.parametrize("suite", list(Suite))
def test_every_flipped_byte_of_a_datagram_moves_one_counter_and_nothing_else(suite: Suite) -> None:
    ann, bob = pair(suite=suite)
    sent = frame(ann, bob, bytes(40))
    ann.send([sent], 0.0)
    ((payload, source),) = ann.take()
    for at in range(len(payload)):
        for flip in (1, 0x80, 0xFF):
            before = counted(bob, ann)
            damaged = payload[:at] + bytes((payload[at] ^ flip,)) + payload[at + 1 :]
            returned = bob.lane.handle_datagrams([(damaged, source)], 0.0)
            assert counted(bob, ann) - before == (0 if returned else 1)
            assert bool(returned) is (at == 0)
            assert_nothing_came(bob.lane)
    bob.lane.handle_datagrams([(payload, source)], 0.0)
    assert bob.received() == [sent]


def test_every_truncation_moves_one_counter_and_nothing_else() -> None:
    ann, bob = pair()
    ann.send([frame(ann, bob, bytes(40))], 0.0)
    ((payload, source),) = ann.take()
    for length in range(1, len(payload)):
        before = counted(bob, ann)
        assert bob.lane.handle_datagrams([(payload[:length], source)], 0.0) == []
        assert counted(bob, ann) == before + 1
        assert_nothing_came(bob.lane)


@given(st.lists(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"\xf1\0\0\0" + tail), max_size=20))
def test_noise_is_counted_or_returned(payloads: list[bytes]) -> None:
    ann, bob = pair()
    batch: list[Datagram] = [(payload, ("203.0.113.9", 9)) for payload in payloads]
    returned = bob.lane.handle_datagrams(batch, 0.0)
    assert returned == [item for item in batch if item[0][:1] != b"\xf1"]
    assert counted(bob, ann) == len(batch) - len(returned)
    assert_nothing_came(bob.lane)


def test_a_replayed_datagram_is_counted_once_each() -> None:
    ann, bob = pair()
    ann.send([ipv4(ann, bob)] * 3, 0.0)
    datagrams = ann.take()
    bob.lane.handle_datagrams(datagrams, 0.0)
    assert len(bob.received()) == 3
    bob.lane.take_traffic()
    bob.lane.handle_datagrams(datagrams * 2, 0.0)
    assert bob.lane.counters(ann.name).drops == {Drop.REPLAY: 6}
    assert_nothing_came(bob.lane)


def test_a_forged_counter_does_not_move_the_window() -> None:
    ann, bob = pair()
    ann.send([ipv4(ann, bob)], 0.0)
    ((payload, source),) = ann.take()
    far = payload[:8] + (2**60).to_bytes(8) + payload[16:]
    bob.lane.handle_datagrams([(far, source), (payload, source)], 0.0)
    assert bob.received() == [ipv4(ann, bob)]
    assert bob.lane.counters(ann.name).drops == {Drop.AUTHENTICATION: 1}


def test_a_reflected_datagram_is_nobodys() -> None:
    ann, bob = pair()
    ann.send([ipv4(ann, bob)], 0.0)
    ann.lane.take_traffic()
    ann.lane.handle_datagrams(ann.take(), 0.0)
    assert ann.received() == []
    assert ann.lane.drops() == {Drop.UNKNOWN_INDEX: 1}


def test_one_peers_datagram_does_not_open_as_anothers() -> None:
    ann, bob, eve = End(1), End(2), End(3)
    _, for_ann = meet(ann, bob)
    _, for_eve = meet(eve, bob)
    ann.send([ipv4(ann, bob)], 0.0)
    ((payload, source),) = ann.take()
    assert payload[4:8] == for_ann.to_bytes(4)
    crossed = payload[:4] + for_eve.to_bytes(4) + payload[8:]
    bob.lane.handle_datagrams([(crossed, source)], 0.0)
    assert bob.received() == []
    assert bob.lane.counters(eve.name).drops == {Drop.AUTHENTICATION: 1}


@given(st.integers(0, 2**32), st.integers(0, 40), st.booleans())
def test_loss_duplication_and_reordering_deliver_each_frame_at_most_once(seed: int, loss: int, slices: bool) -> None:
    order = random.Random(seed)
    ann, bob = pair(limit=600 if slices else 1472)
    sizes = [order.choice((20, 300, 500, 1400)) for _ in range(60)]
    frames = [frame(ann, bob, number.to_bytes(2) + bytes(size)) for number, size in enumerate(sizes)]
    for at in range(0, len(frames), 7):
        ann.send(frames[at : at + 7], 0.0)
    datagrams = [each for each in ann.take() for _ in range(order.choice((1, 1, 2))) if order.random() * 100 >= loss]
    order.shuffle(datagrams)
    bob.lane.handle_datagrams(datagrams, 0.0)
    arrived = bob.received()
    assert len(arrived) == len(set(arrived))
    assert set(arrived) <= set(frames)
    if not loss:
        assert set(arrived) == set(frames)
    bob.lane.handle_timeout(10.0)
    assert bob.lane.next_timeout() is None
    assert set(bob.lane.counters(ann.name).drops) <= {Drop.REPLAY, Drop.REASSEMBLY}
