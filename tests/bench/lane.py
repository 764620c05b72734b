"""What one frame costs the reference lane, in nanoseconds, without any system call. Run it by

    .venv/bin/python -m tests.bench.lane [--profile]

It prints a table: each row a kind of frame, the columns what sealing and opening cost a frame, and how many frames
shared a datagram. The best of several rounds counts: the others measure what else the machine was doing.
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
from tests.dataplane.pair import End, frame, ipv4, pair

BATCH = 64
BATCHES = 50
ROUNDS = 15
TCP, UDP, ICMP = 6, 17, 1


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    length: int
    protocol: int | None
    limit: int = 1472
    suite: Suite = Suite.AES_256_GCM


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
)


def measure(kind: Kind) -> Cost:
    ann, bob = pair(suite=kind.suite, limit=kind.limit)
    frames = [_frame(kind, ann, bob)] * BATCH
    rounds = [_round(ann, bob, frames) for _ in range(ROUNDS)]
    return Cost(min(r.seal_ns for r in rounds), min(r.open_ns for r in rounds), rounds[0].shared)


def _frame(kind: Kind, ann: End, bob: End) -> bytes:
    if kind.protocol is None:
        return frame(ann, bob, bytes(kind.length))
    return ipv4(ann, bob, kind.length, protocol=kind.protocol)


def _round(ann: End, bob: End, frames: Sequence[bytes]) -> Cost:
    sealing = opening = datagrams = 0
    for _ in range(BATCHES):
        start = time.perf_counter_ns()
        ann.lane.handle_frames(frames, 0.0)
        sent = ann.lane.take_datagrams()
        sealing += time.perf_counter_ns() - start
        datagrams += len(sent)
        arrived = [(payload, ann.source) for payload, _ in sent]
        start = time.perf_counter_ns()
        bob.lane.handle_datagrams(arrived, 0.0)
        delivered = bob.lane.take_frames()
        opening += time.perf_counter_ns() - start
        if len(delivered) != len(frames):
            raise RuntimeError(f"{len(delivered)} of {len(frames)} frames came out")
    count = BATCHES * len(frames)
    return Cost(sealing / count, opening / count, count / datagrams)


def main(words: Sequence[str]) -> None:
    if "--profile" in words:
        with cProfile.Profile() as profile:
            measure(KINDS[0])
        pstats.Stats(profile).sort_stats("tottime").print_stats(15)
        return
    table = Table("frame", "seal ns", "open ns", "frames a datagram", title="reference lane, per frame")
    for kind in KINDS:
        cost = measure(kind)
        table.add_row(kind.name, f"{cost.seal_ns:,.0f}", f"{cost.open_ns:,.0f}", f"{cost.shared:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
