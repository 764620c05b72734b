"""Which addresses the service and its servers may name: each one host, never a group, a broadcast or nobody."""

from __future__ import annotations

import ipaddress

from fabric.core.reach import Network, is_one_host
from fabric.wire.address import Address

_HERE: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))


def is_askable(ip: str) -> bool:
    """Whether a server or a relay may be there; on this host, too."""
    return is_one_host(Address(ip, 1), _HERE)


def may_be_seen(ip: str, by: str) -> bool:
    """Whether a server at `by` may see this host under that IP, so that peers are told of it.

    The loopback and link-local addresses are seen from the same side only. Private ones are believed: the service may
    be on a private network, and peers are told of those of our own anyway. So are ports below 1024: no NAT gives them
    to our ports (RFC 4787 REQ-3), but the own port may be one.
    """
    seen, server = ipaddress.ip_address(ip), ipaddress.ip_address(by)
    if not is_one_host(Address(ip, 1), _HERE if server.is_loopback else ()):
        return False
    return server.is_link_local or not seen.is_link_local
