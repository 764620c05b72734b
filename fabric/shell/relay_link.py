"""WebSockets over TLS to relays: one for each that the node wants, opened again whenever it is lost.

    pause (doubling, with jitter) -> (proxy) -> TLS -> WebSocket -> datagrams, one a message -> lost -> pause ...

What is sent never waits: the outbox is bounded, and what is too old when its turn comes is dropped, as a network
would. Nobody asks here whether the relay still answers: core does, and lets a dead connection go.
"""

from __future__ import annotations

import ssl
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from fabric.dataplane.contract import Drop
from fabric.errors import DecodeError
from fabric.shell.late import load
from fabric.shell.log import Log
from fabric.shell.proxy import DIRECT, Outlet
from fabric.wire.address import Address, Target, Transport
from fabric.wire.relay import RELAY_CONTROL_TYPE, RELAYED_HEADER_BYTES, unwrap_relayed, wrap_relayed
from fabric.wire.rendezvous import RelayPlace

if TYPE_CHECKING:
    from fabric.shell.websocket import WebSocketConnection

RELAY_PATH = "/v1/relay"
CONNECT_S = 10.0
RETRY_S = 0.25
RETRY_LIMIT_S = 30.0
STEADY_S = 10.0
"""A connection that stood this long is opened again at once; one that did not only adds to the pause."""
STALL_S = 10.0
"""A message that can't be written for so long has nobody who reads."""
STALE_S = 0.1
"""A frame that waited longer is sent again by whoever misses it: late and twice is worse than never."""
OUTBOX_BYTES = 256 << 10
"""A fifth of a second at 10 Mbit/s: no frame that is behind more is sent in time."""
MAX_MESSAGE_BYTES = 9216 + RELAYED_HEADER_BYTES
"""Jumbo frames, as the relay has it."""
BATCH = 64
"""Messages that leave as one: what the pump hands over at once."""
WAITING_MESSAGES = 64
"""Read ahead: as many as the pump takes from a socket at once."""

_log = Log("fabric.relay")

