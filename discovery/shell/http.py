"""What the service serves over HTTPS: enrolment, the root certificate, and the WebSockets of channel and relay."""

from __future__ import annotations

from contextlib import aclosing

import trio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from discovery.shell.caller import Caller
from discovery.shell.driver import Line, ServiceDriver
from discovery.shell.relay import RelayDriver
from discovery.shell.relay_http import RelayHandler
from fabric.errors import DecodeError
from fabric.wire.rendezvous import (
    REFUSAL_STATUS,
    EnrolmentRefusal,
    decode_enrolment_request,
    encode_enrolment,
)

MAX_ENROLMENT_BYTES = 8192
MESSAGE_PACK = "application/msgpack"
BODY_S = 10.0
FAREWELL_S = 5.0
"""How long the last messages of a channel that is to be closed may take."""

_POLICY_VIOLATION = 1008
_NORMAL = 1000


def make_application(driver: ServiceDriver, relay: RelayDriver | None = None) -> Starlette:
    """Expects `Caller` under "caller" in the state of each scope."""
    handlers = _Handlers(driver)
    routes: list[BaseRoute] = [
        Route("/v1/enrol", handlers.enrol, methods=["POST"]),
        Route("/v1/authority", handlers.authority, methods=["GET"]),
        WebSocketRoute("/v1/channel", handlers.channel),
    ]
    return Starlette(routes=routes + ([] if relay is None else [relay_route(relay)]))


def make_relay_application(relay: RelayDriver) -> Starlette:
    """What a relay alone serves."""
    return Starlette(routes=[relay_route(relay)])


def relay_route(relay: RelayDriver) -> WebSocketRoute:
    return WebSocketRoute("/v1/relay", RelayHandler(relay).serve)


class _Handlers:
    def __init__(self, driver: ServiceDriver) -> None:
        self._driver = driver

    async def enrol(self, request: Request) -> Response:
        try:
            with trio.fail_after(BODY_S):
                body = await _body(request)
            decoded = decode_enrolment_request(body)
        except trio.TooSlowError:
            return Response(status_code=408)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except DecodeError as error:
            return _enrolment(EnrolmentRefusal("request", f"The enrolment request can't be read: {error}."))
        caller: Caller = request.scope["state"]["caller"]
        return _enrolment(self._driver.enrol(decoded, caller.source, caller.identity))

    async def authority(self, _request: Request) -> Response:
        return Response(self._driver.service.authority_der, media_type="application/pkix-cert")

    async def channel(self, websocket: WebSocket) -> None:
        caller: Caller = websocket.scope["state"]["caller"]
        if "sec-websocket-extensions" in websocket.headers:
            # Compression would let a stranger's kilobyte become a megabyte here; endpoints offer none.
            await websocket.close()
            return
        await websocket.accept()
        line = self._driver.open(caller.source, caller.identity)
        try:
            await self._serve_channel(websocket, line, caller)
        except* WebSocketDisconnect:
            pass  # it went while something was being written
        finally:
            self._driver.close(line)

    async def _serve_channel(self, websocket: WebSocket, line: Line, caller: Caller) -> None:
        """Reads and writes until either has reason to end, and says why."""
        farewell = _NORMAL
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, websocket, line, nursery.cancel_scope)
            try:
                await self._read_untrusted(websocket, line, caller)
            except DecodeError:
                farewell = _POLICY_VIOLATION
            nursery.cancel_scope.cancel()
        if websocket.client_state is WebSocketState.CONNECTED:
            with trio.move_on_after(FAREWELL_S):
                await websocket.close(farewell)

    async def _read_untrusted(self, websocket: WebSocket, line: Line, caller: Caller) -> None:
        """Returns when the other side ends the channel. Raises `DecodeError` where what came is no message."""
        while True:
            received = await websocket.receive()
            caller.unread = 0
            if received["type"] == "websocket.disconnect":
                return
            pause_s = self._driver.handle_message_untrusted(line, received.get("bytes") or b"")
            await trio.sleep(pause_s)


async def _write(websocket: WebSocket, line: Line, channel: trio.CancelScope) -> None:
    """Writes until the driver hangs up, and ends the channel then."""
    async for message in line.inbox:
        await websocket.send_bytes(message)
    channel.cancel()


async def _body(request: Request) -> bytes:
    """Raises `DecodeError` as soon as it is too long."""
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_ENROLMENT_BYTES:
                raise DecodeError(f"it has more than {MAX_ENROLMENT_BYTES} bytes")
    return bytes(body)


def _enrolment(outcome: object) -> Response:
    status = REFUSAL_STATUS[outcome.code] if isinstance(outcome, EnrolmentRefusal) else 200
    return Response(encode_enrolment(outcome), status_code=status, media_type=MESSAGE_PACK)  # type: ignore[arg-type]
