"""The system calls for namespaces, mounts and devices that Python 3.11 does not have. All raise OSError."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

CLONE_NEWNET = 0x4000_0000
MS_BIND = 0x1000
MNT_DETACH = 0x2
SIOCETHTOOL = 0x8946
OFFLOADS = {"GRO": 0x2C, "GSO": 0x24, "TSO": 0x1F, "scatter-gather": 0x19, "transmit checksum": 0x17}
"""ETHTOOL_SGRO and so on, from linux/ethtool.h: those that stand on others first."""

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter_new_network() -> None:
    """Moves the calling thread alone into a fresh network namespace."""
    _check(_libc.unshare(CLONE_NEWNET), "unshare(CLONE_NEWNET)")


def enter_network(descriptor: int) -> None:
    """Moves the calling thread alone into the network namespace that `descriptor` is open on."""
    _check(_libc.setns(descriptor, CLONE_NEWNET), "setns(CLONE_NEWNET)")


def bind_mount(source: Path, target: Path) -> None:
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), b"none", MS_BIND, None), f"mount on {target}")


def mount_tmpfs(target: Path) -> None:
    _check(_libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", 0, b"mode=0755"), f"mount tmpfs on {target}")


def unmount(target: Path) -> None:
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def stop_offloads(device: str) -> None:
    """Switches off, for a device in the network namespace of the calling thread, what `OFFLOADS` names."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for command in OFFLOADS.values():
            setting = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            request = struct.pack("@16sP16x", device.encode(), ctypes.addressof(setting))
            fcntl.ioctl(any_socket, SIOCETHTOOL, request)