Deliver = Callable[[list[tuple[bytes, Target]]], None]
HandleLink = Callable[[Address, bool], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What every link is opened with. `check` proves a TLS certificate (DER) for a host beyond what TLS does, or
    raises `CertificateError`; `jitter` returns a number from 0 to 1."""

    context: ssl.SSLContext
    check: Callable[[bytes, str], object]
    jitter: Callable[[], float]
    outlet: Outlet = DIRECT


class RelayLinks:
    """Answers `RelayLinkWanted` and `RelayLinkUnwanted`.

    `handle_link(relay, up)` hears whenever a link stands or no longer does; `deliver` takes what came, unwrapped, with
    the relay and the channel as its source. `drops` counts what went no further, until the caller takes it.
    """

    def __init__(self, terms: Terms, handle_link: HandleLink, deliver: Deliver) -> None:
        self._terms = terms
        self._handle_link = handle_link
        self._deliver = deliver
        self._links: dict[tuple[str, int], _Link] = {}
        self._waiting: list[_Link] = []
        self._nursery: trio.Nursery | None = None
        self.drops: Counter[Drop] = Counter()

    def want(self, place: RelayPlace, relay: Address) -> None:
        """Opens a link to the relay at `place` and keeps it open; `relay` is its name here."""
        key = (relay.ip, relay.port)
        if key in self._links:
            return
        link = self._links[key] = _Link(place, relay, self._terms, self._handle_link, self._deliver, self.drops)
        if self._nursery is None:
            self._waiting.append(link)
        else:
            self._nursery.start_soon(link.run)

    def unwant(self, relay: Address) -> None:
        """Closes it; `handle_link` is not called any more."""
        link = self._links.pop((relay.ip, relay.port), None)
        if link is not None:
            link.end()

    def send(self, payload: bytes, target: Target) -> bool:
        """Queues a datagram for (ip, port, RELAY_TLS, channel), or the relay itself where the channel is 0.

        Never waits. Returns whether there was a link to take it; else it is counted as `NO_PATH`.
        """
        link = self._links.get(target[:2])
        if link is None or link.outbox is None:
            self.drops[Drop.NO_PATH] += 1
            return False
        channel = target[3] if len(target) == 4 else 0
        link.outbox.put(wrap_relayed(channel, payload) if channel else payload, is_frame=channel != 0)
        return True

    def handle_moved(self, own: Collection[str]) -> None:
        """The own IP addresses are these now: a link from another is dead, and every pause is over."""
        for link in self._links.values():
            link.handle_moved(own)

    def why(self, relay: Address) -> str:
        """Why there is no link, for a person; empty while there is one, or none is wanted."""
        link = self._links.get((relay.ip, relay.port))
        return link.why if link is not None else ""

    async def run(self) -> None:
        """Keeps the links open for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for link in self._waiting:
                nursery.start_soon(link.run)
            self._waiting.clear()
            await trio.sleep_forever()


class _Outbox:
    """Messages for one link with the time at which each was put in: the oldest leaves first, or gives way."""

    def __init__(self, drops: Counter[Drop]) -> None:
        self._drops = drops
        self._messages: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._filled = trio.Event()

    def put(self, message: bytes, *, is_frame: bool) -> None:
        """What is no frame doesn't become stale: core asks again by its own clock."""
        self._messages.append((trio.current_time() + STALE_S if is_frame else float("inf"), message))
        self._bytes += len(message)
        while self._bytes > OUTBOX_BYTES:
            self._drop_oldest()
        self._filled.set()

    async def get_batch(self) -> list[bytes]:
        """Returns what waits, at least one message."""
        while True:
            batch: list[bytes] = []
            now = trio.current_time()
            while self._messages and len(batch) < BATCH:
                if self._messages[0][0] >= now:
                    batch.append(self._take())
                else:
                    self._drop_oldest()
            if batch:
                return batch
            self._filled = trio.Event()
            await self._filled.wait()

    def _take(self) -> bytes:
        _, message = self._messages.popleft()
        self._bytes -= len(message)
        return message

    def _drop_oldest(self) -> None:
        self._take()
        self._drops[Drop.BACKPRESSURE] += 1


class _Link:
    """One relay. `outbox` is there while the link stands."""

    def __init__(
        self,
        place: RelayPlace,
        relay: Address,
        terms: Terms,
        handle_link: HandleLink,
        deliver: Deliver,
        drops: Counter[Drop],
    ) -> None:
        self._place = place
        self._relay = relay
        self._terms = terms
        self._handle_link = handle_link
        self._deliver = deliver
        self._drops = drops
        self._life = trio.CancelScope()
        self._try_scope = trio.CancelScope()
        self._moved = trio.Event()
        self._pause_s = RETRY_S
        self._local_ip = ""
        self._is_wanted = True
        self.outbox: _Outbox | None = None
        self.why = "not tried yet"

    def end(self) -> None:
        self._is_wanted = False
        self.outbox = None
        self._life.cancel()

    def handle_moved(self, own: Collection[str]) -> None:
        self._pause_s = RETRY_S
        self._moved.set()
        if self.outbox is None or self._local_ip not in own:
            self._try_scope.cancel()

    async def run(self) -> None:
        with self._life:
            await load("fabric.shell.websocket")
            while True:
                self._try_scope = trio.CancelScope()
                with self._try_scope:
                    await self._try()
                await self._rest()

    async def _rest(self) -> None:
        self._moved = trio.Event()
        with trio.move_on_after(self._pause_s * (0.5 + self._terms.jitter())):
            await self._moved.wait()
        self._pause_s = min(self._pause_s * 2, RETRY_LIMIT_S)

    async def _try(self) -> None:
        from fabric.shell.websocket import EXPECTED, first_of, said

        opened = trio.current_time()
        try:
            await self._serve()
        except* EXPECTED as errors:
            self.why = f"{self._place.host}: {said(first_of(errors))}"
            _log.debug("no link to the relay", relay=self._place.host, why=self.why)
        finally:
            if self.outbox is not None:
                self.outbox = None
                if trio.current_time() - opened >= STEADY_S:
                    self._pause_s = RETRY_S
                self._handle_link(self._relay, False)

    async def _serve(self) -> None:
        from fabric.shell.websocket import wrap_client_stream

        async with trio.open_nursery() as nursery:
            with trio.fail_after(CONNECT_S):
                tls = await self._connect()
                try:
                    await tls.do_handshake()
                    self._terms.check(bytes(tls.getpeercert(binary_form=True) or b""), self._place.host)
                    bundled = _Bundled(tls)
                    socket = await wrap_client_stream(
                        nursery,
                        bundled,  # type: ignore[arg-type]  # any stream will do: it is only read from and written to
                        self._authority,
                        RELAY_PATH,
                        message_queue_size=WAITING_MESSAGES,
                        max_message_size=MAX_MESSAGE_BYTES,
                        receive_buffer_size=None,
                    )
                except BaseException:
                    await trio.aclose_forcefully(tls)
                    raise
            try:
                await self._talk(nursery, socket, bundled)
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(tls)

    @property
    def _authority(self) -> str:
        host, port = self._place.host, self._place.tls_port
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _connect(self) -> trio.SSLStream[trio.SocketStream]:
        host = self._place.host
        tcp = await self._terms.outlet.connect(host, self._place.tls_port)
        self._local_ip = str(tcp.socket.getsockname()[0])
        return trio.SSLStream(tcp, self._terms.context, server_hostname=host, https_compatible=True)

    async def _talk(self, nursery: trio.Nursery, socket: WebSocketConnection, bundled: _Bundled) -> None:
        outbox = self.outbox = _Outbox(self._drops)
        self.why = ""
        _log.debug("link to the relay opened", relay=self._place.host)
        nursery.start_soon(_write, socket, bundled, outbox)
        self._handle_link(self._relay, True)
        ip, port = self._relay.ip, self._relay.port
        receive, deliver = socket.get_message, self._deliver
        while True:
            message = await receive()
            try:
                channel, payload = _unwrap_untrusted(message)
            except DecodeError:
                self._drops[Drop.MALFORMED] += 1
                continue
            if self._is_wanted:
                deliver([(payload, (ip, port, Transport.RELAY_TLS, channel))])


class _Bundled(trio.abc.Stream):
    """A stream that can hold back what is sent until a whole batch is there: one TLS record and one system call for
    many messages, each of which the WebSocket writes by itself.

    Its reader answers pings and closes meanwhile, and knows nothing of a batch that is on its way: one at a time.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._held: list[bytes] | None = None
        self._turn = trio.StrictFIFOLock()

    def hold(self) -> None:
        self._held = []

    async def release(self) -> None:
        held, self._held = self._held, None
        if held:
            await self._send(b"".join(held))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._held is None:
            await self._send(data)
        else:
            self._held.append(bytes(data))
            await trio.lowlevel.checkpoint_if_cancelled()

    async def wait_send_all_might_not_block(self) -> None:
        async with self._turn:
            await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        async with self._turn:
            await self._stream.send_all(data)


async def _write(socket: WebSocketConnection, bundled: _Bundled, outbox: _Outbox) -> None:
    while True:
        batch = await outbox.get_batch()
        with trio.fail_after(STALL_S):
            bundled.hold()
            for message in batch:
                await socket.send_message(message)
            await bundled.release()


def _unwrap_untrusted(message: bytes | str) -> tuple[int, bytes]:
    """Returns channel, 0 for the relay's own word, and payload. Raises `DecodeError`."""
    if isinstance(message, str) or not message:
        raise DecodeError("no datagram")
    if message[0] == RELAY_CONTROL_TYPE:
        return 0, message
    return unwrap_relayed(message)
