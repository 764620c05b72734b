"""The same two machines for every tunnel: a direct cable between them, and an internet for what needs a service.

    left ==== cable 10.90.0.0/24, MTU 1500 ==== right
      |                                           |
    router (port-restricted NAT)              router (port-restricted NAT)
      |                                           |
      +------------------ internet ---------------+---- discovery (public)

Every tunnel runs over the cable. Only fabric uses the rest: its service is out there, and its own path finding has to
choose the cable. Everything is made anew for each tunnel in each round and is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Interface
from pathlib import Path

from fabric.lab import Host, Lab, LabError, Nat, Program

DEVICE = "cable"
OUTER_MTU = 1500
LEFT = IPv4Interface("10.90.0.1/24")
RIGHT = IPv4Interface("10.90.0.2/24")
INNER_LEFT = IPv4Interface("10.91.0.1/24")
INNER_RIGHT = IPv4Interface("10.91.0.2/24")

UDP_SEGMENTATION = "tx-udp-segmentation"
TCP_SEGMENTATION = "tcp-segmentation-offload"
_LOSS = """
table inet lossy {{
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {device} numgen random mod 1000 < {per_mille} drop
    }}
}}
"""


class Cable:
    """Two hosts joined by a cable. `left` drives the load, `right` receives it."""

    def __init__(self, lab: Lab, *, segmentation: bool) -> None:
        self.lab = lab
        self.left = lab.site("west", Nat.PORT_RESTRICTED).host("left")
        self.right = lab.site("east", Nat.PORT_RESTRICTED).host("right")
        self.left.namespace.connect(DEVICE, self.right.namespace, DEVICE, mtu=OUTER_MTU)
        self.left.namespace.add_address(DEVICE, LEFT)
        self.right.namespace.add_address(DEVICE, RIGHT)
        if not segmentation:
            self._stop(UDP_SEGMENTATION)

    def _stop(self, *offloads: str) -> None:
        """Switches off, at both ends, what takes super-packets whole; LabError where the kernel goes on doing so."""
        for host in (self.left, self.right):
            for offload in offloads:
                host.run("ethtool", "-K", DEVICE, offload, "off").must()
            told = host.run("ethtool", "-k", DEVICE).must().output
            on = [offload for offload in offloads if f"{offload}: off" not in told]
            if on:
                raise LabError(f"the cable at {host.name} still does {', '.join(on)}")

    def lose(self, per_mille: int) -> None:
        """From now on each end loses so many of a thousand packets that come in, of whatever kind.

        What one rule meets is a packet as the device handed it over. So the cable takes no super-packets from now on:
        else one loss would be that of 64 KiB.
        """
        self._stop(TCP_SEGMENTATION, UDP_SEGMENTATION)
        for host in (self.left, self.right):
            host.namespace.add_rules(_LOSS.format(device=DEVICE, per_mille=per_mille))

    def ends(self) -> tuple[tuple[Host, IPv4Interface, IPv4Interface], tuple[Host, IPv4Interface, IPv4Interface]]:
        """(this host, its address on the cable, the other's), for both sides."""
        return (self.left, LEFT, RIGHT), (self.right, RIGHT, LEFT)

    def outer(self, host: Host) -> tuple[IPv4Interface, IPv4Interface]:
        """(the host's address on the cable, the other's)."""
        return (LEFT, RIGHT) if host is self.left else (RIGHT, LEFT)

    def start(self, host: Host, arguments: Sequence[str]) -> Program:
        """Starts a tunnel's program; its log is named after the host and the program."""
        return host.start(*arguments, log=f"{host.name}-{Path(arguments[0]).name}.log")


@contextmanager
def cable(*, segmentation: bool = True) -> Iterator[Cable]:
    """A fresh pair of machines. Without `segmentation` the cable does not take UDP super-datagrams whole, which is
    nearer to a real network card than a virtual cable is."""
    with Lab() as lab:
        yield Cable(lab, segmentation=segmentation)
