"""What follows from an overlay IPv4 address: MAC and IPv6 address. One allocation, three addresses, no clash."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

from fabric.crypto.digest import blake2b_256

MAC_PREFIX = b"\x02\xfa"
"""Locally administered, unicast."""


def mac_of(ipv4: IPv4Address) -> bytes:
    """Returns `02:fa:` and the four bytes of the address."""
    return MAC_PREFIX + ipv4.packed


def ula_prefix(authority_fingerprint: bytes) -> IPv6Network:
    """Returns the network's /64 (RFC 4193): fd, a global id of 40 bits that only this authority has, subnet 0."""
    global_id = blake2b_256(b"fabric/1 ula", authority_fingerprint)[:5]
    return IPv6Network((b"\xfd" + global_id + bytes(10), 64))


def ipv6_of(prefix: IPv6Network, ipv4: IPv4Address) -> IPv6Address:
    """Returns the address in `prefix` (a /64 or shorter) that ends in the four bytes of `ipv4`."""
    return prefix[int(ipv4)]
