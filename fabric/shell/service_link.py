"""The channel to the discovery service: a WebSocket over TLS, opened again whenever it is lost.

    pause (doubling, with jitter) -> each address in turn -> TLS -> WebSocket -> messages -> lost -> pause ...

Nothing is kept across a loss: the node says again what matters when it is connected again.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from fabric.errors import DecodeError
from fabric.shell.host import split_host
from fabric.shell.late import load
from fabric.shell.log import Log
from fabric.shell.proxy import DIRECT, Outlet
from fabric.wire.rendezvous import MAX_MESSAGE_BYTES, ToEndpoint, ToService, decode_to_endpoint, encode_message

if TYPE_CHECKING:
    from fabric.shell.websocket import WebSocketConnection

CHANNEL_PATH = "/v1/channel"
CONNECT_S = 10.0
PROOF_S = 10.0
"""How long the service may take from the open socket to its proof."""
STEADY_S = 10.0
"""A channel that stood this long is opened again at once; one that did not only adds to the pause."""
DOUBT_S = 3.0
"""A doubtful channel is given up this soon: many round trips, and a connection costs little."""
QUEUED_MESSAGES = 256
"""As many wait for a slow service; one more closes the channel, and the next begins afresh."""

_log = Log("fabric.service")


class ChannelUser(Protocol):
    """Who speaks over the channel: the daemon, on behalf of its node."""

    def handle_connected(self, tls_certificate: bytes) -> None: ...

    def handle_message(self, message: ToEndpoint) -> None: ...

    def handle_lost(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: the first pause and the longest; how often a silent service is asked for a sign of life."""

    retry_s: float
    retry_limit_s: float
    silence_s: float


