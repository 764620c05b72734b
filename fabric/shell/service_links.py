"""Two channels to the discovery service at once, at different addresses: the loss of either goes unnoticed.

Each connection has a number that no other of this process has or had. A channel that is lost moves on to the next
address that the other doesn't use.
"""

from __future__ import annotations

import itertools
import ssl
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import trio

from fabric.shell.proxy import DIRECT, Outlet
from fabric.shell.service_link import Patience, Rota, ServiceLink
from fabric.wire.rendezvous import ToEndpoint, ToService

LINKS = 2


class LinksUser(Protocol):
    """Who speaks over the channels: the daemon, on behalf of its node. `link` is a connection's number."""

    def handle_connected(self, link: int, tls_certificate: bytes) -> None: ...

    def handle_message(self, link: int, message: ToEndpoint) -> None: ...

    def handle_lost(self, link: int) -> None: ...


class ServiceLinks:
    """As many links as there are addresses, up to `LINKS`. The arguments are those of `ServiceLink`."""

    def __init__(
        self,
        addresses: Sequence[str],
        context: ssl.SSLContext,
        check: Callable[[bytes, str], object],
        user: LinksUser,
        patience: Patience,
        jitter: Callable[[], float],
        outlet: Outlet = DIRECT,
    ) -> None:
        rota = Rota(addresses)
        numbers = itertools.count(1)
        self._open: dict[int, ServiceLink] = {}
        self._links: list[ServiceLink] = []
        self._refused = ""
        for _ in range(min(LINKS, len(rota))):
            numbered = _Numbered(user, numbers, self._open)
            link = ServiceLink(rota, context, check, numbered, patience, jitter, outlet)
            numbered.link = link
            self._links.append(link)

    @property
    def links(self) -> tuple[ServiceLink, ...]:
        """To be looked at only."""
        return tuple(self._links)

    @property
    def why(self) -> str:
        """Why there is no channel, for a person; empty while there is one."""
        whys = [link.why for link in self._links]
        refused = [f"it refused: {self._refused}"] if self._refused else []
        return "" if "" in whys else "; ".join(dict.fromkeys(refused + whys))

    def send(self, link: int, message: ToService) -> None:
        """Queues a message; it is lost with the channel."""
        if (channel := self._open.get(link)) is not None:
            channel.send(message)

    def close(self, link: int, why: str) -> None:
        if (channel := self._open.get(link)) is not None:
            channel.close(why)

    def handle_accepted(self, link: int) -> None:
        """The service has proven itself."""
        self._refused = ""
        if (channel := self._open.get(link)) is not None:
            channel.handle_accepted()

    def handle_refused(self, why: str) -> None:
        """The service, which had proven itself, does not take this endpoint, or its request for a certificate."""
        self._refused = why

    def handle_moved(self, own: Collection[str]) -> None:
        for link in self._links:
            link.handle_moved(own)

    def handle_doubt(self) -> None:
        for link in self._links:
            link.handle_doubt()

    async def run(self) -> None:
        """Keeps the channels open for ever."""
        async with trio.open_nursery() as nursery:
            for link in self._links:
                nursery.start_soon(link.run)


class _Numbered:
    """The user of one link, which it gives a new number whenever it is connected."""

    link: ServiceLink

    def __init__(self, user: LinksUser, numbers: itertools.count[int], open_links: dict[int, ServiceLink]) -> None:
        self._user = user
        self._numbers = numbers
        self._open = open_links
        self._number = 0

    def handle_connected(self, tls_certificate: bytes) -> None:
        self._number = next(self._numbers)
        self._open[self._number] = self.link
        self._user.handle_connected(self._number, tls_certificate)

    def handle_message(self, message: ToEndpoint) -> None:
        self._user.handle_message(self._number, message)

    def handle_lost(self) -> None:
        del self._open[self._number]
        self._user.handle_lost(self._number)
