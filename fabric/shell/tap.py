"""The overlay device of this host: an Ethernet card whose cable ends in this process.

    opened --configure--> up, with its MAC, MTU and addresses --close--> gone, with its routes and neighbours

Each frame that is read or written has a vnet header before it, and may be a super-frame (docs/dataplane.md).

It is not persistent: whatever ends the process takes the device along. Its MAC follows from the certificate, so that
after a restart nobody holds a stale neighbour entry.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Interface, IPv6Interface

import trio

from fabric.dataplane.contract import Drop
from fabric.dataplane.segment import segment
from fabric.errors import ConfigurationError, DecodeError
from fabric.shell import rtnetlink
from fabric.wire.record import MAX_FRAME_BYTES
from fabric.wire.vnet import GSO_NONE, NO_VNET, VNET_BYTES

Interface = IPv4Interface | IPv6Interface

BATCH = 64
BATCH_BYTES = 65_536
"""Frames read in one wakeup, and bytes after which no further one is read: as many as keep the cost of waking small,
few enough to keep the other side waiting for a quarter of a millisecond only."""

GSO_MAX_BYTES = 58_000
"""Of a super-frame from this host: sealed, in slices, it fits the 64,000 bytes that one send of UDP segments takes."""

TX_QUEUE_FRAMES = 1000
"""That wait in the kernel for this process to read them; the kernel's own default."""

OFFLOADS = (0x67, 0x07, 0)
"""What to ask of the kernel, best first: checksums 1, TCP over IPv4 2 and IPv6 4, UDP 0x20 and 0x40 (Linux 6.2)."""

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
# linux/sockios.h, linux/if_arp.h
_SIOCSIFHWADDR = 0x8924
_ARPHRD_ETHER = 1

_DEVICE = "/dev/net/tun"
_MAX_NAME_BYTES = 15
_REQUEST_BYTES = 40
_IFF_UP = 0x1
_IFA_F_NODAD = 0x02
_EUI64 = 0
_NO_GSO = bytes((GSO_NONE,))
_READ_BYTES = VNET_BYTES + MAX_FRAME_BYTES
"""What is longer the kernel cuts. (To read into a kept buffer of this length was measured: slower, for the copy.)"""


class Tap:
    """An open device; not readable before `configure` has set it up.

    `offloads` are those of `OFFLOADS` that the kernel has agreed to; `has_more` says that the last batch ended at a
    bound, and not because nothing was left.
    """

    def __init__(self, fd: int, name: str, offloads: int = 0) -> None:
        self.fd = fd
        self.name = name
        self.offloads = offloads
        self.has_more = False
        self.drops: Counter[Drop] = Counter()

    async def configure(self, mac: bytes, mtu: int, addresses: Sequence[Interface]) -> None:
        """Makes the device so, whatever it was before; raises `ConfigurationError` where the kernel refuses.

        To be called again with the same values when something else has changed the device.
        """
        await trio.to_thread.run_sync(_configure, self.name, mac, mtu, tuple(addresses))

    def read_batch(self) -> list[bytes]:
        """Returns the frames that wait, about `BATCH_BYTES`. Raises `OSError` where the device was deleted."""
        frames: list[bytes] = []
        fd, read, room = self.fd, os.read, BATCH_BYTES
        self.has_more = True
        try:
            while room > 0 and len(frames) < BATCH:
                frame = read(fd, _READ_BYTES)
                frames.append(frame)
                room -= len(frame)
        except BlockingIOError:
            self.has_more = False
        except OSError as error:
            self.has_more = False
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
                if not self._write_cut(frame, error):
                    self.drops[_reason(error)] += 1

    def _write_cut(self, frame: bytes, error: OSError) -> bool:
        """Writes a super-frame of a kind that the kernel doesn't know in plain frames; False where it is none.

        That is not remembered: a peer could make a super-frame that is refused for another reason, and the rest of
        a kind's would pay for it.
        """
        if error.errno != errno.EINVAL or frame[1:2] in (b"", _NO_GSO):
            return False
        try:
            plain = segment(frame[:VNET_BYTES], frame[VNET_BYTES:])
        except DecodeError:
            return False
        self.write_batch([NO_VNET + each for each in plain])
        return True

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
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        request = struct.pack(f"16sH{_REQUEST_BYTES - 18}x", name.encode(), flags)
        given = fcntl.ioctl(fd, _TUNSETIFF, request)[:16].rstrip(b"\0")
        fcntl.ioctl(fd, _SIOCSIFHWADDR, struct.pack("16sH6s16x", given, _ARPHRD_ETHER, mac))
        offloads = _agree_on_offloads(fd)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise ConfigurationError(_trouble(name, error)) from error
    return Tap(fd, given.decode(), offloads)


def _agree_on_offloads(fd: int) -> int:
    for offloads in OFFLOADS:
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return offloads
    return 0


def _configure(name: str, mac: bytes, mtu: int, addresses: Sequence[Interface]) -> None:
    try:
        with rtnetlink.open_netlink() as netlink:
            index = socket.if_nametoindex(name)
            rtnetlink.set_link(netlink, index, mac=mac, mtu=mtu)
            rtnetlink.set_link_number(netlink, index, rtnetlink.IFLA_TXQLEN, TX_QUEUE_FRAMES)
            _set_gso_limit(netlink, index)
            _set_link_local_rule(netlink, index)
            rtnetlink.set_link_flags(netlink, index, _IFF_UP)
            for address in addresses:
                _add_address(netlink, index, address)
    except OSError as error:
        raise ConfigurationError(f"the device {name} can't be set up: {error}") from error


def _set_gso_limit(netlink: socket.socket, index: int) -> None:
    """That for IPv4 follows, where the kernel has one of its own (Linux 6.3)."""
    with contextlib.suppress(OSError):  # before Linux 4.16 it can't be set: longer ones then leave in two sends
        rtnetlink.set_link_number(netlink, index, rtnetlink.IFLA_GSO_MAX_SIZE, GSO_MAX_BYTES)


def _set_link_local_rule(netlink: socket.socket, index: int) -> None:
    """The link-local address must follow from the MAC, for that is what the peers' source guards let pass."""
    try:
        rtnetlink.set_address_rule(netlink, index, _EUI64)
    except OSError as error:  # IPv6 is switched off
        if error.errno not in (errno.EAFNOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _add_address(netlink: socket.socket, index: int, address: Interface) -> None:
    """No duplicate detection for IPv6: certificates are unique, and it would take a second at every start."""
    packed, length = address.ip.packed, address.network.prefixlen
    try:
        if isinstance(address, IPv4Interface):
            rtnetlink.put_address(netlink, index, packed, length, broadcast=address.network.broadcast_address.packed)
        else:
            rtnetlink.put_address(netlink, index, packed, length, flags=_IFA_F_NODAD)
    except OSError as error:
        if address.version == 4 or error.errno not in (errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
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
