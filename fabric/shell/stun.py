"""Where the STUN servers are now: names to addresses, again and again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import trio

from fabric.errors import DecodeError
from fabric.shell.host import split_host
from fabric.shell.log import Log
from fabric.wire.address import Address

REFRESH_S = 3600.0
RETRY_S = 5.0
RETRY_LIMIT_S = 300.0

_log = Log("fabric.stun")


class StunNames:
    """Resolves "host:port" names, whenever they change and now and then, and hands the addresses on."""

    def __init__(self, names: Sequence[str], handle: Callable[[Sequence[Address]], None]) -> None:
        self._names = tuple(names)
        self._handle = handle
        self._changed = trio.Event()

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def replace(self, names: Sequence[str]) -> None:
        """Takes the names that the service has told; none at all change nothing."""
        if names and tuple(names) != self._names:
            self._names = tuple(names)
            self._changed.set()

    def look_again(self) -> None:
        """The network changed, and with it perhaps what names mean in it."""
        self._changed.set()

    async def run(self) -> None:
        retry_s = RETRY_S
        while True:
            self._changed = trio.Event()
            addresses, has_failed = await _resolve_all(self._names)
            if addresses:
                self._handle(addresses)
            pause_s = retry_s if has_failed else REFRESH_S
            retry_s = min(retry_s * 2, RETRY_LIMIT_S) if has_failed else RETRY_S
            with trio.move_on_after(pause_s):
                await self._changed.wait()


async def _resolve_all(names: Sequence[str]) -> tuple[list[Address], bool]:
    """Returns what resolves, and whether any name did not."""
    found: list[Address] = []
    has_failed = False
    for name in names:
        try:
            host, port = split_host(name)
            answers = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except (OSError, DecodeError) as error:
            has_failed = True
            _log.debug("a STUN server's name does not resolve", name=name, why=error)
            continue
        found += [Address(str(answer[4][0]), int(answer[4][1])) for answer in answers]
    return list(dict.fromkeys(found)), has_failed
