"""What a datagram costs to send and to read over a cable, alone and in batches: `python -m tests.bench.udp`.

    [left] ---- veth, once as it is and once without its offloads, as a plain card ---- [right]

Sending and reading take turns in one process, so the figures are its processor time: nanoseconds a datagram, medians.
A batch of one is what a ping costs.
"""

from __future__ import annotations

import statistics
from ipaddress import IPv4Interface
from time import perf_counter_ns

from fabric.lab import Lab
from fabric.shell.udp import UdpSockets, open_udp_sockets

LEFT, RIGHT = "10.9.0.1", "10.9.0.2"
ROUNDS = 300
SHAPES = ((64, 1), (1440, 1), (64, 64), (1440, 2), (1440, 8), (1440, 44), (1440, 200))
"""Bytes a datagram, and how many wait at once."""


def open_ends(lab: Lab, name: str, *, is_plain: bool) -> tuple[UdpSockets, UdpSockets]:
    left, right = lab.namespace(f"{name}-l"), lab.namespace(f"{name}-r")
    left.connect("left0", right, "right0")
    for namespace, device, ip in ((left, "left0", LEFT), (right, "right0", RIGHT)):
        namespace.add_address(device, IPv4Interface(f"{ip}/24"))
        if is_plain:
            namespace.stop_offloads(device)
    return left.inside(open_udp_sockets), right.inside(open_udp_sockets)


def measure(left: UdpSockets, right: UdpSockets, length: int, count: int) -> tuple[float, float]:
    """Returns nanoseconds a datagram: sending, and reading until nothing waits."""
    batch = [(bytes(length), (RIGHT, right.port))] * count
    sending, reading = [], []
    for _ in range(ROUNDS):
        before = perf_counter_ns()
        left.send_batch(batch)
        sent = perf_counter_ns()
        taken = 0
        while taken < count:
            taken += len(right.receive_batch(right.sockets[0]))
        sending.append((sent - before) / count)
        reading.append((perf_counter_ns() - sent) / count)
    return statistics.median(sending), statistics.median(reading)


def show(name: str, left: UdpSockets, right: UdpSockets) -> None:
    for length, count in SHAPES:
        sending, reading = measure(left, right, length, count)
        print(f"{name:5} up to {left.segments:3} a send  {length:5} B x{count:4}  {sending:7.0f} + {reading:7.0f} ns")


def main() -> None:
    with Lab() as lab:
        for name, is_plain in (("veth", False), ("plain", True)):
            left, right = open_ends(lab, name, is_plain=is_plain)
            show(name, left, right)
            left.segments = 1
            show(name, left, right)
            left.close()
            right.close()


if __name__ == "__main__":
    main()
