"""The sender of small datagrams counts what the kernel took, and each is a packet."""

from __future__ import annotations

import socket

from tests.bench.flood import flood


def test_what_is_counted_arrives_in_the_length_that_was_asked_for() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(5)
        told = flood("127.0.0.1", sink.getsockname()[1], 64, 60.0)
        _, taken = next(told)
        assert taken > 0
        assert {len(sink.recv(2048)) for _ in range(taken)} == {64}
        told.close()
