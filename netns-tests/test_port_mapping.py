"""Ports of a real gateway: asked for, used, kept alive, found again after its restart, given back.

    ( internet )
5.1.2.0/24 |   | 5.0.1.2 wan
 [far] .10-+   [router: NAT, miniupnpd]
                   | lan 192.168.1.1
       [alice] .10-+
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio

from fabric.core.mapping import Outcome
from fabric.lab import Host, Lab, Nat, Site
from fabric.lab.miniupnpd import Mapped, Miniupnpd
from fabric.shell.gateway import Gateway, read_gateway, watch_gateway
from fabric.shell.port_mapping import PortMapper
from fabric.wire.address import Address, Transport
from fabric.wire.pcp import Protocol

PORT = 4000
EPOCH_SLACK_S = 5
"""A clock of whole seconds that is back by less betrays no restart: RFC 6887 section 8.5 allows it two, and more."""

ONLY: dict[Protocol, dict[str, bool]] = {
    Protocol.PCP: {"upnp": False},
    Protocol.NAT_PMP: {"upnp": False, "pcp": False},
    Protocol.UPNP: {"natpmp": False, "pcp": False},
}


@dataclass
class Running:
    """A `PortMapper` on a host, in a thread that stays in its namespace."""

    host: Host
    lifetime_s: int = 7200
    told: list[tuple[Address, ...]] = field(default_factory=list)
    mapper: PortMapper | None = None
    close_s: float = 0.0

    def __enter__(self) -> Running:
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: self.host.namespace.inside(lambda: trio.run(self._main)))
        self._thread.start()
        assert self._started.wait(10)
        return self

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.mapper = PortMapper(PORT, lambda addresses: self.told.append(tuple(addresses)), lifetime_s=self.lifetime_s)
        with trio.CancelScope() as self._scope:
            self._started.set()
            await self.mapper.run()

    def __exit__(self, *_: object) -> None:
        begun = time.monotonic()
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)
        self.close_s = time.monotonic() - begun
        assert not self._thread.is_alive()

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self.told[-1] if self.told else ()

    @property
    def outcome(self) -> tuple[Outcome, Protocol | None]:
        assert self.mapper is not None
        return self.mapper.report.outcome, self.mapper.report.protocol

    def says(self, words: str) -> bool:
        assert self.mapper is not None
        return words in self.mapper.report.words


def until(is_so: Callable[[], Any], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.05)


@dataclass
class Home:
    lab: Lab
    site: Site
    alice: Host
    far: Host

    @contextlib.contextmanager
    def gateway(self, **settings: Any) -> Iterator[Miniupnpd]:
        gateway = Miniupnpd(self.lab, self.site, **settings)
        gateway.start()
        try:
            yield gateway
        finally:
            gateway.stop()

    @property
    def outside(self) -> str:
        return str(self.site.wan.ip)

    @property
    def both(self) -> tuple[Address, ...]:
        return Address(self.outside, PORT), Address(self.outside, PORT, Transport.TCP)

    @property
    def table(self) -> set[Mapped]:
        return {Mapped(protocol, PORT, self.alice.ip, PORT) for protocol in ("udp", "tcp")}


@pytest.fixture(scope="module")
def home(lab: Lab) -> Home:
    site = lab.site("home", Nat.PORT_RESTRICTED)
    far = lab.site("far", Nat.PUBLIC).host("far")
    return Home(lab, site, site.host("alice"), far)


def hears_from_afar(home: Home, addresses: Sequence[Address]) -> None:
    """A stranger on the internet reaches alice's port by what she was told, over UDP and TCP."""

    def serve() -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("", PORT))
        stream = socket.create_server(("", PORT))
        for each in (datagrams, stream):
            each.settimeout(5)
        return datagrams, stream

    udp, tcp = addresses
    datagrams, stream = home.alice.namespace.inside(serve)
    with datagrams, stream, home.far.namespace.inside(lambda: socket.socket(type=socket.SOCK_DGRAM)) as sender:
        sender.sendto(b"over UDP", (udp.ip, udp.port))
        assert datagrams.recv(100) == b"over UDP"
        caller = home.far.namespace.inside(lambda: socket.create_connection((tcp.ip, tcp.port), 5))
        with caller, stream.accept()[0] as accepted:
            caller.send(b"over TCP")
            assert accepted.recv(100) == b"over TCP"


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_port_is_mapped_reached_from_outside_and_given_back(home: Home, protocol: Protocol) -> None:
    with home.gateway(**ONLY[protocol]) as gateway:
        with Running(home.alice) as running:
            until(lambda: running.addresses == home.both)
            assert running.outcome == (Outcome.MAPPED, protocol)
            assert gateway.mapped() == home.table
            hears_from_afar(home, running.addresses)
        assert gateway.mapped() == set()
        assert running.close_s < 1.5


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_mapping_outlives_its_life_while_somebody_renews_it(home: Home, protocol: Protocol) -> None:
    with home.gateway(**ONLY[protocol], most_s=10) as gateway, Running(home.alice, lifetime_s=10) as running:
        until(lambda: running.addresses == home.both)
        told = len(running.told)
        end = time.monotonic() + 14  # longer than it lives
        while time.monotonic() < end:
            assert gateway.mapped() == home.table
            time.sleep(0.5)
        assert len(running.told) == told


