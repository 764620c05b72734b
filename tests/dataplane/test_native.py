"""The native lane for itself: its ciphers, who is chosen, what it does beside threads. Else: the lanes' own tests."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.crypto.aead import Suite
from fabric.dataplane.contract import Drop, Lane, SessionKeys
from fabric.dataplane.native import DROPS, NativeLane
from fabric.dataplane.reference import ReferenceLane
from fabric.errors import ConfigurationError
from fabric.shell import lanes
from fabric.shell.exit_code import exit_code_of
from fabric.shell.lanes import choose_lane
from fabric.wire.address import Transport
from fabric.wire.vnet import NO_VNET
from tests.dataplane.pair import End, frame, ipv4, key_pair, meet, native_lane, sealed
from tests.dataplane.twin import TwinLane

_native = pytest.importorskip("fabric.dataplane._native", reason="NOT TESTED: the native lane is not built: make setup")

MAC = b"\x02\xfa\x64\x40\x00\x01"


def providers(suite: Suite) -> dict[str, int]:
    """Returns the number of each library on this machine that has the suite, by its name and version."""
    found = {}
    for name, candidate in lanes.CANDIDATES.items():
        try:
            number, version = lanes._provider(_native, candidate.library, candidate.path, suite)
        except OSError:
            continue
        found[f"{name} {version}"] = number
    return found


EVERY = [(suite, name, number) for suite in Suite for name, number in providers(suite).items()]
each_provider = pytest.mark.parametrize(
    ("suite", "provider"), [each[::2] for each in EVERY], ids=[f"{suite.name} by {name}" for suite, name, _ in EVERY]
)


def lane_with(suite: Suite, provider: int) -> NativeLane:
    other = next(iter(providers(next(each for each in Suite if each is not suite)).values()))
    pair = (provider, other) if suite is Suite.AES_256_GCM else (other, provider)
    return NativeLane(_native.Lane(MAC, *pair), MAC)


def test_the_native_lane_fits_the_contract() -> None:
    lane = native_lane(MAC, ())
    steered: Lane = lane
    assert steered.drops() == {}
    assert len(DROPS) == len(lane.lane.drops())


# ciphers


@each_provider
@settings(max_examples=60)
@given(st.integers(0, 9000), st.integers(0, 2**32))
def test_each_provider_seals_and_opens_as_another_library_does(
    suite: Suite, provider: int, length: int, seed: int
) -> None:
    chance = random.Random(seed)
    message, seal_key, open_key = chance.randbytes(length), chance.randbytes(32), chance.randbytes(32)
    keys = SessionKeys("peer.test", 7, 9, suite, seal_key, open_key)
    lane = lane_with(suite, provider)
    peer = End(2)
    lane.admit("peer.test", peer.port())
    lane.install(keys, awaiting=False)
    assert lane.lane.seal(7, message) == sealed(keys, 0, message)
    mirrored = SessionKeys("us.test", 9, 7, suite, open_key, seal_key)
    record = b"\x03" + message
    datagram = bytearray(sealed(mirrored, 5, record))
    lane.handle_datagrams([(bytes(datagram), peer.source)], 0.0)
    (control,) = lane.take_controls()
    assert control.payload == message
    datagram[15] = 6  # of its header: the tag is over that too
    datagram[chance.randrange(16, len(datagram))] ^= 1 << chance.randrange(8)
    lane.handle_datagrams([(bytes(datagram), peer.source)], 0.0)
    assert lane.take_controls() == []
    assert {reason.value: count for reason, count in lane.counters("peer.test").drops.items()} == {"authentication": 1}


@each_provider
def test_each_provider_seals_frames_in_a_batch_as_another_library_does(suite: Suite, provider: int) -> None:
    """Records that stand in a frame's own headroom, and such as were put together from several frames."""
    peer, us = End(2), End(1)
    keys = SessionKeys(peer.name, 7, 9, suite, b"s" * 32, b"o" * 32)
    sent = []
    for lane in (lane_with(suite, provider), ReferenceLane(MAC)):
        lane.admit(peer.name, peer.port())
        lane.install(keys, awaiting=False)
        lane.promote(7)
        lane.steer(peer.name, peer.underlay, 1472)
        lane.handle_frames([NO_VNET + ipv4(us, peer, length) for length in (60, 60, 1400, 100, 5000, 60)], 0.0)
        sent.append(lane.take_datagrams())
    assert sent[0] == sent[1]
    assert len(sent[0]) == 8


