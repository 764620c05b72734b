"""A relay over WebSocket: each binary message is what over UDP is one datagram."""

from __future__ import annotations

import trio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from discovery.shell import relay as relay_shell
from discovery.shell.caller import Caller
from discovery.shell.relay import RelayDriver, RelayLine

FAREWELL_S = 5.0
_FINAL_BINARY = 0x82
_TRY_AGAIN_LATER = 1013
_POLICY_VIOLATION = 1008


class RelayHandler:
    """Expects `Caller` under "caller" in the state of each scope."""

    def __init__(self, relay: RelayDriver) -> None:
        self._relay = relay

    async def serve(self, websocket: WebSocket) -> None:
        caller: Caller = websocket.scope["state"]["caller"]
        if "sec-websocket-extensions" in websocket.headers:
            await websocket.close()  # what is sealed does not compress, and a bomb would
            return
        line = self._relay.open(caller.source, caller.port, caller.asked)
        if line is None:
            await websocket.close(_TRY_AGAIN_LATER)
            return
        try:
            await websocket.accept()
            await self._serve_line(websocket, line, caller)
        except* (WebSocketDisconnect, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it went while something was being written
        finally:
            self._relay.close(line)

    async def _serve_line(self, websocket: WebSocket, line: RelayLine, caller: Caller) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write, caller, line)
            nursery.start_soon(self._end_when_unbound, line, nursery.cancel_scope)
            await self._read_untrusted(websocket, line, caller)
            nursery.cancel_scope.cancel()
        if websocket.client_state is WebSocketState.CONNECTED:
            with trio.move_on_after(FAREWELL_S):
                await websocket.close(_POLICY_VIOLATION)

    async def _read_untrusted(self, websocket: WebSocket, line: RelayLine, caller: Caller) -> None:
        """Returns when the other side ends it."""
        handle, receive = self._relay.handle_message_untrusted, websocket.receive
        while True:
            received = await receive()
            caller.unread = 0
            if received["type"] == "websocket.disconnect":
                return
            handle(line, received.get("bytes") or b"")

    async def _end_when_unbound(self, line: RelayLine, ends: trio.CancelScope) -> None:
        """A stranger holds a connection no longer than this, nor an endpoint that has nothing to forward."""
        while True:
            await trio.sleep(relay_shell.UNBOUND_S)
            if not self._relay.is_bound(line):
                ends.cancel()


async def _write(caller: Caller, line: RelayLine) -> None:
    """Frame by frame through the server costs ten times as much as the rest of the way."""
    while True:
        await caller.send(b"".join([part for payload in await line.get_batch() for part in _frame(payload)]))


def _frame(payload: bytes) -> tuple[bytes, bytes]:
    """Returns head and payload of one binary message from a server: RFC 6455 section 5.2."""
    length = len(payload)
    if length < 126:
        return bytes((_FINAL_BINARY, length)), payload
    return bytes((_FINAL_BINARY, 126)) + length.to_bytes(2), payload
