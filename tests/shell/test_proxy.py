"""The way out through an HTTP proxy: what the environment names, what is asked of it, what it may answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConfigurationError
from fabric.shell.proxy import DIRECT, HttpProxy, Outlet, ProxyError, _Tunnel, outlet_of, parse_proxy
from tests.shell.proxy_server import ConnectProxy, serve_proxy

PROXY = HttpProxy("proxy.example", 3128)


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_bytes_cross_the_proxy_to_a_host_that_only_it_can_resolve() -> None:
    async with echo() as port, serve_proxy(ConnectProxy({"inside.invalid": "127.0.0.1"})) as proxy:
        stream = await Outlet(parse_proxy(proxy.url)).connect("inside.invalid", port)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await stream.aclose()
        assert proxy.asked == [f"inside.invalid:{port}"]


async def test_who_has_no_event_loop_crosses_it_too() -> None:
    async with echo() as port, serve_proxy(ConnectProxy({"inside.invalid": "127.0.0.1"})) as proxy:
        outlet = Outlet(parse_proxy(proxy.url))

        def talk() -> bytes:
            with outlet.connect_blocking("inside.invalid", port, 5.0) as tcp:
                tcp.sendall(b"hello")
                return tcp.recv(100)

        assert await trio.to_thread.run_sync(talk) == b"hello"


async def test_a_user_and_a_password_are_shown() -> None:
    async with echo() as port, serve_proxy(ConnectProxy(authorization="Basic YW5uOnM6ZWNyZXQ=")) as proxy:
        known = parse_proxy(f"http://ann:s%3Aecret@127.0.0.1:{proxy.port}")
        await (await Outlet(known).connect("127.0.0.1", port)).aclose()
        with pytest.raises(ProxyError, match=r"wants a user and a password.*\(HTTP 407\)"):
            await Outlet(parse_proxy(proxy.url)).connect("127.0.0.1", port)


def test_a_password_is_never_told() -> None:
    proxy = parse_proxy("http://ann:secret@proxy.example:3128")
    assert proxy.authorization is not None
    for told in (repr(proxy), str(proxy), repr(Outlet(proxy))):
        assert "secret" not in told
        assert proxy.authorization not in told
    for url in ("socks5://ann:secret@proxy.example", "http://ann:secret@proxy.example:port", "http://ann:secret@"):
        with pytest.raises(ConfigurationError) as caught:
            parse_proxy(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 1000000\r\n\r\n", "forbids this host or port (HTTP 403)"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "can't reach the host (HTTP 502)"),
        (b"HTTP/1.0 418 Teapot\r\n\r\n", "refuses (HTTP 418)"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "is no HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "is no HTTP proxy"),
        (b"HTTP/1.1 200 OK\r\n\r\nand more", "speaks where the host should"),
        (b"", "broke off"),
        (b"HTTP/1.1 200 O", "broke off"),
    ],
)
async def test_what_is_no_tunnel_is_told_in_one_sentence(answer: bytes, why: str) -> None:
    async with serve_proxy(ConnectProxy(answer=answer)) as proxy:
        with pytest.raises(ProxyError) as caught:
            await Outlet(parse_proxy(proxy.url)).connect("relay.example", 443)
    assert why in str(caught.value)
    assert f"127.0.0.1:{proxy.port}" in str(caught.value)


async def test_a_proxy_that_is_not_there_is_blamed_itself() -> None:
    outlet = Outlet(HttpProxy("127.0.0.1", 9))
    with pytest.raises(ProxyError, match=r"^the proxy 127\.0\.0\.1:9 can't be reached: .*refused"):
        await outlet.connect("relay.example", 443)
    with pytest.raises(ProxyError, match=r"^the proxy 127\.0\.0\.1:9 can't be reached: .*refused"):
        outlet.connect_blocking("relay.example", 443, 5.0)


def test_an_interim_answer_is_passed_over() -> None:
    tunnel = _Tunnel(PROXY, "relay.example", 443)
    tunnel.receive(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200")
    assert not tunnel.is_open
    tunnel.receive(b" OK\r\n\r\n")
    assert tunnel.is_open


def test_what_is_asked_is_what_rfc_9110_says() -> None:
    assert _Tunnel(PROXY, "relay.example", 443).request == (
        b"CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\n\r\n"
    )
    assert _Tunnel(PROXY, "2001:db8::1", 443).request.startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n")


def test_a_host_s_name_can_t_forge_a_request() -> None:
    with pytest.raises(ProxyError):
        _Tunnel(PROXY, "relay.example:443 HTTP/1.1\r\nX: y\r\n\r\n", 443)


@given(st.binary(max_size=400), st.booleans())
def test_no_answer_does_more_than_open_or_fail(answer: bytes, begins_well: bool) -> None:
    tunnel = _Tunnel(PROXY, "relay.example", 443)
    try:
        tunnel.receive((b"HTTP/1.1 200 OK\r\n" if begins_well else b"") + answer)
        if not tunnel.is_open:
            tunnel.receive(b"")
    except ProxyError:
        pass
    else:
        assert tunnel.is_open


def test_the_environment_names_the_proxy_as_for_curl() -> None:
    assert outlet_of(None, {}) == DIRECT
    assert outlet_of(None, {"HTTPS_PROXY": "http://p.example:3128"}).proxy == HttpProxy("p.example", 3128)
    assert outlet_of(None, {"https_proxy": "p.example:1", "HTTPS_PROXY": "q.example:2"}).proxy == HttpProxy(
        "p.example", 1
    )
    assert outlet_of(None, {"ALL_PROXY": "http://p.example", "https_proxy": ""}).proxy == HttpProxy("p.example", 80)
    assert outlet_of(None, {"http_proxy": "http://p.example"}) == DIRECT
    assert outlet_of("", {"https_proxy": "http://p.example"}) == DIRECT
    assert outlet_of("http://[2001:db8::1]:8080", {"https_proxy": "http://p.example"}).proxy == HttpProxy(
        "2001:db8::1", 8080
    )


@pytest.mark.parametrize(
    ("host", "is_direct"),
    [
        ("relay.example", False),
        ("inside.example", True),
        ("a.inside.example", True),
        ("A.Inside.Example.", True),
        ("notinside.example", False),
        ("192.168.7.7", True),
        ("192.169.7.7", False),
        ("10.0.0.1", True),
        ("2001:db8::5", True),
        ("::1", True),
    ],
)
def test_exceptions_are_read_as_curl_reads_them(host: str, is_direct: bool) -> None:
    environment = {
        "https_proxy": "http://p.example",
        "NO_PROXY": ".inside.example, 192.168.0.0/16,10.0.0.1 2001:db8::/32,[::1]",
    }
    assert (outlet_of(None, environment).proxy_for(host) is None) is is_direct


def test_a_star_excepts_everything() -> None:
    assert outlet_of("http://p.example", {"no_proxy": "*"}).proxy_for("relay.example") is None


@pytest.mark.parametrize("url", ["http://a..b:80", "http://:80", "http://ann:secret@" + "a" * 64 + ":80"])
def test_a_proxy_whose_name_cannot_be_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no host") as caught:
        parse_proxy(url)
    assert "secret" not in str(caught.value)


def test_letters_of_another_encoding_in_a_password_are_sent_as_they_are() -> None:
    """The environment is bytes; what is no UTF-8 in it Python hands on as surrogates."""
    proxy = parse_proxy("http://ann:\udce4@proxy.example:80")
    assert proxy.authorization == "Basic YW5uOuQ="