def test_what_is_no_library_with_the_cipher_is_refused() -> None:
    for library, path in ((0, "libm.so.6"), (1, "libm.so.6"), (0, "nowhere.so"), (1, __file__), (1, "libcrypto.so.3")):
        with pytest.raises(OSError, match=path):
            _native.load_provider(library, path, Suite.AES_256_GCM)
    with pytest.raises(OSError, match="does not go without a cipher"):
        _native.load_provider(2, "", Suite.AES_256_GCM)
    for library, suite in ((7, 1), (-1, 1), (0, 3), (0, 0)):
        with pytest.raises(ValueError, match="no such library"):
            _native.load_provider(library, "libcrypto.so.3", suite)


def test_a_version_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    modern = lanes._Candidate(lanes._Library.OPENSSL, "libcrypto.so.3", needs=(99, 0))
    monkeypatch.setattr(lanes, "CANDIDATES", {"openssl-99": modern})
    with pytest.raises(ConfigurationError, match="is too old"):
        choose_lane("native", MAC, ())


# which lane


def test_without_a_cipher_the_reference_lane_carries_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lanes, "CANDIDATES", {})
    with caplog.at_level(logging.DEBUG, "fabric"):
        chosen = choose_lane("auto", MAC, ())
    assert isinstance(chosen.lane, ReferenceLane)
    assert chosen.name == "reference"
    (line,) = caplog.records
    assert "native lane can't be had" in line.getMessage()


def test_who_insists_on_the_native_lane_is_told_in_one_sentence_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "CANDIDATES", {})
    with pytest.raises(ConfigurationError, match=r'^lane = "native": no library here has .*; say "auto"') as caught:
        choose_lane("native", MAC, ())
    assert "\n" not in str(caught.value)
    assert exit_code_of(caught.value) == 78


def test_no_build_but_that_for_measuring_goes_without_a_cipher() -> None:
    with pytest.raises(ConfigurationError, match="this build does not go without a cipher"):
        choose_lane("native", MAC, (), library="none")
    assert choose_lane("auto", MAC, (), library="none").name == "reference"


def test_a_lane_is_chosen_as_often_as_one_likes() -> None:
    """A library is loaded once, however many lanes want it: there is room for few."""
    assert {choose_lane("native", MAC, ()).name for _ in range(40)} == {"native"}


# what it does beside threads


def test_no_nonce_is_used_twice_while_two_threads_seal_and_sessions_come_and_go() -> None:
    ann, bob = End(1, make_lane=native_lane), End(2)
    meet(ann, bob)
    indices = list(ann.keys)
    batch = [NO_VNET + ipv4(ann, bob, 60 + number) for number in range(40)] + [NO_VNET + frame(ann, bob, bytes(4000))]
    is_over, has_talked = threading.Event(), threading.Semaphore(0)
    spent: dict[bytes, list[bytes]] = defaultdict(list)

    def talk() -> None:
        while not is_over.is_set():
            for index in indices[-3:]:
                ann.lane.send_control(index, b"x" * 3000, bob.underlay)
            has_talked.release()

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        for number in range(300):
            keys, _ = key_pair(ann, bob)
            ann.lane.install(keys, awaiting=number % 2 == 0)
            indices.append(keys.local_index)
            ann.lane.install(keys, awaiting=False)
            ann.lane.handle_frames(batch, 0.0)
            ann.lane.promote(keys.local_index)
            assert has_talked.acquire(timeout=30)  # else one thread may do all its work before the other's turn
            ann.lane.handle_frames(batch, 0.0)
            if len(indices) > 3:
                ann.lane.retire(indices[-4])
            for datagram, _ in ann.lane.take_datagrams():
                spent[datagram[4:8]].append(datagram[8:16])
    finally:
        is_over.set()
        talker.join()
    assert len(spent) > 200
    assert all(len(counters) == len(set(counters)) for counters in spent.values())
    assert max(len(counters) for counters in spent.values()) > 20


def test_what_is_not_data_waits_for_who_asks_while_others_settle() -> None:
    """A promotion does what the lane asks for meanwhile; a stranger's datagram is not lost by that."""
    ann, bob = End(1, make_lane=native_lane), End(2)
    at_ann, _ = meet(ann, bob)
    assert isinstance(ann.lane, NativeLane)
    ann.lane.lane.handle_datagrams([(b"hello", ("203.0.113.9", 9))], 0.0)
    ann.lane.promote(at_ann)
    assert ann.lane.handle_asks(0.0) == [(b"hello", ("203.0.113.9", 9))]
    assert ann.lane.handle_asks(0.0) == []


