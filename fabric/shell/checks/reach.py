"""How long a name, a TCP connection and a TLS handshake take, and what is said where they fail."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import trio

from fabric.errors import DecodeError
from fabric.shell.host import split_host
from fabric.shell.proxy import DIRECT, Outlet, ProxyError

LOOKUP_S = 2.5
CONNECT_S = 2.5
"""A person waits for the sum of both: longer than a connection across the world takes, with one packet lost."""
MAX_IPS = 4

_EXPECTED = (OSError, trio.TooSlowError, trio.BrokenResourceError, ssl.CertificateError, DecodeError)


@dataclass(frozen=True, slots=True)
class Reached:
    """Seconds until the TCP connection stood, and from there until TLS did; None with `why` for what did not.
    `ip` is the host's name where a proxy looked it up."""

    ip: str
    port: int
    tcp_s: float | None = None
    tls_s: float | None = None
    why: str = ""
    is_refused: bool = False

    @property
    def place(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


Outcomes = dict[tuple[str, int], list[Reached]]


def is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def split_all(places: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Yields host and port of each "host:port". The service has named some: what is none is left out."""
    for place in places:
        try:
            yield split_host(place)
        except DecodeError:
            continue


async def resolve(host: str) -> tuple[str, ...]:
    """Returns the IP addresses of a name, at most `MAX_IPS`; none where it has none, or nobody answers in time."""
    if is_ip(host):
        return (host,)
    with trio.move_on_after(LOOKUP_S):
        try:
            answers = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            return ()
        return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))[:MAX_IPS]
    return ()


async def connect_all(
    places: Iterable[tuple[str, int]], context: ssl.SSLContext | None = None, outlet: Outlet = DIRECT
) -> Outcomes:
    """Connects at once to every IP address of every (host, port); no outcome at all for a host that has none.

    A host that is behind the outlet's proxy is the proxy's to look up.
    """
    outcomes: Outcomes = {place: [] for place in places}

    async def look(host: str, port: int) -> None:
        if outlet.proxy_for(host) is not None:
            outcomes[host, port].append(await _connect_through(outlet, host, port, context))
            return
        async with trio.open_nursery() as nursery:
            for ip in await resolve(host):
                nursery.start_soon(note, ip, host, port)

    async def note(ip: str, host: str, port: int) -> None:
        outcomes[host, port].append(await connect(ip, port, context, host))

    async with trio.open_nursery() as nursery:
        for host, port in outcomes:
            nursery.start_soon(look, host, port)
    return outcomes


async def connect(ip: str, port: int, context: ssl.SSLContext | None = None, host: str = "") -> Reached:
    """Opens a TCP connection, with `context` TLS to `host` over it too, and closes it again."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    started = trio.current_time()
    tcp_s: float | None = None
    try:
        with trio.socket.socket(family, socket.SOCK_STREAM) as tcp, trio.fail_after(CONNECT_S):
            await tcp.connect((ip, port))
            tcp_s = trio.current_time() - started
            if context is None:
                return Reached(ip, port, tcp_s)
            tls_s = await _shake_hands(trio.SocketStream(tcp), context, host or ip)
            return Reached(ip, port, tcp_s, tls_s)
    except _EXPECTED as error:
        return Reached(ip, port, tcp_s, None, _why(error), isinstance(error, ConnectionRefusedError))


async def _connect_through(outlet: Outlet, host: str, port: int, context: ssl.SSLContext | None) -> Reached:
    """The time of TCP is that to the proxy, and of its way to the host."""
    started = trio.current_time()
    tcp_s: float | None = None
    try:
        with trio.fail_after(CONNECT_S):
            stream = await outlet.connect(host, port)
            tcp_s = trio.current_time() - started
            async with stream:
                tls_s = None if context is None else await _shake_hands(stream, context, host)
            return Reached(host, port, tcp_s, tls_s)
    except _EXPECTED as error:
        return Reached(host, port, tcp_s, None, _why(error))


async def _shake_hands(stream: trio.SocketStream, context: ssl.SSLContext, host: str) -> float:
    started = trio.current_time()
    tls = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await tls.do_handshake()
        return trio.current_time() - started
    finally:
        await trio.aclose_forcefully(tls)


def _why(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    match cause:
        case trio.TooSlowError():
            return "no answer"
        case ssl.SSLCertVerificationError():
            return f"the certificate there is not this network's ({cause.verify_message}), something may intercept TLS"
        case ProxyError() | DecodeError():
            return str(cause)
        case ssl.SSLError():
            return f"TLS failed ({cause.reason})"
        case OSError(errno=int(code)) if code in errno.errorcode:
            return os.strerror(code).lower()
        case _:
            return str(cause or error) or type(error).__name__
