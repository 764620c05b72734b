"""The STUN server on real sockets: against clients and a server that others wrote, and against floods."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from discovery.core.limits import Rate, SourceBuckets
from discovery.shell import stun_doors
from discovery.shell.config import Config
from discovery.shell.listen import open_listeners
from discovery.shell.stun import StunServer, own_ips
from discovery.shell.stun_tcp import PER_SOURCE, StunTcpServer
from fabric.shell import clock
from fabric.wire.address import Address
from fabric.wire.stun import (
    BindingError,
    BindingSuccess,
    binding_request,
    decode_binding_response,
    decode_binding_success,
)
from tests.discovery.guest import open_house

PATIENCE_S = 10.0
GENEROUS = Rate(1000.0, 1000.0)


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"NOT CHECKED against a foreign {program}: apt-get install {package}"
    )


@asynccontextmanager
async def stun_server(
    rate: Rate = GENEROUS, *listen: str, ips: Sequence[str] = ()
) -> AsyncIterator[tuple[StunServer, int]]:
    sockets = open_listeners(listen or ("127.0.0.1", "::1"), 0, socket.SOCK_DGRAM)
    alternates = open_listeners(listen or ("127.0.0.1", "::1"), 0, socket.SOCK_DGRAM)
    server = StunServer(sockets, SourceBuckets(rate), clock.now, alternates, ips)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            yield server, sockets[0].getsockname()[1]
            nursery.cancel_scope.cancel()
    finally:
        for udp in (*sockets, *alternates):
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


async def wish(
    udp: trio.socket.SocketType, host: str, port: int, **wishes: int
) -> tuple[BindingSuccess | BindingError, tuple[str, int]]:
    """Returns the answer to a request with wishes, and where it came from."""
    with trio.fail_after(PATIENCE_S):
        await udp.sendto(binding_request(os.urandom(12), **wishes), (host, port))  # type: ignore[arg-type]
        answer, source = await udp.recvfrom(2048)
    return decode_binding_response(answer), (source[0], source[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("listen", [(), ("0.0.0.0", "::")])
async def test_the_other_port_is_named_and_answers_when_it_is_wished(host: str, listen: tuple[str, ...]) -> None:
    async with stun_server(GENEROUS, *listen) as (_, port), asker(host) as udp:
        plain, _ = await wish(udp, host, port)
        assert isinstance(plain, BindingSuccess)
        assert plain.other is not None
        assert plain.other.ip == host
        changed, source = await wish(udp, host, port, change_port=True)
        assert isinstance(changed, BindingSuccess)
        assert source == (host, plain.other.port)
        assert changed.address == Address(host, udp.getsockname()[1])
        _, source = await wish(udp, host, plain.other.port, change_port=True)
        assert source == (host, port)


async def test_another_ip_is_refused_where_there_is_none() -> None:
    async with stun_server() as (_, port), asker() as udp:
        refused, source = await wish(udp, "127.0.0.1", port, change_ip=True)
        assert isinstance(refused, BindingError)
        assert refused.code == 420
        assert source == ("127.0.0.1", port)


@pytest.mark.parametrize("listen", [("127.0.0.1", "127.0.0.7"), ("0.0.0.0",)])
async def test_another_ip_answers_where_the_host_has_two(listen: tuple[str, ...]) -> None:
    async with stun_server(GENEROUS, *listen, ips=("127.0.0.1", "127.0.0.7", "::1")) as (_, port), asker() as udp:
        plain, source = await wish(udp, "127.0.0.1", port)
        assert isinstance(plain, BindingSuccess)
        assert plain.other is not None
        assert plain.other.ip == "127.0.0.7"
        assert source == ("127.0.0.1", port)
        _, source = await wish(udp, "127.0.0.1", port, change_ip=True, change_port=True)
        assert source == ("127.0.0.7", plain.other.port)
        _, source = await wish(udp, "127.0.0.7", port, change_ip=True)
        assert source == ("127.0.0.1", port)


def test_only_ips_of_this_host_are_answered_from() -> None:
    assert own_ips(["127.0.0.1", "192.0.2.1", "0.0.0.0", "discovery.example", "::1"]) == ["127.0.0.1", "::1"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_answer_goes_to_another_port_of_the_asker(host: str) -> None:
    async with stun_server() as (_, port), asker(host) as udp, asker(host) as other:
        request = binding_request(os.urandom(12), response_port=other.getsockname()[1])
        await udp.sendto(request, (host, port))
        with trio.fail_after(PATIENCE_S):
            answer, source = await other.recvfrom(2048)
        assert source[:2] == (host, port)
        assert decode_binding_success(answer).address == Address(host, udp.getsockname()[1])
        assert len(answer) <= 3 * len(request)


@asynccontextmanager
async def tcp_server(idle_s: float = 60.0, rate: Rate = GENEROUS) -> AsyncIterator[tuple[StunTcpServer, int, int]]:
    sockets = open_listeners(("127.0.0.1",), 0, socket.SOCK_STREAM)
    alternates = open_listeners(("127.0.0.1",), 0, socket.SOCK_STREAM)
    server = StunTcpServer(SourceBuckets(rate), clock.now, idle_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, sockets, alternates)
        yield server, sockets[0].getsockname()[1], alternates[0].getsockname()[1]
        nursery.cancel_scope.cancel()


async def receive_answer(stream: trio.SocketStream) -> bytes:
    received = b""
    with trio.fail_after(PATIENCE_S):
        while len(received) < 4 or len(received) < 20 + int.from_bytes(received[2:4]):
            more = await stream.receive_some(1)
            if not more:
                return received
            received += more
    return received


async def test_a_connection_learns_where_it_is_seen_from_as_often_as_it_asks() -> None:
    async with tcp_server() as (_, port, other_port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            own = Address(*stream.socket.getsockname())
            for cut in (1, 3, 20, 27):  # wherever TCP cuts it
                request = binding_request(os.urandom(12))
                await stream.send_all(request[:cut])
                await stream.send_all(request[cut:])
                success = decode_binding_success(await receive_answer(stream))
                assert success.address == own
                assert success.other == Address("127.0.0.1", other_port)
            await stream.send_all(binding_request(bytes(12)) * 2)
            assert await receive_answer(stream)
            assert await receive_answer(stream)


@pytest.mark.parametrize("wishes", [{"change_port": True}, {"change_ip": True}, {"response_port": 53}])
async def test_over_tcp_an_answer_only_goes_back(wishes: dict[str, int]) -> None:
    async with tcp_server() as (_, port, _other), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(binding_request(os.urandom(12), **wishes))  # type: ignore[arg-type]
        refused = decode_binding_response(await receive_answer(stream))
        assert isinstance(refused, BindingError)
        assert refused.code == 420


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\n\r\n", b"\0\1\xff\xfc", b"\x01\x01\0\0" + bytes(16), b"\xff" * 5000]
)
async def test_noise_ends_a_connection(noise: bytes) -> None:
    async with tcp_server() as (server, port, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(noise)
        with trio.fail_after(PATIENCE_S):
            with suppress(trio.BrokenResourceError):  # reset, where it had sent more than was read
                assert await stream.receive_some(1) == b""
        assert server.counters["no_request"] == 1


@pytest.mark.parametrize("begun", [b"", binding_request(bytes(12))[:-1]])
async def test_a_silent_connection_is_ended(begun: bytes) -> None:
    async with tcp_server(idle_s=0.05) as (server, port, _), await trio.open_tcp_stream("127.0.0.1", port) as stream:
        if begun:
            await stream.send_all(begun)
        with trio.fail_after(PATIENCE_S):
            assert await stream.receive_some(1) == b""
        assert server.counters["idle"] == 1


async def test_requests_beyond_the_rate_end_the_connection() -> None:
    async with tcp_server(rate=Rate(0.001, 3.0)) as (server, port, _):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for _ in range(3):
                await stream.send_all(binding_request(bytes(12)))
                assert await receive_answer(stream)
            await stream.send_all(binding_request(bytes(12)))
            assert await receive_answer(stream) == b""
        assert server.counters["limited"] == 1


async def test_one_source_can_t_take_all_connections() -> None:
    async with tcp_server() as (server, port, _):
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(PER_SOURCE)]
        for stream in streams:
            await stream.send_all(binding_request(bytes(12)))
            assert await receive_answer(stream)
        async with await trio.open_tcp_stream("127.0.0.1", port) as late:
            with trio.fail_after(PATIENCE_S):
                assert await late.receive_some(1) == b""
        assert server.counters["connection_limit"] == 1
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("alternate_port", [3479, 0])
async def test_the_service_answers_on_all_its_ports(tmp_path: Path, alternate_port: int) -> None:
    config = Config(port=0, stun_port=0, stun_alternate_port=alternate_port, listen=("127.0.0.1", "::1"))
    async with open_house(tmp_path / "s", config) as house, asker() as udp:
        port = house.ports.stun
        plain, _ = await wish(udp, "127.0.0.1", port)
        assert isinstance(plain, BindingSuccess)
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(binding_request(os.urandom(12)))
            assert decode_binding_success(await receive_answer(stream)).other == plain.other
        if not alternate_port:
            assert plain.other is None
            return
        assert plain.other is not None
        _, source = await wish(udp, "127.0.0.1", port, change_port=True)
        assert source == ("127.0.0.1", plain.other.port)
        async with await trio.open_tcp_stream("127.0.0.1", plain.other.port) as stream:
            await stream.send_all(binding_request(os.urandom(12)))
            assert decode_binding_success(await receive_answer(stream)).other == Address("127.0.0.1", port)


async def test_ports_that_somebody_else_has_are_done_without(tmp_path: Path) -> None:
    taken = open_listeners(("127.0.0.1",), 0, socket.SOCK_DGRAM)[0]
    with taken, tcp_listener() as listener:
        alternate_port, port = taken.getsockname()[1], listener.getsockname()[1]
        config = Config(port=0, stun_port=port, stun_alternate_port=alternate_port, listen=("127.0.0.1",))
        async with open_house(tmp_path / "s", config), asker() as udp:
            plain, _ = await wish(udp, "127.0.0.1", port)
            assert isinstance(plain, BindingSuccess)
            assert plain.other is None


def test_a_drawn_port_is_free_for_both_transports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of this host hold ports for TCP only, such as connections that are over."""
    taken: list[socket.socket] = []

    def draw(addresses: Sequence[str], port: int, kind: socket.SocketKind) -> list[socket.socket]:
        drawn = open_listeners(addresses, port, kind)
        if kind is socket.SOCK_DGRAM and len(taken) < 2:
            with suppress(OSError):  # somebody has it: as good
                taken.append(socket.create_server(drawn[0].getsockname()))
        return drawn

    monkeypatch.setattr(stun_doors, "open_listeners", draw)
    config = Config(port=0, stun_port=0, listen=("127.0.0.1",))
    with ExitStack() as stack:
        doors = stun_doors.open_stun(stack, config, ())
        for one in taken:
            stack.enter_context(one)
        assert len(taken) == 2
        assert doors.port not in {one.getsockname()[1] for one in taken}
        for udp in doors.sockets:
            socket.create_connection(udp.getsockname()).close()


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


