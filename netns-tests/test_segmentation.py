"""A kernel as the judge of super-frames: what it cuts them into, and what it makes itself.

test --write--> [uplink]--( bridge )--[plain] --read--> test      one namespace; both are TAP devices
                vnet headers          no offloads: the kernel itself has to cut, and to complete checksums

[alice's kernel]==TAP==( slices, some of them lost )==TAP==[bob's kernel]       with all offloads
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import select
import socket
import struct
import threading
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from fabric.dataplane.segment import segment
from fabric.dataplane.superframe import cut_run, shape_of, slice_start, slice_super_frame
from fabric.lab import Lab
from fabric.lab.namespace import Namespace
from fabric.wire.record import Slice, decode_record
from fabric.wire.vnet import GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, NO_VNET, VNET_BYTES, decode_vnet
from tests.dataplane.superframes import Stream

# linux/if_tun.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
TAP, NO_PI, VNET_HDR = 0x0002, 0x1000, 0x4000
ALL_OFFLOADS = 0x67
UDP_SEGMENT = 103  # linux/udp.h

MAX_READ_BYTES = 1 << 17
PATIENCE_S = 10.0
MARK = bytes.fromhex("ffffffffffff 02fa0a000001 88b5") + b"the end".ljust(46, b"\0")
"""Nothing in a kernel answers to this EtherType, and a bridge keeps the order."""

STREAMS = {
    "TCP": Stream(),
    "TCP over IPv6": Stream(is_ipv6=True),
    "UDP": Stream(is_udp=True),
    "UDP over IPv6": Stream(is_udp=True, is_ipv6=True),
}
CHANGES: dict[str, dict[str, object]] = {
    "as it is": {},
    "of full length": {"length": 57_946, "gso_size": 1348},
    "of odd lengths": {"length": 9_999, "gso_size": 777},
    "tagged": {"tags": 1},
    "tagged twice": {"tags": 2},
    "with options": {"has_options": True},
    "with FIN": {"flags": "FPA"},
    "with CWR": {"flags": "CEPA"},
}


def open_tap(name: str, flags: int = 0, offloads: int | None = None) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), TAP | NO_PI | flags))
    if offloads is not None:
        fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)
    return fd


# -- what a kernel cuts -----------------------------------------------------------------------------------------


class Judge:
    """A bridge between a device that takes super-frames and one that does not."""

    def __init__(self, namespace: Namespace) -> None:
        namespace.sysctl("net/ipv6/conf/default/disable_ipv6", 1, must=False)
        namespace.add_bridge("bridge")
        self.uplink = namespace.inside(lambda: open_tap("uplink", VNET_HDR))
        self.plain = namespace.inside(lambda: open_tap("plain"))
        for device in ("uplink", "plain"):
            namespace.enslave(device, "bridge")
            namespace.set_up(device)

    def cut(self, vnet: bytes, frame: bytes) -> list[bytes]:
        """The plain frames that come out where this one goes in."""
        os.write(self.uplink, vnet + frame)
        os.write(self.uplink, NO_VNET + MARK)
        frames = []
        while (seen := self._read()) != MARK:
            frames.append(seen)
        return [each for each in frames if each[6:12] == MARK[6:12]]  # the bridge itself asks for groups now and then

    def _read(self) -> bytes:
        ready, _, _ = select.select([self.plain], [], [], PATIENCE_S)
        assert ready, "the frame at the end did not come out"
        return os.read(self.plain, MAX_READ_BYTES)

    def close(self) -> None:
        os.close(self.uplink)
        os.close(self.plain)


@pytest.fixture(scope="module")
def judge(lab: Lab) -> Iterator[Judge]:
    made = Judge(lab.namespace("judge"))
    yield made
    made.close()


def slices_of(vnet: bytes, frame: bytes, record_limit: int) -> list[Slice]:
    slices = [decode_record(each) for each in slice_super_frame(vnet, frame, record_limit, 1)]
    return [each for each in slices if isinstance(each, Slice)]


def run_of(slices: list[Slice], start: int, end: int) -> bytes | None:
    """The run of slices `start` to `end`, exclusive, as a lane makes it that has slice 0."""
    first = slices[0]
    shape = shape_of(first.vnet_header, first.part, run=True)
    joined = b"".join(each.part for each in slices[start:end])
    if start == 0:
        return cut_run(shape, first.part, 0, joined[shape.headers :], is_last=end == len(slices))
    at = slice_start(shape, len(first.part), start) - shape.headers
    return cut_run(shape, first.part, at, joined, is_last=end == len(slices))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", STREAMS)
def test_a_kernel_cuts_a_super_frame_as_segment_does(judge: Judge, kind: str, change: str) -> None:
    stream = STREAMS[kind].like(**CHANGES[change])
    came = judge.cut(stream.vnet(), stream.whole())
    assert came == segment(stream.vnet(), stream.whole())
    assert came == stream.segments()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", STREAMS)
def test_a_kernel_cuts_each_run_as_segment_does(judge: Judge, kind: str, change: str) -> None:
    stream = STREAMS[kind].like(**CHANGES[change])
    for record_limit in (900, 1400):
        slices = slices_of(stream.vnet(), stream.whole(), record_limit)
        whole = len(slices)
        for start, end in ((0, 1), (0, 3), (1, 2), (2, whole - 1), (3, whole), (whole - 1, whole), (0, whole)):
            run = run_of(slices, start, end)
            if run is not None:
                assert judge.cut(run[:VNET_BYTES], run[VNET_BYTES:]) == segment(run[:VNET_BYTES], run[VNET_BYTES:])


# -- what a kernel makes ----------------------------------------------------------------------------------------


class Cable:
    """Two kernels joined by their TAP devices; each super-frame crosses it in slices, of which `lost` go missing.

    Slice 0 is never lost; `refused` holds the errors of writes, `kinds` the gso types that were seen.
    """

    _numbers = itertools.count()

    def __init__(self, lab: Lab, lost: float) -> None:
        name = f"cable{next(self._numbers)}"
        self.ends = [lab.namespace(f"{name}-{end}") for end in ("alice", "bob")]
        self.fds = [end.inside(lambda: open_tap("fabric0", VNET_HDR, ALL_OFFLOADS)) for end in self.ends]
        for number, end in enumerate(self.ends, 1):
            end.set_up("fabric0")
            end.add_address("fabric0", IPv4Interface(f"10.9.0.{number}/24"))
            end.add_address("fabric0", IPv6Interface(f"fd09::{number}/64"))
        self.lost, self._weather = lost, random.Random(1)
        self.kinds: dict[int, int] = {}
        self.refused: list[OSError] = []
        self.runs = 0
        self.supers: list[bytes] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for fd in self.fds:
            os.close(fd)

    def _pump(self) -> None:
        others = dict(zip(self.fds, reversed(self.fds), strict=True))
        while not self._stop.is_set():
            for fd in select.select(self.fds, [], [], 0.05)[0]:
                for made in self._cross(os.read(fd, MAX_READ_BYTES)):
                    try:
                        os.write(others[fd], made)
                    except OSError as error:
                        self.refused.append(error)

    def _cross(self, read: bytes) -> Iterator[bytes]:
        vnet, frame = read[:VNET_BYTES], read[VNET_BYTES:]
        kind = decode_vnet(vnet).gso_type
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if kind == GSO_NONE:
            yield from (NO_VNET + each for each in segment(vnet, frame))
            return
        self.supers.append(read)
        slices = slices_of(vnet, frame, 1400)
        holes = [each.index for each in slices[1:] if self._weather.random() < self.lost]
        for start, end in zip([0, *(hole + 1 for hole in holes)], [*holes, len(slices)], strict=True):
            run = run_of(slices, start, end) if start < end else None
            if run is not None:
                self.runs += 1
                yield run


@pytest.fixture
def cable(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Cable]:
    made = Cable(lab, lost=request.param)
    yield made
    made.close()


def checksum_errors(namespace: Namespace) -> int:
    """TCP segments and UDP datagrams that came with a wrong checksum."""

    def read() -> int:
        text = Path("/proc/thread-self/net/snmp").read_text()
        lines = [line.split() for line in text.splitlines() if line.startswith(("Tcp:", "Udp:"))]
        return sum(int(dict(zip(*pair, strict=True))["InCsumErrors"]) for pair in (lines[:2], lines[2:]))

    return namespace.inside(read)


@pytest.mark.parametrize("cable", [0.0, 0.005], indirect=True)
@pytest.mark.parametrize(("address", "kind"), [("10.9.0.2", GSO_TCPV4), ("fd09::2", GSO_TCPV6)])
def test_a_stream_crosses_two_kernels_in_slices(cable: Cable, address: str, kind: int) -> None:
    alice, bob = cable.ends
    sent = random.Random(2).randbytes(8_000_000)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = bob.inside(lambda: socket.create_server((address, 5000), family=family))
    client = alice.inside(lambda: socket.socket(family, socket.SOCK_STREAM))
    for each in (listener, client):
        each.settimeout(PATIENCE_S)

    def send() -> None:
        with client:
            client.connect((address, 5000))
            client.sendall(sent)

    sender = threading.Thread(target=send)
    sender.start()
    with listener:
        connection, _ = listener.accept()
    connection.settimeout(30)
    with connection, connection.makefile("rb") as file:
        received = file.read()
    sender.join()
    assert received == sent
    assert cable.kinds.get(kind, 0) > 50
    assert (cable.runs > len(cable.supers)) == (cable.lost > 0)
    assert (cable.refused, checksum_errors(bob)) == ([], 0)


@pytest.mark.parametrize("cable", [0.0], indirect=True)
@pytest.mark.parametrize("address", ["10.9.0.2", "fd09::2"])
def test_datagrams_that_a_kernel_joined_arrive_each_for_itself(cable: Cable, address: str) -> None:
    alice, bob = cable.ends
    sent = [number.to_bytes(2) * 500 for number in range(40)] + [b"the last"]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    receiver, sender = (end.inside(lambda: socket.socket(family, socket.SOCK_DGRAM)) for end in (bob, alice))
    with receiver, sender:
        receiver.bind((address, 5000))
        receiver.settimeout(PATIENCE_S)
        sender.sendmsg(
            [b"".join(sent)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("@H", 1000))], 0, (address, 5000)
        )
        received = [receiver.recv(2000) for _ in sent]
    assert received == sent
    assert cable.kinds.get(GSO_UDP) == 1
    assert (cable.refused, checksum_errors(bob)) == ([], 0)
    for plain in segment(cable.supers[-1][:VNET_BYTES], cable.supers[-1][VNET_BYTES:]):
        assert plain == with_checksums_by_scapy(plain)


def with_checksums_by_scapy(frame: bytes) -> bytes:
    packet = Ether(frame)
    for layer in (IP, TCP, UDP):
        if layer in packet:
            del packet[layer].chksum
    return bytes(packet)