@pytest.mark.parametrize("protocol", [Protocol.PCP, Protocol.NAT_PMP])
def test_a_gateway_that_restarts_is_noticed_by_its_news(home: Home, protocol: Protocol) -> None:
    with home.gateway(**ONLY[protocol]) as gateway, Running(home.alice) as running:
        until(lambda: running.addresses == home.both)
        time.sleep(EPOCH_SLACK_S)
        gateway.restart()
        assert gateway.mapped() == set()
        until(lambda: gateway.mapped() == home.table, 15)
        hears_from_afar(home, running.addresses)


def test_a_restart_of_which_nothing_is_heard_is_noticed_by_the_next_renewal(home: Home) -> None:
    with home.gateway(**ONLY[Protocol.UPNP]) as gateway, Running(home.alice, lifetime_s=10) as running:
        until(lambda: running.addresses == home.both)
        gateway.restart()
        until(lambda: gateway.mapped() == home.table, 20)


def test_a_gateway_of_the_first_igd_is_understood(home: Home) -> None:
    with home.gateway(**ONLY[Protocol.UPNP], version_1=True) as gateway, Running(home.alice) as running:
        until(lambda: running.addresses == home.both)
        assert gateway.mapped() == home.table


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_port_that_a_neighbour_has_leads_to_another(home: Home, protocol: Protocol) -> None:
    bob = home.lab.hosts.get("bob") or home.site.host("bob")
    with home.gateway(**ONLY[protocol]) as gateway, Running(bob) as first:
        until(lambda: first.addresses == home.both)
        with Running(home.alice) as second:
            until(lambda: len(second.addresses) == 2)
            assert {address.port for address in second.addresses} & {PORT} == set()
            assert len(gateway.mapped()) == 4
            hears_from_afar(home, second.addresses)
        until(lambda: len(gateway.mapped()) == 2)


def test_a_gateway_that_speaks_nothing_is_said_to_be_silent(home: Home) -> None:
    home.site.reboot()
    with Running(home.alice) as running:
        until(lambda: running.outcome == (Outcome.SILENT, None))
        assert running.told == []


def test_a_gateway_that_learns_to_speak_is_asked_again_when_told_to_look(home: Home) -> None:
    home.site.reboot()
    with Running(home.alice) as running:
        until(lambda: running.outcome == (Outcome.SILENT, None))
        with home.gateway(**ONLY[Protocol.PCP]):
            assert running.mapper is not None
            running._token.run_sync_soon(running.mapper.look_again)
            until(lambda: running.addresses == home.both)


def test_a_refusal_names_its_reason(home: Home) -> None:
    forbidden = {**ONLY[Protocol.UPNP], "more": "deny 0-65535 0.0.0.0/0 0-65535"}
    with home.gateway(**forbidden) as gateway, Running(home.alice) as running:
        until(lambda: running.outcome == (Outcome.REFUSED, Protocol.UPNP))
        assert running.mapper is not None
        assert "refuses" in running.mapper.report.words
        assert gateway.mapped() == set()


def test_a_host_that_moves_to_another_gateway_asks_that_one(home: Home) -> None:
    cafe = home.lab.site("cafe", Nat.PORT_RESTRICTED)
    carol = cafe.host("carol")
    with home.gateway() as gateway, Running(carol) as running:
        until(lambda: running.outcome == (Outcome.SILENT, None))
        carol.move(home.site, 77)
        until(lambda: running.addresses == home.both)
        assert {mapped.ip for mapped in gateway.mapped()} == {carol.ip}


def test_the_gateway_is_followed_as_routes_change(home: Home) -> None:
    told: list[Gateway | None] = []

    async def watch() -> None:
        assert await read_gateway("fabric0") is not None
        assert await read_gateway("eth0") is None
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(_watching, told)
                home.alice.unplug()
                while told[-1] is not None:  # noqa: ASYNC110  as the daemon sees it
                    await trio.sleep(0.05)
                home.alice.plug_in()
                while told[-1] is None:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()

    home.alice.namespace.inside(lambda: trio.run(watch))
    assert told[0] == told[-1]
    assert told[0] is not None
    assert (told[0].ip, told[0].own_ip, told[0].name) == (str(home.site.gateway.ip), home.alice.ip, "eth0")


async def _watching(told: list[Gateway | None], task_status: trio.TaskStatus[None]) -> None:
    def handle(gateway: Gateway | None) -> None:
        told.append(gateway)
        if len(told) == 1:
            task_status.started()

    await watch_gateway("fabric0", handle)


def test_a_gateway_behind_a_carriers_nat_refuses_and_says_that_its_line_is_no_good(home: Home) -> None:
    flat = home.lab.site("flat", Nat.CARRIER)
    dave = flat.host("dave")
    gateway = Miniupnpd(home.lab, flat)
    gateway.start()
    with Running(dave) as running:
        until(lambda: running.outcome[0] is Outcome.REFUSED)
        assert running.mapper is not None
        for words in ("UPnP: it is not connected", "NAT-PMP: its own line is down"):  # in whichever order they come
            until(partial(running.says, words))
        assert running.told == []
    gateway.stop()
