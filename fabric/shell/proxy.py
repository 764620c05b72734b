"""The way out to a host by TCP: straight, or through the HTTP proxy that the operator or the environment names.

    CONNECT relay.example:443 HTTP/1.1        RFC 9110 section 9.3.6
    Host: relay.example:443
    Proxy-Authorization: Basic ...            RFC 7617, where the proxy's URL has a user

The proxy resolves the host's name, sees TLS go by, and is trusted with nothing. Its password is in no log line.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import trio

from fabric.errors import ConfigurationError, DecodeError
from fabric.shell.host import check_host

DEFAULT_PORT = 80
"""Of a URL without one (RFC 9110 section 4.2.1)."""
MAX_HEAD_BYTES = 16_384
"""Of the proxy's answer: pages of refusal are longer, and are not read."""
_READ_BYTES = 4096
_CONNECTED = range(200, 300)
_REASONS = {
    401: "wants a user and a password",
    403: "forbids this host or port",
    405: "does not know CONNECT",
    407: "wants a user and a password, or takes not those that it was given",
    429: "says that there are too many requests",
    502: "can't reach the host",
    503: "can't reach the host",
    504: "gets no answer from the host",
}

T = TypeVar("T")


class ProxyError(OSError):
    """The proxy was reached, and did not let through. One sentence."""


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """`authorization` is the value of the header, if the proxy wants one."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return _host_and_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Outlet:
    """How hosts are reached: through `proxy`, except for those in `direct` (see `_is_direct`)."""

    proxy: HttpProxy | None = None
    direct: tuple[str, ...] = ()

    def proxy_for(self, host: str) -> HttpProxy | None:
        if self.proxy is None or _is_direct(host, self.direct):
            return None
        return self.proxy

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        """Returns a stream to the host. Raises `OSError`, `ProxyError` among them."""
        _check(host)
        proxy = self.proxy_for(host)
        if proxy is None:
            return await trio.open_tcp_stream(host, port)
        stream = await _reach(proxy)
        try:
            tunnel = _Tunnel(proxy, host, port)
            await stream.send_all(tunnel.request)
            while not tunnel.is_open:
                tunnel.receive(bytes(await stream.receive_some(_READ_BYTES)))
        except BaseException as error:
            await trio.aclose_forcefully(stream)
            if isinstance(error, trio.BrokenResourceError):
                raise ProxyError(f"the proxy {proxy} broke off") from None
            raise
        return stream

    def connect_blocking(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """As `connect`, for who has no event loop."""
        _check(host)
        proxy = self.proxy_for(host)
        if proxy is None:
            return socket.create_connection((host, port), timeout=timeout_s)
        try:
            tcp = socket.create_connection((proxy.host, proxy.port), timeout=timeout_s)
        except OSError as error:
            raise _unreachable(proxy, error) from None
        try:
            tunnel = _Tunnel(proxy, host, port)
            tcp.sendall(tunnel.request)
            while not tunnel.is_open:
                tunnel.receive(tcp.recv(_READ_BYTES))
        except BaseException:
            tcp.close()
            raise
        return tcp


DIRECT = Outlet()


def outlet_of(setting: str | None, environment: Mapping[str, str]) -> Outlet:
    """Returns the way out that `proxy` of config.toml sets (empty: none), or else the environment, as curl reads it:
    `https_proxy` before `all_proxy`, small letters before capitals, and `no_proxy` for exceptions.

    Raises `ConfigurationError` for a proxy that is no `http://` URL; its text may hold a password, and is not told.
    """
    named = setting if setting is not None else _first_of(environment, "https_proxy", "all_proxy")
    direct = _first_of(environment, "no_proxy").replace(",", " ").split()
    return Outlet(parse_proxy(named), tuple(direct)) if named else DIRECT


def parse_proxy(url: str) -> HttpProxy:
    """Takes `http://[user:password@]host[:port]`, the scheme may be left out. Raises `ConfigurationError`."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise ConfigurationError("the proxy's URL is damaged: write http://host:port") from None
    if parts.scheme != "http":
        raise ConfigurationError(f"a proxy of the kind {parts.scheme}:// can't be used: write http://host:port")
    try:
        host = check_host(parts.hostname or "")
    except DecodeError:
        raise ConfigurationError("the proxy's URL names no host: write http://host:port") from None
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode(errors="surrogateescape")).decode()
    return HttpProxy(host, DEFAULT_PORT if port is None else port, authorization)


class _Tunnel:
    """The exchange that opens a tunnel, without the I/O. Most endpoints have no proxy, and never load h11."""

    def __init__(self, proxy: HttpProxy, host: str, port: int) -> None:
        import h11

        self._proxy = proxy
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        target = _host_and_port(host, port)
        headers = [("Host", target)]
        if proxy.authorization is not None:
            headers.append(("Proxy-Authorization", proxy.authorization))
        opening = self._judged(lambda: self._http.send(h11.Request(method="CONNECT", target=target, headers=headers)))
        self.request = (opening or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        self.is_open = False

    def receive(self, data: bytes) -> None:
        """Takes bytes of the proxy's answer; empty ones are its end. Raises `ProxyError`."""
        import h11

        if not data:
            raise ProxyError(f"the proxy {self._proxy} broke off")
        self._judged(lambda: self._http.receive_data(data))
        while not self.is_open:
            event = self._judged(self._http.next_event)
            if isinstance(event, h11.Response):
                self._handle_status(event.status_code)
            elif event is h11.NEED_DATA:
                return
            elif not isinstance(event, h11.InformationalResponse):
                raise ProxyError(f"the proxy {self._proxy} broke off")

    def _handle_status(self, status: int) -> None:
        if status not in _CONNECTED:
            why = _REASONS.get(status, "refuses")
            raise ProxyError(f"the proxy {self._proxy} {why} (HTTP {status})")
        if self._http.trailing_data[0]:
            raise ProxyError(f"the proxy {self._proxy} speaks where the host should")
        self.is_open = True

    def _judged(self, step: Callable[[], T]) -> T:
        import h11

        try:
            return step()
        except h11.RemoteProtocolError:
            raise ProxyError(f"what answers at the proxy's address {self._proxy} is no HTTP proxy") from None
        except h11.LocalProtocolError:
            raise ProxyError("the host's name can't be told to a proxy") from None


def _check(host: str) -> None:
    try:
        check_host(host)
    except DecodeError as error:
        raise OSError(str(error)) from None


async def _reach(proxy: HttpProxy) -> trio.SocketStream:
    try:
        return await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as error:
        raise _unreachable(proxy, error) from None


def _unreachable(proxy: HttpProxy, error: OSError) -> ProxyError:
    cause = error.__cause__
    first = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else cause
    told = first if isinstance(first, OSError) else error
    return ProxyError(f"the proxy {proxy} can't be reached: {told.strerror or told}")


def _is_direct(host: str, direct: Sequence[str]) -> bool:
    """As curl reads `no_proxy`: `*`, a domain with all below it, an IP address, or a range of them."""
    name = host.lower().rstrip(".")
    for entry in direct:
        domain = entry.lower().strip(".").strip("[]")
        if entry == "*" or name == domain or name.endswith(f".{domain}") or _is_within(name, domain):
            return True
    return False


def _is_within(ip: str, cidr: str) -> bool:
    try:
        return "/" in cidr and ipaddress.ip_address(ip) in ipaddress.ip_network(cidr, strict=False)
    except ValueError:
        return False


def _first_of(environment: Mapping[str, str], *names: str) -> str:
    found = (environment.get(spelled, "") for name in names for spelled in (name, name.upper()))
    return next((text for text in found if text), "")


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
