"""What the service manager hears."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import trio
from trio.testing import MockClock

from fabric.shell.notify import READY, STOPPING, keep_watchdog, notify, watchdog_interval_s


def listener(path: Path | str) -> socket.socket:
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    opened.bind(str(path))
    opened.setblocking(False)
    return opened


def test_states_are_told_in_one_datagram(tmp_path: Path) -> None:
    with listener(tmp_path / "notify") as opened:
        assert notify(READY, STOPPING, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert opened.recv(100) == b"READY=1\nSTOPPING=1"


def test_an_abstract_socket_is_reached() -> None:
    with listener("\0fabric-test-notify") as opened:
        assert notify(READY, environment={"NOTIFY_SOCKET": "@fabric-test-notify"})
        assert opened.recv(100) == b"READY=1"


def test_without_a_listener_nothing_happens(tmp_path: Path) -> None:
    assert not notify(READY, environment={})
    assert not notify(READY, environment={"NOTIFY_SOCKET": str(tmp_path / "nobody")})


def test_the_watchdog_is_fed_twice_as_often_as_it_demands_and_only_where_it_watches_us() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval_s({}) is None


async def test_signs_of_life_come_from_the_event_loop(tmp_path: Path, autojump_clock: MockClock) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
    with listener(tmp_path / "notify") as opened:
        with trio.move_on_after(3.5):
            await keep_watchdog(environment)
        heard = [opened.recv(100) for _ in range(4)]
    assert heard == [b"WATCHDOG=1"] * 4
