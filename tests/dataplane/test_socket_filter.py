"""What the kernel makes of a program: on real sockets of the loopback, each with a program of its own."""

from __future__ import annotations

import ctypes
import random
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.dataplane.socket_filter import INSTRUCTION, MAX_KEYS, Welcome, filter_program, source_key
from fabric.wire.datagram import DATA_TYPE, GATED_TYPE

SO_ATTACH_FILTER, BPF_MAXINSNS = 26, 4096
LOOPBACKS = {4: "127.0.0.1", 6: "::1"}
OTHERS = [bytes((kind,)) for kind in (0x00, 0x01, 0x42, 0xF0, 0xF3, 0xF4, 0xFF)]
RANDOM = random.Random(5)
MIX = 0x9E3779B1


def opened(version: int) -> socket.socket:
    udp = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((LOOPBACKS[version], 0))
    udp.setblocking(False)
    return udp


class Door:
    """A filtered socket, and one to knock from."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.inside, self.outside = opened(version), opened(version)

    @property
    def source(self) -> tuple[str, int]:
        address = self.outside.getsockname()
        return address[0], address[1]

    def put(self, welcome: Welcome, most: int = MAX_KEYS) -> None:
        program = filter_program(welcome, self.version, MIX, most)
        held = ctypes.create_string_buffer(program, len(program))
        what = struct.pack("@HP", len(program) // INSTRUCTION.size, ctypes.addressof(held))
        self.inside.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, what)

    def lets_in(self, datagram: bytes) -> bool:
        self.outside.sendto(datagram, self.inside.getsockname())  # on the loopback it has arrived when this returns
        try:
            return self.inside.recv(2048) == datagram
        except BlockingIOError:
            return False


@pytest.fixture(params=[4, 6])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    door = Door(request.param)
    yield door
    door.inside.close()
    door.outside.close()


def data(index: int) -> bytes:
    return struct.pack("!BxxxI", DATA_TYPE, index) + bytes(30)


def gated(index: int) -> bytes:
    return struct.pack("!BxxxI", GATED_TYPE, index) + bytes(30)


def test_who_was_written_to_may_say_anything(door: Door) -> None:
    door.put(Welcome([("192.0.2.1", 7), ("2001:db8::1", 7), door.source], [], []))
    assert all(door.lets_in(each) for each in (b"", data(1), gated(1), *OTHERS))


def test_the_same_ip_at_another_port_is_a_stranger(door: Door) -> None:
    ip, port = door.source
    door.put(Welcome([(ip, port ^ 1)], [], []))
    assert not any(door.lets_in(each) for each in (b"", data(1), gated(1), *OTHERS))


def test_a_stranger_gets_in_with_an_index_of_its_kind_only(door: Door) -> None:
    door.put(Welcome([], [5, 2**32 - 1], [7, 2**31]))
    assert all(door.lets_in(data(index)) for index in (5, 2**32 - 1))
    assert all(door.lets_in(gated(index)) for index in (7, 2**31))
    assert not any(door.lets_in(each(index)) for each, index in ((data, 7), (gated, 5), (data, 0), (gated, 6)))
    assert not any(door.lets_in(each) for each in (data(5)[:7], gated(7)[:1], b"", *OTHERS))


def test_of_a_known_index_one_in_so_many_gets_in(door: Door) -> None:
    door.put(Welcome([], [5], [7], share=4))
    count = sum(door.lets_in(data(5)) for _ in range(1000)), sum(door.lets_in(gated(7)) for _ in range(1000))
    assert all(150 < each < 350 for each in count), count  # 250 and 7 standard deviations
    assert not any(door.lets_in(data(7)) for _ in range(100))


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 2**32 - 1), max_size=300), st.data())
def test_every_index_of_any_set_is_found_and_no_other(indices: set[int], more: st.DataObject) -> None:
    door = Door(4)
    with door.inside, door.outside:
        door.put(Welcome([], indices, []))
        assert all(door.lets_in(data(index)) for index in indices)
        near = {(index + step) % 2**32 for index in indices for step in (-1, 1)} | {0, 2**32 - 1}
        assert not any(door.lets_in(data(index)) for index in near - indices)
        assert not door.lets_in(gated(more.draw(st.integers(0, 2**32 - 1))))


def test_a_program_of_any_size_is_short_enough(door: Door) -> None:
    sources = [("192.0.2.1" if door.version == 4 else "2001:db8::1", port) for port in range(1, MAX_KEYS + 1)]
    for count in (*range(0, 100, 9), *range(700, 1001, 33)):
        program = filter_program(Welcome(sources, range(count), range(count, 1000), share=64), door.version, MIX)
        assert len(program) // INSTRUCTION.size <= BPF_MAXINSNS


def test_the_kernel_takes_the_longest_and_finds_the_last_in_it(door: Door) -> None:
    sources = [(str(LOOPBACKS[door.version]), 1 + at) for at in range(999)]
    gates, sessions = (RANDOM.sample(range(2**32), 500) for _ in range(2))
    door.put(Welcome([*sources, door.source], sessions, gates))
    assert door.lets_in(OTHERS[0])
    door.put(Welcome(sources, sessions, gates))
    assert all(door.lets_in(data(index)) for index in sessions)
    assert all(door.lets_in(gated(index)) for index in gates)
    assert not any(door.lets_in(data(index)) for index in gates)


def test_indices_that_do_not_all_fit_are_not_looked_at(door: Door) -> None:
    sources = [("192.0.2.1", port) for port in range(1, 30)]
    door.put(Welcome([door.source, *sources], range(6), range(10)), most=20)
    assert door.lets_in(OTHERS[0])
    door.put(Welcome(sources, range(6), range(10)), most=20)
    assert door.lets_in(gated(9))
    assert not door.lets_in(gated(10))
    assert door.lets_in(data(99))
    assert not door.lets_in(OTHERS[0])
    door.put(Welcome([], range(3), range(16)), most=20)
    assert door.lets_in(gated(99))
    assert not door.lets_in(data(99))
    door.put(Welcome(sources, range(5), range(10)), most=20)
    assert door.lets_in(data(4))
    assert not door.lets_in(data(99))


def test_who_looks_alike_under_one_number_does_not_under_another() -> None:
    """So nobody can look for an address that passes for another's."""
    port = 7 + (source_key("2001:db8::1", 7, MIX) - source_key("2001:db8::9", 7, MIX)) % 2**32
    assert source_key("2001:db8::9", port, MIX) == source_key("2001:db8::1", 7, MIX)
    assert source_key("2001:db8::9", port, MIX + 2) != source_key("2001:db8::1", 7, MIX + 2)


def test_sources_are_told_apart() -> None:
    sources = [(f"10.{a}.{b}.1", port) for a in range(20) for b in range(20) for port in (1, 2, 40000)]
    sources += [(f"2001:db8:{a:x}::{b:x}", port) for a in range(20) for b in range(20) for port in (1, 2, 40000)]
    assert len({source_key(*source, MIX) for source in sources}) == len(sources)
    assert source_key("fe80::1%eth0", 5, MIX) == source_key("fe80::1", 5, MIX)
