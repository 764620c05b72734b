"""The threads of the native lane, as trio sees them: two bells, and an end.

ask     something is to be done now: a frame that C can't place, a datagram that is not DATA, a message for core
news    records were sealed or opened: core is told some time, under load fifty times a second
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from fabric.dataplane.native import NativeLane
from fabric.shell.tap import Tap
from fabric.shell.udp import UdpSockets


class LaneThreads:
    """Between the device and the main sockets, which nobody else may read while `run` runs."""

    def __init__(self, lane: NativeLane, tap: Tap, udp: UdpSockets) -> None:
        self._lane = lane
        self._tap = tap
        self._udp = udp
        self.sockets = udp.sockets
        self.sort = udp.sort

    async def run(
        self,
        handle_asks: Callable[[], None],
        handle_news: Callable[[], None],
        pause_s: float,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Runs until cancelled; raises `OSError` where the device is taken away."""
        ask, news = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        ipv4, ipv6 = (udp.fileno() if udp is not None else -1 for udp in (self._udp.ipv4, self._udp.ipv6))
        try:
            self._lane.attach(self._tap.fd, ipv4, ipv6, ask, news)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_asks, ask, handle_asks)
                nursery.start_soon(self._watch_news, news, handle_news, pause_s)
                task_status.started()
        finally:
            self._lane.detach()
            os.close(ask)
            os.close(news)

    async def _watch_asks(self, ask: int, handle_asks: Callable[[], None]) -> None:
        while True:
            await trio.lowlevel.wait_readable(ask)
            os.eventfd_read(ask)
            self._lane.check()
            handle_asks()

    async def _watch_news(self, news: int, handle_news: Callable[[], None], pause_s: float) -> None:
        while True:
            await trio.lowlevel.wait_readable(news)
            os.eventfd_read(news)
            handle_news()
            await trio.sleep(pause_s)
