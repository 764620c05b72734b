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

from fabric.lab import Host, Lab, Nat, Program

DEVICE = "cable"
OUTER_MTU = 1500
LEFT = IPv4Interface("10.90.0.1/24")
RIGHT = IPv4Interface("10.90.0.2/24")
INNER_LEFT = IPv4Interface("10.91.0.1/24")
INNER_RIGHT = IPv4Interface("10.91.0.2/24")


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
            for host in (self.left, self.right):
                host.run("ethtool", "-K", DEVICE, "tx-udp-segmentation", "off").must()

    def ends(self) -> tuple[tuple[Host, IPv4Interface, IPv4Interface], tuple[Host, IPv4Interface, IPv4Interface]]:
        """(this host, its address on the cable, the other's), for both sides."""
        return (self.left, LEFT, RIGHT), (self.right, RIGHT, LEFT)

    def start(self, host: Host, arguments: Sequence[str]) -> Program:
        """Starts a tunnel's program; its log is named after the host and the program."""
        return host.start(*arguments, log=f"{host.name}-{Path(arguments[0]).name}.log")


@contextmanager
def cable(*, segmentation: bool = True) -> Iterator[Cable]:
    """A fresh pair of machines. Without `segmentation` the cable does not take UDP super-datagrams whole, which is
    nearer to a real network card than a virtual cable is."""
    with Lab("bench") as lab:
        yield Cable(lab, segmentation=segmentation)
