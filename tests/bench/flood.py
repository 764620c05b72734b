"""Offers as many datagrams as one processor can; run as a program, with the standard library alone.

    python flood.py ADDRESS PORT BYTES SECONDS

64 datagrams a system call (sendmmsg), for with one each the calls are what is measured. No segmentation offload: each
datagram is a packet of its own from the beginning. Prints, ten times a second, the clock and how
many were taken so far.
"""

from __future__ import annotations

import ctypes
import socket
import sys
import time
from collections.abc import Generator

BATCH = 64
TOLD_EVERY_S = 0.1


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(_Vector)),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = [("header", _Header), ("sent", ctypes.c_uint)]


def flood(address: str, port: int, length: int, seconds: float) -> Generator[tuple[float, int]]:
    """Yields, ten times a second, the monotonic clock and how many datagrams the kernel has taken so far.

    What it refuses for want of room is not counted.
    """
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    vector = _Vector(bytes(length), length)
    header = _Header(vector=ctypes.pointer(vector), vectors=1)
    messages = (_Message * BATCH)(*[_Message(header) for _ in range(BATCH)])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, port))
        number, taken, now = sender.fileno(), 0, time.monotonic()
        end, due = now + seconds, now
        while now < end:
            taken += max(0, send(number, messages, BATCH, 0))
            now = time.monotonic()
            if now >= due:
                yield now, taken
                due = now + TOLD_EVERY_S


if __name__ == "__main__":
    for told in flood(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])):
        print(*told, flush=True)