def test_no_flood_keeps_others_from_being_heard() -> None:
    """Python is asked about what strangers send, and about frames that take a careful look; the room is bounded."""
    ann, bob, eve = (End(number, make_lane=native_lane) for number in (1, 2, 3))
    at_ann, at_bob = meet(ann, bob)
    _, at_eve = meet(ann, eve)
    doubtful = b"\x01" + 4000 * (b"\x00\x0e" + frame(eve, ann, ethertype=20))
    flood = [(b"noise", ("203.0.113.9", 9))] * 10_000 + [(eve.forge(at_eve, doubtful), eve.source) for _ in range(3)]
    assert isinstance(ann.lane, NativeLane)
    ann.lane.lane.handle_datagrams([*flood, (bob.forge(at_bob, b"\x03hello"), bob.source)], 0.0)
    noise = ann.lane.handle_asks(0.0)
    assert [(control.local_index, control.payload) for control in ann.lane.take_controls()] == [(at_ann, b"hello")]
    assert 1000 < len(noise) < 10_000
    assert ann.lane.drops()[Drop.BACKPRESSURE] == 10_000 - len(noise) + 12_000 - 1024


@contextlib.contextmanager
def attached(lane: NativeLane) -> Iterator[tuple[socket.socket, int]]:
    """Threads on a main socket; returns that and the bell. What stands for the device is never written to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    ask, news = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    with ours, theirs, socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
        udp.bind(("127.0.0.1", 0))
        lane.attach(ours.fileno(), udp.fileno(), -1, ask, news)
        try:
            yield udp, ask
        finally:
            lane.detach()
            os.close(ask)
            os.close(news)


def test_beside_threads_strangers_are_heard_when_their_bell_rings_and_not_with_every_batch() -> None:
    """Who takes a batch that strangers have made could else be kept at it for as long as they go on."""
    ann, bob = End(1, make_lane=native_lane), End(2)
    meet(ann, bob)
    assert isinstance(ann.lane, NativeLane)
    with attached(ann.lane) as (udp, ask), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.sendto(b"hello", udp.getsockname())
        assert select.select([ask], [], [], 10)[0] == [ask]
        assert ann.lane.handle_datagrams([(b"\xf1\0\0\0wrapped", stranger.getsockname())], 0.0) == []
        assert ann.lane.handle_asks(0.0) == [(b"hello", stranger.getsockname())]


def test_beside_threads_what_came_by_another_way_is_forgotten_in_time() -> None:
    """They sleep until their own sockets have something."""
    ann, bob = End(1, make_lane=native_lane), End(2)
    _, at_bob = meet(ann, bob)
    assert isinstance(ann.lane, NativeLane)
    now = time.clock_gettime(time.CLOCK_BOOTTIME) + 1000
    with attached(ann.lane):
        first_of_two = b"\x02\0\x02\0" + bytes(14) + b"slice"
        ann.lane.handle_datagrams([(bob.forge(at_bob, first_of_two), (*bob.source, Transport.TCP, 3))], now)
        assert ann.lane.next_timeout() == pytest.approx(now + 1)
        ann.lane.handle_timeout(now + 1)
        assert ann.lane.next_timeout() is None
    assert ann.lane.counters(bob.name).drops == {Drop.REASSEMBLY: 1}


def test_the_last_counter_opens_once() -> None:
    keys = SessionKeys("end-2.test", 7, 9, Suite.CHACHA20_POLY1305, b"s" * 32, b"o" * 32)
    mirrored = SessionKeys("us.test", 9, 7, Suite.CHACHA20_POLY1305, b"o" * 32, b"s" * 32)
    for lane in (native_lane(MAC, ()), ReferenceLane(MAC)):
        lane.admit("end-2.test", End(2).port())
        lane.install(keys, awaiting=False)
        batch = [(sealed(mirrored, counter, b""), End(2).source) for counter in (2**64 - 1, 2**64 - 1, 0, 2**64 - 2)]
        lane.handle_datagrams(batch, 0.0)
        assert [report.opened for report in lane.take_traffic()] == [2]
        assert {reason.value: count for reason, count in lane.counters("end-2.test").drops.items()} == {"replay": 2}


@given(
    st.lists(
        st.integers(0, 3).map(lambda step: 1 + step)
        | st.sampled_from([8190, 8191, 8192, 8193, 16383, 16384, 16385, -8190, -8191, -8192, -8193, -64, -1]),
        max_size=30,
    )
)
def test_both_replay_windows_let_the_same_counters_in(steps: list[int]) -> None:
    keys = SessionKeys("end-2.test", 7, 9, Suite.CHACHA20_POLY1305, b"s" * 32, b"o" * 32)
    mirrored = SessionKeys("us.test", 9, 7, Suite.CHACHA20_POLY1305, b"o" * 32, b"s" * 32)
    lane = TwinLane(MAC)
    lane.admit("end-2.test", End(2).port())
    lane.install(keys, awaiting=False)
    counter = 0
    for step in steps:
        counter = max(0, counter + step)
        lane.handle_datagrams([(sealed(mirrored, counter, b""), End(2).source)], 0.0)
        lane.counters("end-2.test")
        lane.take_traffic()
