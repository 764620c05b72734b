"""One side of a pair at a real relay on loopback, over UDP or over a WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from fabric.crypto.signature import LABEL_RELAY, Ed25519Signer
from fabric.identity.grant import grant_id
from fabric.wire.datagram import DATA_TYPE
from fabric.wire.relay import (
    NO_COOKIE,
    NO_SIGNATURE,
    Bind,
    Bound,
    Challenge,
    Refresh,
    RelayMessage,
    decode_relay_message,
    encode_relay_message,
    unwrap_relayed,
    wrap_relayed,
)
from fabric.wire.rendezvous import Granted, Introduction
from tests.discovery.guest import NETWORK, PATIENCE_S, Guest, House

HELLO = bytes((DATA_TYPE,)) + b"hello, other side"


@dataclass
class Visitor:
    """Sends and receives by whatever way it was made with."""

    signer: Ed25519Signer
    grant: bytes
    send_raw: Callable[[bytes], Awaitable[None]]
    receive_raw: Callable[[], Awaitable[bytes]]
    channel: int = 0

    async def receive(self) -> bytes:
        with trio.fail_after(PATIENCE_S):
            return await self.receive_raw()

    async def ask(self, message: RelayMessage) -> RelayMessage:
        await self.send_raw(encode_relay_message(message))
        return decode_relay_message(await self.receive())

    async def try_bind(self) -> RelayMessage:
        challenge = await self.ask(Bind(NO_COOKIE, NO_SIGNATURE, self.grant))
        assert isinstance(challenge, Challenge)
        signature = self.signer.sign(LABEL_RELAY, NETWORK.encode(), challenge.cookie, grant_id(self.grant))
        return await self.ask(Bind(challenge.cookie, signature, self.grant))

    async def bind(self) -> None:
        bound = await self.try_bind()
        assert isinstance(bound, Bound), bound
        self.channel = bound.channel

    async def refresh(self) -> RelayMessage:
        return await self.ask(Refresh((self.channel,)))

    async def send(self, payload: bytes = HELLO) -> None:
        await self.send_raw(wrap_relayed(self.channel, payload))

    async def hear(self) -> bytes:
        """Returns the next payload on the own channel."""
        channel, payload = unwrap_relayed(await self.receive())
        assert channel == self.channel
        return payload


async def over_udp(house: House, signer: Ed25519Signer, grant: bytes, host: str = "127.0.0.1") -> Visitor:
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    udp = trio.socket.socket(family, trio.socket.SOCK_DGRAM)
    house.sockets.append(udp)
    await udp.connect((host, house.ports.stun))

    async def send(payload: bytes) -> None:
        await udp.send(payload)

    return Visitor(signer, grant, send, lambda: udp.recv(65_536))


async def over_websocket(house: House, signer: Ed25519Signer, grant: bytes, host: str = "127.0.0.1") -> Visitor:
    socket = await open_websocket(house, host)

    async def receive() -> bytes:
        message = await socket.get_message()
        assert isinstance(message, bytes)
        return message

    return Visitor(signer, grant, socket.send_message, receive)


async def open_websocket(house: House, host: str = "127.0.0.1") -> WebSocketConnection:
    tls = await house.connect(host)
    return await wrap_client_stream(house.nursery, tls, f"{host}:{house.ports.tcp}", "/v1/relay")


async def introduce(house: House, one: Guest, other: Guest) -> tuple[Granted, Granted]:
    """Returns what each is granted."""
    await one.state_intent(other.name)
    await other.state_intent(one.name)
    granted = []
    for guest in (one, other):
        while not isinstance(await guest.hear(), Introduction):
            pass
        message = await guest.hear()
        assert isinstance(message, Granted)
        granted.append(message)
    return granted[0], granted[1]
