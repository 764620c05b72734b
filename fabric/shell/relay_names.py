"""Where the relays are now: names to addresses, again and again, and each as soon as it is known."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import trio

from fabric.core.relays import ResolvedRelay
from fabric.shell.log import Log
from fabric.wire.rendezvous import RelayPlace

REFRESH_S = 3600.0
RETRY_S = 5.0
RETRY_LIMIT_S = 300.0

_log = Log("fabric.relay")


class RelayNames:
    """Answers `RelaysNamed`: call `replace` with its places. A name that doesn't resolve keeps what it meant last, or
    nothing: a proxy may know it (see `fabric.core.relays`)."""

    def __init__(self, handle: Callable[[Sequence[ResolvedRelay]], None]) -> None:
        self._handle = handle
        self._places: tuple[RelayPlace, ...] = ()
        self._known: dict[RelayPlace, tuple[str, ...]] = {}
        self._changed = trio.Event()

    def replace(self, places: Sequence[RelayPlace]) -> None:
        if tuple(places) != self._places:
            self._places = tuple(places)
            self._known = {place: ips for place, ips in self._known.items() if place in self._places}
            self._changed.set()

    def look_again(self) -> None:
        """The network changed, and with it perhaps what names mean in it."""
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                for place in self._places:
                    nursery.start_soon(self._keep_resolving, place)
                await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _keep_resolving(self, place: RelayPlace) -> None:
        retry_s = RETRY_S
        while True:
            ips = await _resolve(place.host)
            if ips:
                self._known[place] = ips
            self._handle([ResolvedRelay(place, self._known.get(place, ()))])
            await trio.sleep(REFRESH_S if ips else retry_s)
            retry_s = RETRY_S if ips else min(retry_s * 2, RETRY_LIMIT_S)


async def _resolve(host: str) -> tuple[str, ...]:
    try:
        answers = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:
        _log.debug("a relay's name does not resolve", name=host, why=error)
        return ()
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
