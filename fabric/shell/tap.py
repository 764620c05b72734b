"""The overlay device of this host: an Ethernet card whose cable ends in this process.

    opened --configure--> up, with its MAC, MTU and addresses --close--> gone, with its routes and neighbours

It is not persistent: whatever ends the process takes the device along. Its MAC follows from the certificate, so that
after a restart nobody holds a stale neighbour entry.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Interface, IPv6Interface

import trio
from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from fabric.dataplane.contract import Drop
from fabric.errors import ConfigurationError

Interface = IPv4Interface | IPv6Interface

BATCH = 64
"""Frames read in one wakeup: as many as keep the cost of waking small, few enough to keep the other side waiting
for a quarter of a millisecond only."""

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
# linux/sockios.h, linux/if_arp.h
_SIOCSIFHWADDR = 0x8924
_ARPHRD_ETHER = 1

_DEVICE = "/dev/net/tun"
_MAX_NAME_BYTES = 15
_REQUEST_BYTES = 40
_IFA_F_NODAD = 0x02
_EUI64 = 0
_READ_BYTES = 16_384
"""Holds jumbo frames; what is longer the kernel cuts. (A larger buffer costs time at every read.)"""


class Tap:
    """An open device; not readable before `configure` has set it up. Raises what `open_tap` raises."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.drops: Counter[Drop] = Counter()

    async def configure(self, mac: bytes, mtu: int, addresses: Sequence[Interface]) -> None:
        """Makes the device so, whatever it was before; raises `ConfigurationError` where the kernel refuses.

        To be called again with the same values when something else has changed the device.
        """
        await trio.to_thread.run_sync(_configure, self.name, mac, mtu, tuple(addresses))

    def read_batch(self) -> list[bytes]:
        """Returns the frames that wait, at most `BATCH`. Raises `OSError` where the device was deleted."""
        frames: list[bytes] = []
        fd, read = self.fd, os.read
        try:
            for _ in range(BATCH):
                frames.append(read(fd, _READ_BYTES))
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:  # the device is down
                raise
        return frames

    def write_batch(self, frames: Iterable[bytes]) -> None:
        """Hands frames to the kernel; what it refuses is counted."""
        fd, write = self.fd, os.write
        for frame in frames:
            try:
                write(fd, frame)
            except OSError as error:
                self.drops[_reason(error)] += 1

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_tap(name: str, mac: bytes) -> Tap:
    """Returns the new device `name` (with `%d` the kernel chooses a number), down as yet.

    The MAC is set at once: udev gives a device that still has a random one another, when it gets to it.
    Raises `ConfigurationError`.
    """
    if not 0 < len(name.encode()) <= _MAX_NAME_BYTES:
        raise ConfigurationError(f'device = "{name}": a name has 1 to {_MAX_NAME_BYTES} bytes')
    fd = -1
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack(f"16sH{_REQUEST_BYTES - 18}x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        given = fcntl.ioctl(fd, _TUNSETIFF, request)[:16].rstrip(b"\0")
        fcntl.ioctl(fd, _SIOCSIFHWADDR, struct.pack("16sH6s16x", given, _ARPHRD_ETHER, mac))
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise ConfigurationError(_trouble(name, error)) from error
    return Tap(fd, given.decode())


def _configure(name: str, mac: bytes, mtu: int, addresses: Sequence[Interface]) -> None:
    try:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, address=mac.hex(":"), mtu=mtu)
            _set_link_local_rule(netlink, index)
            netlink.link("set", index=index, state="up")
            for address in addresses:
                _add_address(netlink, index, address)
    except (NetlinkError, OSError, IndexError) as error:
        raise ConfigurationError(f"the device {name} can't be set up: {error}") from error


def _set_link_local_rule(netlink: IPRoute, index: int) -> None:
    """The link-local address must follow from the MAC, for that is what the peers' source guards let pass."""
    rule = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _EUI64)]})]}
    try:
        netlink.link("set", index=index, IFLA_AF_SPEC=rule)
    except NetlinkError as error:  # IPv6 is switched off
        if error.code not in (errno.EAFNOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _add_address(netlink: IPRoute, index: int, address: Interface) -> None:
    """No duplicate detection for IPv6: certificates are unique, and it would take a second at every start."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    more: dict[str, object] = {"IFA_FLAGS": _IFA_F_NODAD}
    if address.version == 4:
        more = {"broadcast": str(address.network.broadcast_address)}
    length = address.network.prefixlen
    try:
        netlink.addr("replace", index=index, family=family, address=str(address.ip), prefixlen=length, **more)
    except NetlinkError as error:
        if address.version == 4 or error.code not in (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise


def _reason(error: OSError) -> Drop:
    match error.errno:
        case errno.EAGAIN | errno.ENOBUFS | errno.ENOMEM:
            return Drop.BACKPRESSURE
        case errno.EINVAL:
            return Drop.MALFORMED
        case _:
            return Drop.NO_PATH


def _trouble(name: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            why = f"{_DEVICE} is missing: load the kernel module tun"
        case errno.EPERM | errno.EACCES:
            why = "not permitted: it takes CAP_NET_ADMIN"
        case errno.EBUSY:
            why = "another process has it: choose another name with device = "
        case _:
            why = str(error)
    return f"the device {name} can't be made: {why}"
