"""The gateway's port for this endpoint, in the world: the sockets for it, UPnP, and a gateway that changes.

    gateway watch --> PortMapping --> UDP to the gateway, port 5351
    news of gateways (224.0.0.1:5350) --^   `--> Upnp        `--> on_mapped

When it is cancelled, what was mapped is given back, for which there is a second and a half.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence

import trio

from fabric.core.machine import Draw, Instant, drain
from fabric.core.mapping import MappingReport, MappingsChanged, UpnpUnwanted, UpnpWanted
from fabric.core.mapping_pace import LIFETIME_S
from fabric.core.port_mapping import PortMapping
from fabric.errors import DecodeError
from fabric.shell.clock import now
from fabric.shell.driver import Alarm
from fabric.shell.gateway import Gateway, watch_gateway
from fabric.shell.log import Log
from fabric.shell.upnp import Upnp
from fabric.wire.address import Address
from fabric.wire.pcp import GATEWAY_PORT, MAX_BYTES, NEWS_PORT

CLOSE_S = 1.5

NEWS_PAUSE_S = 0.05
"""Anybody on the LAN can send to the port of gateways' news: twenty a second are looked at."""

_log = Log("fabric.port_mapping")


class PortMapper:
    """`on_mapped` gets the outside addresses that lead to `port`, whenever they change. `device` is the overlay's own.

    `nonce`: see `PortMapping`. `malformed` counts what came to our sockets and was no answer.
    """

    def __init__(
        self,
        port: int,
        on_mapped: Callable[[Sequence[Address]], None],
        *,
        device: str = "",
        nonce: bytes | None = None,
        draw: Draw = os.urandom,
        lifetime_s: int = LIFETIME_S,
        clock: Callable[[], Instant] = now,
    ) -> None:
        self._port = port
        self._on_mapped = on_mapped
        self._device = device
        self._clock = clock
        self._machine = PortMapping(draw, nonce, lifetime_s)
        self._alarm = Alarm(clock)
        self._upnp = Upnp()
        self._gateway: Gateway | None = None
        self._gateway_changed = trio.Event()
        self._door: socket.socket | None = None
        self._upnp_jobs_in, self._upnp_jobs = trio.open_memory_channel[UpnpWanted](1)
        self.malformed = 0

    @property
    def report(self) -> MappingReport:
        return self._machine.report

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_gateway, self._device, self._handle_gateway)
                nursery.start_soon(self._alarm.run, self._ring)
                nursery.start_soon(self._hear_gateway)
                nursery.start_soon(self._hear_news)
                nursery.start_soon(self._work_upnp)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await self._close()
            self._shut_door()

    def look_again(self) -> None:
        """The network may have changed, if only behind the same gateway."""
        self._machine.doubt(self._clock())
        self._settle()

    # -- the gateway --------------------------------------------------------------------------------------------

    def _handle_gateway(self, gateway: Gateway | None) -> None:
        self._gateway = gateway
        self._shut_door()
        if gateway is not None:
            self._door = _open_door(gateway)
        self._gateway_changed.set()
        if gateway is None or self._door is None:
            self._machine.handle_gateway(None, "", self._port, self._clock())
        else:
            self._machine.handle_gateway(gateway.ip, gateway.own_ip, self._port, self._clock())
        self._settle()

    def _shut_door(self) -> None:
        if self._door is not None:
            trio.lowlevel.notify_closing(self._door)
            self._door.close()
            self._door = None

    async def _hear_gateway(self) -> None:
        while True:
            self._gateway_changed = trio.Event()
            if self._door is None:
                await self._gateway_changed.wait()
                continue
            try:
                await trio.lowlevel.wait_readable(self._door)
            except trio.ClosedResourceError:
                continue
            self._read_door()

    def _read_door(self) -> None:
        """One datagram, or what ICMP said of one of ours."""
        if self._door is None or self._gateway is None:
            return
        try:
            payload = self._door.recv(MAX_BYTES + 1)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            self._machine.handle_refused(self._clock())
            self._settle()
        except OSError:
            return  # unreachable for now; the machine asks again in its time
        else:
            self._take(Address(self._gateway.ip, GATEWAY_PORT), payload)

    async def _hear_news(self) -> None:
        """Where another program has port 5350 for itself, restarts are noticed later, at the next renewal."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as news:
            news.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                news.bind(("", NEWS_PORT))
            except OSError:
                return
            while True:
                await trio.lowlevel.wait_readable(news)
                try:
                    payload, (ip, port) = news.recvfrom(MAX_BYTES + 1)
                except OSError:
                    continue
                self._take(Address(ip, port), payload)
                await trio.sleep(NEWS_PAUSE_S)

    def _take(self, source: Address, payload: bytes) -> None:
        try:
            self._machine.handle_datagram_untrusted(source, payload, self._clock())
        except DecodeError:
            self.malformed += 1
        self._settle()

    # -- driving the machine ------------------------------------------------------------------------------------

    def _ring(self) -> None:
        self._machine.handle_timeout(self._clock())
        self._settle()

    def _settle(self) -> None:
        for event in drain(self._machine.poll_event):
            match event:
                case MappingsChanged(addresses):
                    _log.info("outside addresses", count=len(addresses), gateway_says=self.report.outcome.value)
                    _log.debug("outside addresses", addresses=", ".join(map(str, addresses)))
                    self._on_mapped(addresses)
                case UpnpWanted():
                    self._want_upnp(event)
                case UpnpUnwanted():
                    pass  # `_close` does it
        for transmit in drain(self._machine.poll_transmit):
            self._send(transmit.payload)
        self._alarm.set(self._machine.next_timeout())

    def _send(self, payload: bytes) -> None:
        """What isn't sent is lost, and asked again like all that is lost."""
        if self._door is None:
            return
        try:
            self._door.send(payload)
        except ConnectionRefusedError:  # of the one before; this one has not left
            _send_again(self._door, payload)
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise

    # -- UPnP ---------------------------------------------------------------------------------------------------

    def _want_upnp(self, wanted: UpnpWanted) -> None:
        try:
            self._upnp_jobs_in.send_nowait(wanted)
        except trio.WouldBlock:
            return  # one is under way and one waits: the machine asks again

    async def _work_upnp(self) -> None:
        async for wanted in self._upnp_jobs:
            result = await self._upnp.map(wanted)
            if self._gateway is not None and (self._gateway.ip, self._gateway.own_ip) == (
                wanted.gateway,
                wanted.own_ip,
            ):
                self._machine.handle_upnp(result, self._clock())
                self._settle()

    # -- the end ------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        self._machine.close(self._clock())
        self._settle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upnp.remove)
            nursery.start_soon(self._await_closed)

    async def _await_closed(self) -> None:
        """Hears the gateway until it has confirmed, or has been asked often enough; UPnP has its own answers."""
        while not self._machine.is_closed and (deadline := self._machine.next_timeout()) is not None:
            with trio.move_on_after(max(0.0, deadline - self._clock())):
                if self._door is None:
                    return
                await trio.lowlevel.wait_readable(self._door)
            self._read_door()
            self._ring()


def _open_door(gateway: Gateway) -> socket.socket | None:
    """Returns a socket that hears the gateway alone; None where the route has gone already, or there is no socket."""
    try:
        door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        door.bind((gateway.own_ip, 0))
        door.connect((gateway.ip, GATEWAY_PORT))
    except OSError:
        door.close()
        return None
    return door


def _send_again(door: socket.socket, payload: bytes) -> None:
    try:
        door.send(payload)
    except OSError:
        return
