"""A whole network of the product in a laboratory: what most tests and the demo begin with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from fabric.lab.namespace import LabError
from fabric.lab.nat import Nat
from fabric.lab.product import Daemon, DiscoveryService, Endpoint, until
from fabric.lab.site import Host, Site
from fabric.lab.world import Lab

AT_ONCE = 6

T = TypeVar("T")


class Overlay:
    """A network of the product in a laboratory: one discovery service, and endpoints that were enrolled with it."""

    def __init__(
        self,
        lab: Lab,
        network: str = "home",
        *,
        at: str = "discovery",
        host: Host | None = None,
        addresses: Sequence[str] = (),
        configuration: str = "",
    ) -> None:
        """Puts the service on `host`, or on a new public host of the name `at`; reached there or at `addresses`."""
        self.lab, self.network = lab, network
        self.discovery = DiscoveryService(lab, host or lab.site(f"s-{at}", Nat.PUBLIC).host(at), network, label=at)
        self.discovery.init(addresses=addresses)
        if configuration:
            self.discovery.append_configuration(configuration)
        self.discovery.start()
        self._key = self.discovery.create_key("--uses", "1000")

    def endpoints(self, places: Mapping[str, Site], *, configuration: str = "") -> dict[str, Endpoint]:
        """Enrols and starts an endpoint of each name on a new host at its site; all of them side by side."""
        made = {name: Endpoint(self.lab, site.host(name)) for name, site in places.items()}
        for endpoint in made.values():
            if configuration:
                endpoint.append_configuration(configuration)
        side_by_side([partial(endpoint.enrol, self._key) for endpoint in made.values()])
        start_all(list(made.values()))
        return made

    def endpoint(self, name: str, site: Site, *, configuration: str = "") -> Endpoint:
        return self.endpoints({name: site}, configuration=configuration)[name]


def introduce(*endpoints: Endpoint) -> None:
    """Lets each of them state intent towards each other."""
    pairs = [(one, other) for one in endpoints for other in endpoints if one is not other]
    side_by_side([partial(one.add, other.name) for one, other in pairs])


def connect(*endpoints: Endpoint, path: str = "direct", timeout_s: float = 20.0) -> None:
    """Lets each state intent towards each other, and returns when all are connected; LabError if they don't get so."""
    introduce(*endpoints)
    await_connected(*endpoints, path=path, timeout_s=timeout_s)


def await_connected(*endpoints: Endpoint, path: str = "direct", timeout_s: float = 20.0) -> None:
    """Returns when each says that it is connected to each other; LabError, with both sides' views, if not."""
    pairs = [(one, other) for one in endpoints for other in endpoints if one is not other]
    waits = side_by_side([partial(one.wait, other.name, path=path, timeout_s=timeout_s) for one, other in pairs])
    for (one, other), waited in zip(pairs, waits, strict=True):
        if waited.code != 0:
            raise LabError(f"{one.name} and {other.name} did not connect: {describe(one, other)}\n{waited.errors}")


def await_reach(one: Endpoint, other: Endpoint, within_s: float) -> float:
    """Returns, after how many seconds, as soon as each answers the other's ping; LabError after `within_s`."""
    started = time.monotonic()
    ways = ((one, other.overlay_ip()), (other, one.overlay_ip()))
    try:
        until(lambda: all(end.reaches(to, within_s=0.5) for end, to in ways), "answers both ways", within_s)
    except LabError as error:
        raise LabError(f"{error}: {describe(one, other)}") from None
    return time.monotonic() - started


def await_path(one: Endpoint, other: Endpoint, *kinds: str, within_s: float = 30.0) -> float:
    """Returns, after how many seconds, as soon as both ends have a path of one of `kinds`; LabError if not in time."""
    started = time.monotonic()
    try:
        until(
            lambda: {one.path_kind(other.name), other.path_kind(one.name)} <= set(kinds), " or ".join(kinds), within_s
        )
    except LabError as error:
        raise LabError(f"{error}: {describe(one, other)}") from None
    return time.monotonic() - started


def describe(one: Endpoint, other: Endpoint) -> str:
    """What each of two endpoints says of the other, and their last words: for a person who has to find out why."""
    views = [f"{a.name} says of {b.name}: {_view(a, b)}\n{a.last_words()}" for a, b in ((one, other), (other, one))]
    return "\n".join(views)


def _view(one: Endpoint, other: Endpoint) -> str:
    """One that is not there to be asked says nothing, which is worth knowing too."""
    try:
        return f"{one.peer(other.name)}, with drops of no peer's {one.status()['endpoint']['drops']}"
    except LabError as error:
        return f"({error})"


def side_by_side(acts: Sequence[Callable[[], T]]) -> list[T]:
    """Does all of `acts` at once, a few at a time, and returns their results in order; raises what one raised."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(lambda act: act(), acts))


def start_all(daemons: Sequence[Daemon]) -> None:
    """Starts several at once and returns when all serve."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(daemon.launch()) for daemon in daemons]
        for daemon, listener in zip(daemons, listeners, strict=True):
            daemon.await_ready(listener)
