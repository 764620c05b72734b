"""Numbered datagrams at a steady pace: what is lost, doubled, damaged or late shows one by one."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import struct
import threading
import time
from dataclasses import dataclass

from fabric.lab.site import Host

TOLD = 10


@dataclass(frozen=True, slots=True)
class Counted:
    """What became of a stream of numbered datagrams, from the first that arrived to the last that was sent."""

    sent: int
    received: int
    lost: int
    doubled: int
    damaged: int
    longest_gap_s: float
    overtaken: int
    lost_sent_unix: tuple[float, ...] = ()
    """When the first few of those lost were sent, to be laid beside what the daemons say."""


class Stream:
    """Numbered datagrams from one host to another at a steady pace, until `finish`.

    Whatever came before the first one arrived is not counted: it may be started before there is a connection. Every
    payload can be told from a damaged one: it is its own number's digest, over and over.
    """

    HEAD = struct.Struct("!Q")

    def __init__(
        self, sender: Host, receiver: Host, address: str, *, per_second: int = 200, payload_bytes: int = 200
    ) -> None:
        self._pace_s, self._payload_bytes = 1 / per_second, payload_bytes
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._in = receiver.namespace.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._in.bind((address, 0))
        self._in.settimeout(0.1)
        self._out = sender.namespace.inside(lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._target = self._in.getsockname()
        self._sent_unix: list[float] = []
        self._damaged = 0
        self.arrivals: list[tuple[float, int]] = []
        """When (monotonic) and which number, in the order of arrival."""
        self._stop_sending, self._stop = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=act) for act in (self._receive, self._send)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stop_sending.is_set():
            with contextlib.suppress(OSError):  # no route yet, or a full queue: it counts as lost
                self._out.sendto(self._payload(len(self._sent_unix)), self._target)
            self._sent_unix.append(time.time())
            due += self._pace_s
            self._stop_sending.wait(max(0.0, due - time.monotonic()))

    def _payload(self, number: int) -> bytes:
        head = self.HEAD.pack(number)
        digest = hashlib.blake2b(head).digest()
        return (head + digest * (self._payload_bytes // len(digest) + 1))[: self._payload_bytes]

    def _receive(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                payload = self._in.recv(65_535)
                (number,) = self.HEAD.unpack_from(payload)
                if payload == self._payload(number):
                    self.arrivals.append((time.monotonic(), number))
                else:
                    self._damaged += 1

    def finish(self, settle_s: float = 1.0) -> Counted:
        """Stops sending, waits `settle_s` for what is still on its way, and counts."""
        self._stop_sending.set()
        self._threads[1].join()
        self._stop.wait(settle_s)
        self._stop.set()
        self._threads[0].join()
        self._in.close()
        self._out.close()
        return self._count()

    def _count(self) -> Counted:
        numbers = [number for _, number in self.arrivals]
        total = len(self._sent_unix)
        if not numbers:
            return Counted(total, 0, total, 0, self._damaged, float("inf"), 0)
        lost = sorted(set(range(min(numbers), total)).difference(numbers))
        sent, different = total - min(numbers), len(set(numbers))
        times = [when for when, _ in self.arrivals]
        return Counted(
            sent,
            len(numbers),
            len(lost),
            len(numbers) - different,
            self._damaged,
            max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0),
            sum(later < earlier for earlier, later in itertools.pairwise(numbers)),
            tuple(self._sent_unix[number] for number in lost[:TOLD]),
        )