@needs("turnutils_natdiscovery", "coturn")
async def test_coturns_client_of_rfc_5780_tells_mapping_and_filtering() -> None:
    """Two IPs with two ports each; without a NAT in between everything is endpoint-independent."""
    async with stun_server(GENEROUS, "127.0.0.1", "127.0.0.7", ips=("127.0.0.1", "127.0.0.7")) as (_, port):
        said = await run_client("turnutils_natdiscovery", "-m", "-f", "-p", str(port), "127.0.0.1")
    assert "Endpoint Independent Filtering" in said, said
    assert "NAT with Endpoint Independent Mapping" in said or "No NAT" in said, said


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


@needs("turnserver", "coturn")
async def test_coturns_server_of_rfc_5780_fulfils_our_wishes(tmp_path: Path) -> None:
    port, ips = free_port(), ("127.0.0.1", "127.0.0.7")
    program = [  # -n: Debian's configuration file forbids RFC 5780
        *("turnserver", "-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--no-stdout-log", "--no-tcp"),
        *(word for ip in ips for word in ("--listening-ip", ip)),
        *("--relay-ip", "127.0.0.1", "--listening-port", str(port)),
        *("--pidfile", str(tmp_path / "pid"), "--log-file", str(tmp_path / "log"), "--userdb", str(tmp_path / "db")),
    ]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run_quietly(program))
        async with asker() as udp, asker() as second:
            with trio.fail_after(PATIENCE_S):
                while True:
                    with trio.move_on_after(0.3):
                        await ask(udp, ips[0], port)
                        break
            plain, _ = await wish(udp, ips[0], port)
            assert isinstance(plain, BindingSuccess)
            assert plain.other is not None
            assert plain.other.ip == ips[1]
            for ip, other_port in itertools.product((False, True), repeat=2):
                _, source = await wish(udp, ips[0], port, change_ip=ip, change_port=other_port)
                assert source == (ips[ip], plain.other.port if other_port else port)
            await udp.sendto(binding_request(bytes(12), response_port=second.getsockname()[1]), (ips[0], port))
            with trio.fail_after(PATIENCE_S):
                answer, source = await second.recvfrom(2048)
            assert source == (ips[0], port)
            assert decode_binding_success(answer).address.port == udp.getsockname()[1]
        process.terminate()


def run_quietly(program: list[str]) -> Callable[..., Awaitable[None]]:
    async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
        await trio.run_process(
            program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, task_status=task_status
        )

    return run


def tcp_listener() -> socket.socket:
    """Returns one on a port where UDP is free."""
    while True:
        listener = socket.create_server(("127.0.0.1", 0))
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(listener.getsockname())
        except OSError:
            listener.close()
        else:
            return listener


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
