"""Hosts as others name them: the operator, the service, an enrolment key. What is none fails here."""

from __future__ import annotations

from fabric.errors import DecodeError

_MAX_PORT = 65_535


def split_host(text: str) -> tuple[str, int]:
    """Returns host and port of "host:port" or "[ipv6]:port". Raises `DecodeError`."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= _MAX_PORT):
        raise DecodeError(f'"{text}" is no address: write HOST:PORT')
    return check_host(host.strip("[]")), int(port)


def check_host(host: str) -> str:
    """Returns `host` if one could be called so, or it is an IP address. Raises `DecodeError`.

    Resolvers and TLS raise a `UnicodeError` or `ValueError` for the others, of whom the same is wrong each time.
    """
    try:
        is_good = bool(host) and host.isprintable() and not host.startswith(".") and bool(host.encode("idna"))
    except UnicodeError:
        is_good = False
    if not is_good:
        raise DecodeError(f'"{host[:255]}" is no name of a host')
    return host
