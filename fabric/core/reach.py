"""Which addresses a peer may name as its own, and what class of path leads to one."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from fabric.core.status import PathKind
from fabric.wire.address import Address, Transport

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)

FIRST_FREE_PORT = 1024
HTTPS_PORT = 443
"""Below, TCP ports are other services': a peer must not make us knock there. Whoever takes a low one for fabric takes
the one that firewalls let through, and a NAT gives high ports to high ports (RFC 4787 REQ-3b)."""

_CLASS_E = ipaddress.ip_network("240.0.0.0/4")
"""Not to be sent to, the limited broadcast 255.255.255.255 in it (RFC 1122 section 3.2.1.3)."""

_KINDS = {
    Transport.TCP: PathKind.DIRECT_TCP,
    Transport.RELAY_UDP: PathKind.RELAY_UDP,
    Transport.RELAY_TLS: PathKind.RELAY_TLS,
}

_RANKS = {
    PathKind.LAN: 0,
    PathKind.DIRECT_UDP: 2,
    PathKind.DIRECT_TCP: 3,
    PathKind.RELAY_UDP: 4,
    PathKind.RELAY_TLS: 5,
}
"""Classes of paths, best first (protocol.md section 8); IPv6 without NAT stands before IPv4."""

BEST_RANK = 0
IPV6_RANK = 1
DIRECT_UDP_RANK = 2
DIRECT_TCP_RANK = 3


def rank_of(kind: PathKind, address: Address) -> int:
    """Returns the class of a path, best first."""
    return IPV6_RANK if kind is PathKind.DIRECT_UDP and address.is_ipv6 else _RANKS[kind]


def is_relayed(address: Address) -> bool:
    return address.transport in (Transport.RELAY_UDP, Transport.RELAY_TLS)


def is_one_host(address: Address, networks: Sequence[Network]) -> bool:
    """Whether a peer may name this as its own: one host, and the loopback only where we are on it ourselves.

    `networks` are those of the own interfaces. A relay is never a peer's to name: it would aim us at a stranger.
    """
    ip = ipaddress.ip_address(address.ip)
    if is_relayed(address) or ip.is_unspecified or ip.is_multicast:
        return False
    if address.transport is Transport.TCP and address.port < FIRST_FREE_PORT and address.port != HTTPS_PORT:
        return False
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return False
    if isinstance(ip, ipaddress.IPv4Address) and ip in _CLASS_E:
        return False
    if ip.is_loopback and not any(ip in network for network in networks):
        return False
    return not any(
        ip == network.broadcast_address and network.version == 4 and network.prefixlen < 31 for network in networks
    )


def is_private(ip: str) -> bool:
    """Whether the address means something only in its own network (RFC 1918, RFC 6598, RFC 4193, link-local ones)."""
    address = ipaddress.ip_address(ip)
    return any(address in network for network in _PRIVATE)


def kind_of(address: Address, networks: Sequence[Network]) -> PathKind:
    """LAN is a private address on a network of our own: a public one on the same wire is as good as direct."""
    if address.transport is not Transport.UDP:
        return _KINDS[address.transport]
    on_link = any(ipaddress.ip_address(address.ip) in network for network in networks)
    return PathKind.LAN if on_link and is_private(address.ip) else PathKind.DIRECT_UDP
