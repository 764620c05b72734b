"""The program that passes frames between two devices, with the weather that it is told to make.

    python -m fabric.lab.forwarder DEVICE DEVICE --seed N --control SOCKET

It moves every frame that comes in at one device out at the other, and sleeps while there is nothing to do. A datagram
to the Unix socket SOCKET sets the weather of one or both directions, and is answered by the tallies:

    {"out": {weather}, "in": {weather}}    ->    {"out": {tally}, "in": {tally}}

`out` is from the first device to the second. The devices must not offload: what is passed here is what is on the wire.
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict
from types import FrameType

from fabric.lab.weather import Way, Weather

ETHERTYPE_ALL = 0x0003
SOL_PACKET, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 263, 20, 23
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 32 << 20
BATCH = 128
"""Frames taken from one device before the other and the due ones have their turn."""
LONGEST_FRAME_BYTES = 65_550


class Forwarder:
    def __init__(self, left: str, right: str, seed: str, control: str) -> None:
        self._out, self._in = Way(f"{seed} out"), Way(f"{seed} in")
        ends = _device(left), _device(right)
        self._routes = {ends[0]: (self._out, ends[1]), ends[1]: (self._in, ends[0])}
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._control.bind(control)
        self._control.setblocking(False)

    def run(self) -> None:
        """For ever; `SystemExit` from a signal ends it."""
        watched = [*self._routes, self._control]
        while True:
            # select and not epoll: it takes microseconds, epoll rounds up to the next millisecond.
            ready, _, _ = select.select(watched, [], [], self._sleep_s())
            for each in ready:
                if each is self._control:
                    self._obey()
                else:
                    self._take(each)
            self._send_due()

    def _sleep_s(self) -> float | None:
        dues = [due for way in (self._out, self._in) if (due := way.next_due()) is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _take(self, source: socket.socket) -> None:
        way, _ = self._routes[source]
        with suppress(BlockingIOError, OSError):  # a device that is down says so once per call
            for _ in range(BATCH):
                way.put(source.recv(LONGEST_FRAME_BYTES), time.monotonic())

    def _send_due(self) -> None:
        for way, target in self._routes.values():
            if way.next_due() is not None:
                for frame in way.take_due(time.monotonic()):
                    with suppress(OSError):  # a full queue or a dead line loses the frame, as lines do
                        target.send(frame)

    def _obey(self) -> None:
        with suppress(BlockingIOError):
            text, sender = self._control.recvfrom(4096)
            told = json.loads(text)
            for name, way in (("out", self._out), ("in", self._in)):
                if name in told:
                    way.weather = Weather(**told[name])
            tallies = {"out": asdict(self._out.tally), "in": asdict(self._in.tally)}
            self._control.sendto(json.dumps(tallies).encode(), sender)


def _device(name: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ALL))
    made.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    made.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    with suppress(OSError):  # inside a user namespace the default has to do
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    made.bind((name, ETHERTYPE_ALL))
    made.setblocking(False)
    return made


def _end(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("left")
    parser.add_argument("right")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--control", required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    Forwarder(arguments.left, arguments.right, arguments.seed, arguments.control).run()


if __name__ == "__main__":
    main()
