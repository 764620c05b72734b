"""All that ours is measured beside, in the order of the tables."""

from __future__ import annotations

from tests.bench.ethernet_tunnels import FASTD, N2N, OPENVPN, TINC
from tests.bench.ip_tunnels import NEBULA, WIREGUARD
from tests.bench.tunnels import BARE, NO_CIPHER, VXLAN, Tunnel

COMPETITORS = (BARE, VXLAN, WIREGUARD, NEBULA[0], FASTD, TINC, OPENVPN[0], N2N)
"""Each with its default or recommended cipher."""


def with_cipher(cipher: str) -> tuple[Tunnel, ...]:
    """Those that can be told to use this cipher, and those that have none."""
    return tuple(
        tunnel
        for tunnel in (BARE, VXLAN, WIREGUARD, *NEBULA, FASTD, TINC, *OPENVPN, N2N)
        if tunnel.cipher in (cipher, NO_CIPHER)
    )