class Rota:
    """The addresses of the service, each once; the links that share them are never at one address at a time."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(dict.fromkeys(addresses))
        self._taken: set[str] = set()

    def __len__(self) -> int:
        return len(self._addresses)

    def take(self, tried: Collection[str]) -> str | None:
        """Returns the first address that nobody is at and that is not in `tried`; None where there is none left."""
        for address in self._addresses:
            if address not in self._taken and address not in tried:
                self._taken.add(address)
                return address
        return None

    def give_back(self, address: str) -> None:
        self._taken.remove(address)


class ServiceLink:
    """`check` proves a TLS certificate (DER) for a host beyond what TLS does, or raises `CertificateError`.

    `jitter` returns a number from 0 to 1: a thousand endpoints that lose one service don't return in one moment.
    """

    def __init__(
        self,
        addresses: Sequence[str] | Rota,
        context: ssl.SSLContext,
        check: Callable[[bytes, str], object],
        user: ChannelUser,
        patience: Patience,
        jitter: Callable[[], float],
        outlet: Outlet = DIRECT,
    ) -> None:
        self._rota = addresses if isinstance(addresses, Rota) else Rota(addresses)
        self._context = context
        self._check = check
        self._user = user
        self._patience = patience
        self._jitter = jitter
        self._outlet = outlet
        self._outbox: trio.MemorySendChannel[ToService] | None = None
        self._local_ip = ""
        self._scope = trio.CancelScope()
        self._doubtful = trio.Event()
        self._moved = trio.Event()
        self._accepted = trio.Event()
        self._opened = 0.0
        self._pause_s = patience.retry_s
        self.why = "not tried yet"
        """Why there is no channel, for a person."""
        self.address = ""
        """Where the channel is, or was last tried."""

    @property
    def is_up(self) -> bool:
        """Whether there is a channel, and the service has proven itself on it."""
        return self._outbox is not None and self._accepted.is_set()

    def send(self, message: ToService) -> None:
        """Queues a message; it is lost with the channel."""
        if self._outbox is None:
            return
        try:
            self._outbox.send_nowait(message)
        except trio.WouldBlock:
            self.close("the service takes no messages")
        except trio.BrokenResourceError:
            pass

    def close(self, why: str) -> None:
        """Gives up the present channel."""
        self.why = why
        self._scope.cancel()

    def handle_accepted(self) -> None:
        """The service has proven itself."""
        self.why = ""
        self._accepted.set()

    def handle_moved(self, own: Collection[str]) -> None:
        """The own IP addresses are these now: a channel from another is dead, any other doubtful; a pause is over."""
        self._pause_s = self._patience.retry_s
        self._moved.set()
        self._doubtful.set()
        if self._outbox is None or self._local_ip not in own:
            self.close("the own addresses changed")

    def handle_doubt(self) -> None:
        """Something else that was reached is not: the service gives a sign of life soon, or is given up."""
        self._doubtful.set()

    async def run(self) -> None:
        """Keeps the channel open for ever."""
        await load("fabric.shell.websocket")
        while True:
            tried: set[str] = set()
            while (address := self._rota.take(tried)) is not None:
                tried.add(address)
                self._scope = trio.CancelScope()
                with self._scope:
                    await self._try(address)
                self._rota.give_back(address)
            await self._rest()

    async def _rest(self) -> None:
        self._moved = trio.Event()
        with trio.move_on_after(self._pause_s * (0.5 + self._jitter())):
            await self._moved.wait()
        self._pause_s = min(self._pause_s * 2, self._patience.retry_limit_s)

    async def _try(self, address: str) -> None:
        """Opens the channel at one address and serves it until it is lost."""
        from fabric.shell.websocket import EXPECTED, first_of, said

        self.address = address
        try:
            await self._serve(address)
        except* EXPECTED as errors:
            self.why = f"{address}: {said(first_of(errors))}"
            _log.debug("no channel to the service", address=address, why=self.why)
        finally:
            self._lose()

    def _lose(self) -> None:
        if self._outbox is None:
            return
        self._outbox = None
        if self._accepted.is_set() and trio.current_time() - self._opened >= STEADY_S:
            self._pause_s = self._patience.retry_s
        self._user.handle_lost()

    async def _serve(self, address: str) -> None:
        from fabric.shell.websocket import wrap_client_stream

        host, port = split_host(address)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(CONNECT_S):
                tls = await self._connect(host, port)
                try:
                    certificate = bytes(tls.getpeercert(binary_form=True) or b"")
                    self._check(certificate, host)
                    socket = await wrap_client_stream(
                        nursery, tls, address, CHANNEL_PATH, max_message_size=MAX_MESSAGE_BYTES
                    )
                except BaseException:
                    await trio.aclose_forcefully(tls)
                    raise
            _log.debug("channel to the service opened", address=address)
            try:
                await self._talk(nursery, socket, certificate)
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):  # else the reason for the loss would be lost in a cancellation
                    await trio.aclose_forcefully(tls)

    async def _connect(self, host: str, port: int) -> trio.SSLStream[trio.SocketStream]:
        tcp = await self._outlet.connect(host, port)
        self._local_ip = str(tcp.socket.getsockname()[0])
        tls = trio.SSLStream(tcp, self._context, server_hostname=host, https_compatible=True)
        try:
            await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(tls)
            raise
        return tls

    async def _talk(self, nursery: trio.Nursery, socket: WebSocketConnection, certificate: bytes) -> None:
        self._outbox, waiting = trio.open_memory_channel[ToService](QUEUED_MESSAGES)
        self._accepted = trio.Event()
        self._doubtful = trio.Event()
        self._opened = trio.current_time()
        nursery.start_soon(_write, socket, waiting)
        nursery.start_soon(self._watch_proof)
        nursery.start_soon(self._watch_silence, socket)
        self._user.handle_connected(certificate)
        while True:
            message = await socket.get_message()
            if not isinstance(message, bytes):
                raise DecodeError("the service sent text")
            self._user.handle_message(decode_to_endpoint(message))

    async def _watch_proof(self) -> None:
        with trio.fail_after(PROOF_S):
            await self._accepted.wait()

    async def _watch_silence(self, socket: WebSocketConnection) -> None:
        """Fails with `TooSlowError` when a sign of life stays out; asks at once when the own addresses changed."""
        while True:
            with trio.move_on_after(self._patience.silence_s):
                await self._doubtful.wait()
            answer_s = self._patience.silence_s / 2
            if self._doubtful.is_set():
                answer_s = min(answer_s, DOUBT_S)
                self._doubtful = trio.Event()
            with trio.fail_after(answer_s):
                await socket.ping()


async def _write(socket: WebSocketConnection, waiting: trio.MemoryReceiveChannel[ToService]) -> None:
    async for message in waiting:
        await socket.send_message(encode_message(message))
