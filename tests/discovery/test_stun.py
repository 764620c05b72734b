"""The STUN server on real sockets: against clients and a server that others wrote, and against floods."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from discovery.core.limits import Rate, SourceBuckets
from discovery.shell.listen import open_listeners
from discovery.shell.stun import StunServer
from fabric.shell import clock
from fabric.wire.address import Address
from fabric.wire.stun import binding_request, decode_binding_success

PATIENCE_S = 10.0
GENEROUS = Rate(1000.0, 1000.0)


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"NOT CHECKED against a foreign {program}: apt-get install {package}"
    )


@asynccontextmanager
async def stun_server(rate: Rate = GENEROUS, *listen: str) -> AsyncIterator[tuple[StunServer, int]]:
    sockets = open_listeners(listen or ("127.0.0.1", "::1"), 0, socket.SOCK_DGRAM)
    server = StunServer(sockets, SourceBuckets(rate), clock.now)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            yield server, sockets[0].getsockname()[1]
            nursery.cancel_scope.cancel()
    finally:
        for udp in sockets:
            udp.close()


@asynccontextmanager
async def asker(host: str = "127.0.0.1") -> AsyncIterator[trio.socket.SocketType]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as udp:
        await udp.bind((host, 0))
        yield udp


async def ask(udp: trio.socket.SocketType, host: str, port: int) -> Address:
    transaction = os.urandom(12)
    with trio.fail_after(PATIENCE_S):
        await udp.sendto(binding_request(transaction), (host, port))
        answer, source = await udp.recvfrom(2048)
    assert source[:2] == (host, port)
    success = decode_binding_success(answer)
    assert success.transaction_id == transaction
    return success.address


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_endpoint_learns_the_address_it_is_seen_from(host: str) -> None:
    async with stun_server() as (_, port), asker(host) as udp:
        assert await ask(udp, host, port) == Address(host, udp.getsockname()[1])


async def test_the_answer_comes_from_the_address_that_was_asked() -> None:
    """A wildcard socket would answer 127.0.0.5 from 127.0.0.1, and no NAT would let that pass."""
    async with stun_server(GENEROUS, "0.0.0.0", "::") as (_, port), asker("127.0.0.9") as udp:
        assert await ask(udp, "127.0.0.5", port) == Address("127.0.0.9", udp.getsockname()[1])


async def test_a_flood_from_one_source_is_not_answered_and_others_are() -> None:
    async with stun_server(Rate(0.001, 5.0)) as (server, port), asker() as flooder, asker("127.0.0.2") as other:
        for _ in range(50):
            await flooder.sendto(binding_request(os.urandom(12)), ("127.0.0.1", port))
        await ask(other, "127.0.0.1", port)
        answered = 0
        with trio.move_on_after(0.2):
            while True:
                await flooder.recvfrom(2048)
                answered += 1
        assert answered == 5
        assert server.counters["limited"] == 45


async def test_noise_is_met_with_silence() -> None:
    async with stun_server() as (server, port), asker() as udp:
        for noise in (b"", b"\0", os.urandom(60), os.urandom(5000), binding_request(bytes(12))[:-1]):
            await udp.sendto(noise, ("127.0.0.1", port))
        await ask(udp, "127.0.0.1", port)
        assert server.counters["no_request"] == 5


async def run_client(*words: str) -> str:
    with trio.fail_after(PATIENCE_S):
        done = await trio.run_process(
            list(words), capture_stdout=True, stderr=subprocess.STDOUT, check=False, stdin=subprocess.DEVNULL
        )
    return done.stdout.decode()


@needs("stun", "stun-client")
async def test_debians_stun_client_of_rfc_3489_finds_its_address() -> None:
    async with stun_server() as (_, port):
        said = await run_client("stun", f"127.0.0.1:{port}", "1", "-v")
    assert re.search(r"MappedAddress = 127\.0\.0\.1:\d+", said), said


@needs("turnutils_stunclient", "coturn")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_coturns_client_of_rfc_8489_finds_its_address(host: str) -> None:
    async with stun_server() as (_, port):
        said = await run_client("turnutils_stunclient", "-p", str(port), host)
    assert re.search(r"UDP reflexive addr: \[?" + re.escape(host) + r"\]?:\d+", said), said


@needs("turnserver", "coturn")
async def test_coturns_server_answers_our_request(tmp_path: Path) -> None:
    port = free_port()
    program = [
        *("turnserver", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--no-stdout-log", "--no-tcp"),
        *("--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--listening-port", str(port)),
        *("--pidfile", str(tmp_path / "pid"), "--log-file", str(tmp_path / "log"), "--userdb", str(tmp_path / "db")),
    ]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run_quietly(program))
        async with asker() as udp:
            address = None
            with trio.fail_after(PATIENCE_S):
                while address is None:
                    with trio.move_on_after(0.3):
                        address = await ask(udp, "127.0.0.1", port)
            assert address == Address("127.0.0.1", udp.getsockname()[1])
        process.terminate()


def run_quietly(program: list[str]) -> Callable[..., object]:
    async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
        await trio.run_process(
            program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, task_status=task_status
        )

    return run


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
