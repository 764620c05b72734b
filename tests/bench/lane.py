"""What one frame costs the reference lane, in nanoseconds, without any system call. Run it by

    .venv/bin/python -m tests.bench.lane [--profile ROW]

It prints a table: each row a kind of frame, the columns what sealing and opening cost a frame, and how many frames
shared a datagram. Of a super-frame, each 1,400 bytes of it count as a frame. The best of several rounds counts: the
others measure what else the machine was doing. With --profile: where the time of a row goes, counted from 0.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from fabric.crypto.aead import Suite
from fabric.wire.vnet import NEEDS_CSUM, NO_VNET, VnetHeader, encode_vnet
from tests.dataplane import superframes
from tests.dataplane.pair import NETWORK, End, frame, ipv4, pair
from tests.dataplane.superframes import Stream

BATCH = 64
BATCHES = 50
ROUNDS = 15
TCP, UDP, ICMP = 6, 17, 1
UNSUMMED = encode_vnet(VnetHeader(NEEDS_CSUM, 0, 0, 0, 34, 6))


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    length: int
    protocol: int | None
    limit: int = 1472
    suite: Suite = Suite.AES_256_GCM
    vnet: bytes = NO_VNET
    stream: Stream | None = None

    @property
    def batch(self) -> int:
        """As many as make about as much work as a batch of single frames."""
        return 2 if self.stream else BATCH

    @property
    def frames(self) -> float:
        """How many this stands for."""
        return self.stream.length / 1400 if self.stream else 1


@dataclass(frozen=True, slots=True)
class Cost:
    """Nanoseconds a frame; frames a datagram."""

    seal_ns: float
    open_ns: float
    shared: float


KINDS = (
    Kind("TCP, 1,400 bytes", 1400, TCP),
    Kind("TCP, 1,400 bytes, ChaCha20-Poly1305", 1400, TCP, suite=Suite.CHACHA20_POLY1305),
    Kind("UDP, 1,400 bytes", 1400, UDP),
    Kind("ICMP, 1,400 bytes: the careful guard", 1400, ICMP),
    Kind("UDP, 64 bytes, in shared records", 64, UDP),
    Kind("unknown ethertype, 1,400 bytes", 1400, None),
    Kind("TCP, 1,400 bytes, in two slices", 1400, TCP, limit=1200),
    Kind("UDP, 64 bytes, checksum to complete", 64, UDP, vnet=UNSUMMED),
    Kind("UDP, 1,400 bytes, checksum to complete", 1400, UDP, vnet=UNSUMMED),
    Kind("TCP super-frame", 0, TCP, stream=Stream(length=57_946, gso_size=1348)),
    Kind("UDP super-frame", 0, UDP, stream=Stream(is_udp=True, length=57_958, gso_size=1350)),
)


def measure(kind: Kind) -> Cost:
    ann, bob = pair(superframes.NETWORK if kind.stream else NETWORK, suite=kind.suite, limit=kind.limit)
    frames = [_frame(kind, ann, bob)] * kind.batch
    rounds = [_round(ann, bob, frames, kind.frames) for _ in range(ROUNDS)]
    return Cost(min(r.seal_ns for r in rounds), min(r.open_ns for r in rounds), rounds[0].shared)


def _frame(kind: Kind, ann: End, bob: End) -> bytes:
    if kind.stream is not None:
        return kind.stream.vnet() + kind.stream.whole()
    if kind.protocol is None:
        return kind.vnet + frame(ann, bob, bytes(kind.length))
    return kind.vnet + ipv4(ann, bob, kind.length, protocol=kind.protocol)


def _round(ann: End, bob: End, frames: Sequence[bytes], each: float) -> Cost:
    sealing = opening = datagrams = 0
    for _ in range(BATCHES):
        start = time.process_time_ns()
        ann.lane.handle_frames(frames, 0.0)
        sent = ann.lane.take_datagrams()
        sealing += time.process_time_ns() - start
        datagrams += len(sent)
        arrived = [(payload, ann.source) for payload, _ in sent]
        start = time.process_time_ns()
        bob.lane.handle_datagrams(arrived, 0.0)
        delivered = bob.lane.take_frames()
        opening += time.process_time_ns() - start
        if len(delivered) != len(frames):
            raise RuntimeError(f"{len(delivered)} of {len(frames)} frames came out")
    count = BATCHES * len(frames) * each
    return Cost(sealing / count, opening / count, count / datagrams)


def main(words: Sequence[str]) -> None:
    if "--profile" in words:
        with cProfile.Profile() as profile:
            measure(KINDS[int(words[-1])])
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)
        return
    table = Table("frame", "seal ns", "open ns", "frames a datagram", title="reference lane, per frame")
    for kind in KINDS:
        cost = measure(kind)
        table.add_row(kind.name, f"{cost.seal_ns:,.0f}", f"{cost.open_ns:,.0f}", f"{cost.shared:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
