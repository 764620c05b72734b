"""A real service on loopback and real clients of it, for tests: TLS, HTTP, WebSocket and UDP as they are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import httpx
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from discovery.cli.main import main
from discovery.shell.config import Config
from discovery.shell.daemon import Ports, serve
from discovery.shell.state import create_state, open_state
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_CONTROL_SERVER, Ed25519Signer, verify
from fabric.identity.bundle import make_bundle
from fabric.identity.certificate import decode_certificate
from fabric.identity.enrolment_key import EnrolmentKey, enrolment_proof
from fabric.identity.intent import NO_END, Intent, sign_intent
from fabric.identity.request import make_request
from fabric.identity.trust import Trust
from fabric.shell import clock
from fabric.shell.tls import context_under
from fabric.wire.rendezvous import (
    Authenticate,
    Challenge,
    EnrolmentAnswer,
    EnrolmentRefusal,
    EnrolmentRequest,
    PublishBundle,
    StateIntent,
    ToEndpoint,
    ToService,
    Welcome,
    decode_enrolment_outcome,
    decode_to_endpoint,
    encode_enrolment,
    encode_message,
)

NETWORK = "home"
PATIENCE_S = 10.0


@dataclass
class House:
    """A running service."""

    directory: Path
    ports: Ports
    root: bytes
    nursery: trio.Nursery
    streams: list[trio.SocketStream] = field(default_factory=list)
    """Of clients, closed at the end."""
    sockets: list[trio.socket.SocketType] = field(default_factory=list)
    """The same over UDP."""

    def command(self, *words: str) -> int:
        """Runs `discoveryd` on the same state, as another process would."""
        return main([*words, "--state", str(self.directory)])

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports.tcp}"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(verify=context_under(self.root), trust_env=False, base_url=self.url)

    async def connect(self, host: str = "127.0.0.1") -> trio.SSLStream[trio.SocketStream]:
        tcp = await trio.open_tcp_stream(host, self.ports.tcp)
        self.streams.append(tcp)
        tls = trio.SSLStream(tcp, context_under(self.root), server_hostname=host, https_compatible=True)
        await tls.do_handshake()
        return tls

    async def enrol(self, key: EnrolmentKey, name: str, seed: bytes) -> EnrolmentAnswer | EnrolmentRefusal:
        tls = await self.connect()
        certificate = tls.getpeercert(binary_form=True)
        await trio.aclose_forcefully(tls)
        request = make_request(seed, name)
        body = encode_enrolment(
            EnrolmentRequest(key.key_id, request, enrolment_proof(key.secret, request, certificate))
        )
        async with self.client() as client:
            response = await client.post("/v1/enrol", content=body)
        return decode_enrolment_outcome(response.status_code, response.content)

    async def guest(self, key: EnrolmentKey, name: str) -> Guest:
        """An enrolled endpoint with an open channel and a published bundle."""
        return await self.guest_with(key, name, os.urandom(32))

    async def guest_with(self, key: EnrolmentKey, name: str, seed: bytes) -> Guest:
        answer = await self.enrol(key, name, seed)
        assert isinstance(answer, EnrolmentAnswer), answer
        guest = Guest(self, seed, answer)
        await guest.connect()
        return guest


@asynccontextmanager
async def open_house(directory: Path, config: Config | None = None) -> AsyncIterator[House]:
    """Sets a service up in `directory`, unless one is there, and runs it."""
    if not await trio.Path(directory).exists():
        create_state(directory, NETWORK, ["127.0.0.1", "::1"], IPv4Network("100.64.0.0/10"))
    config = config or Config(port=0, stun_port=0, listen=("127.0.0.1", "::1"))
    streams: list[trio.SocketStream] = []
    sockets: list[trio.socket.SocketType] = []
    try:
        with open_state(directory) as state:
            async with trio.open_nursery() as nursery:
                ports: Ports = await nursery.start(serve, state, config)
                yield House(directory, ports, state.root.der, nursery, streams, sockets)
                nursery.cancel_scope.cancel()
    finally:
        for stream in streams:
            stream.socket.close()
        for udp in sockets:
            udp.close()


@dataclass
class Guest:
    """An endpoint of the real service."""

    house: House
    seed: bytes = field(repr=False)
    answer: EnrolmentAnswer
    socket: WebSocketConnection | None = None

    def __post_init__(self) -> None:
        self.signer = Ed25519Signer(self.seed)
        self.certificate = decode_certificate(self.answer.certificate)
        self.name = self.certificate.name
        self.bundle, _ = make_bundle(self.signer, self.name, os.urandom, self.unix, None)

    @property
    def unix(self) -> float:
        return clock.now() + clock.wall_offset()

    async def open(self) -> tuple[Challenge, bytes]:
        """Opens the WebSocket; returns the challenge and the TLS certificate."""
        tls = await self.house.connect()
        self.socket = await wrap_client_stream(
            self.house.nursery, tls, f"127.0.0.1:{self.house.ports.tcp}", "/v1/channel"
        )
        challenge = await self.hear()
        assert isinstance(challenge, Challenge)
        return challenge, tls.getpeercert(binary_form=True)

    async def connect(self) -> Welcome:
        challenge, tls_certificate = await self.open()
        nonce = os.urandom(32)
        hashes = blake2b_256(tls_certificate), blake2b_256(self.certificate.der)
        fields = NETWORK.encode(), challenge.nonce, nonce, *hashes
        await self.say(Authenticate(self.certificate.der, nonce, self.signer.sign(LABEL_CONTROL_CLIENT, *fields)))
        welcome = await self.hear()
        assert isinstance(welcome, Welcome)
        service = Trust(self.house.root, NETWORK, None).check_service(tls_certificate, "127.0.0.1", self.unix)
        verify(service.public_key, LABEL_CONTROL_SERVER, welcome.signature, *fields)
        await self.say(PublishBundle(self.bundle))
        return welcome

    async def say(self, message: ToService) -> None:
        assert self.socket is not None
        await self.socket.send_message(encode_message(message))

    async def hear(self) -> ToEndpoint:
        assert self.socket is not None
        with trio.fail_after(PATIENCE_S):
            data = await self.socket.get_message()
        assert isinstance(data, bytes)
        return decode_to_endpoint(data)

    async def until_closed(self) -> None:
        """Hears what there is to be heard, until the service ends the channel."""
        with suppress(ConnectionClosed):
            while True:
                await self.hear()

    async def state_intent(self, peer: str) -> None:
        unix = self.unix
        await self.say(StateIntent(sign_intent(self.signer, Intent(NETWORK, self.name, peer, unix, unix, NO_END))))
