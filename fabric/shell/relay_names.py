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
        retry_s = RETRY_S
        while True:
            self._changed = trio.Event()
            resolved = await self._resolve_all(self._places)
            pause_s = REFRESH_S if resolved else retry_s
            retry_s = RETRY_S if resolved else min(retry_s * 2, RETRY_LIMIT_S)
            with trio.move_on_after(pause_s):
                await self._changed.wait()

    async def _resolve_all(self, places: Sequence[RelayPlace]) -> bool:
        """Returns whether every name resolved. Gives up where other places are wanted meanwhile."""
        has_failed = False

        async def resolve(place: RelayPlace) -> None:
            nonlocal has_failed
            ips = await _resolve(place.host)
            has_failed |= not ips
            if ips:
                self._known[place] = ips
            self._handle([ResolvedRelay(place, self._known.get(place, ()))])

        async with trio.open_nursery() as nursery:
            for place in places:
                nursery.start_soon(resolve, place)
        return not has_failed


async def _resolve(host: str) -> tuple[str, ...]:
    try:
        answers = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        _log.debug("a relay's name does not resolve", name=host, why=error)
        return ()
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))
