"""Sends datagrams from a file, again and again, as fast as one processor can or at a pace; the standard library alone.

    python barrage.py FILE ADDRESS PORT SECONDS A_SECOND [NETWORK]

FILE holds the payloads, each behind its length (u16). A_SECOND 0: as many as go. With NETWORK (10.66.0.0, of which
the last two bytes are drawn) each has a forged source. Prints, ten times a second, the clock and how many were taken
so far, as `flood` does.
"""

from __future__ import annotations

import ctypes
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

BATCH = 64
TOLD_EVERY_S = 0.1
MOST = 4096
"""Messages that are made ready; a longer file is used from its beginning."""


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = [
        ("name", ctypes.c_char_p),
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


def read_payloads(path: Path) -> list[bytes]:
    packed, payloads, at = path.read_bytes(), [], 0
    while at < len(packed):
        end = at + 2 + int.from_bytes(packed[at : at + 2])
        payloads.append(packed[at + 2 : end])
        at = end
    return payloads


def write_payloads(path: Path, payloads: Sequence[bytes]) -> None:
    path.write_bytes(b"".join(len(each).to_bytes(2) + each for each in payloads))


def barrage(
    payloads: Sequence[bytes], address: str, port: int, seconds: float, a_second: float, network: str | None = None
) -> Generator[tuple[float, int]]:
    """Yields, ten times a second, the monotonic clock and how many datagrams the kernel has taken so far."""
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    wire = [_forged(each, network, address, port) if network else each for each in payloads[:MOST]]
    wire = (wire * (BATCH // len(wire) + 1))[: max(BATCH, len(wire) // BATCH * BATCH)]
    target = struct.pack("=H", socket.AF_INET) + port.to_bytes(2) + socket.inet_aton(address) + bytes(8)
    vectors = (_Vector * len(wire))(*[_Vector(each, len(each)) for each in wire])
    messages = (_Message * len(wire))(
        *[_Message(_Header(target, len(target), ctypes.pointer(vectors[at]), 1)) for at in range(len(wire))]
    )
    kind = (socket.SOCK_RAW, socket.IPPROTO_RAW) if network else (socket.SOCK_DGRAM, 0)
    with socket.socket(socket.AF_INET, *kind) as sender:
        number, taken, at, now = sender.fileno(), 0, 0, time.monotonic()
        began, end, due = now, now + seconds, now
        while now < end:
            if a_second and (ahead_s := began + taken / a_second - now) > 0:
                time.sleep(min(ahead_s, 0.002))
            else:
                taken += max(0, send(number, ctypes.byref(messages[at]), BATCH, 0))
                at = (at + BATCH) % len(wire)
            now = time.monotonic()
            if now >= due:
                yield now, taken
                due = now + TOLD_EVERY_S


def _forged(payload: bytes, network: str, address: str, port: int) -> bytes:
    """Returns an IPv4 packet. The kernel fills in length and checksum of IP; a checksum of 0 in UDP is none."""
    source = socket.inet_aton(network)[:2] + os.urandom(2)
    udp = struct.pack("!HHHH", random.randrange(1024, 65536), port, 8 + len(payload), 0)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 17, 0, source, socket.inet_aton(address))
    return ip + udp + payload


if __name__ == "__main__":
    words = sys.argv[1:]
    ready = read_payloads(Path(words[0]))
    for told in barrage(ready, words[1], int(words[2]), float(words[3]), float(words[4]), *words[5:6]):
        print(*told, flush=True)
