"""Takes from this process what a holder of keys has no use for: the network, core dumps, and those who would look in.

Under systemd the unit has taken most of it away already. What the kernel does not allow is left as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000


def confine(*, is_child: bool) -> None:
    """Leaves no core dump, no other process of the user that may read this one's memory, and, for a child, no network;
    a child also ends with its parent, and not by what a terminal or a service manager sends to both."""
    libc = ctypes.CDLL(None)
    if is_child:
        parent = os.getppid()
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _leave_network(libc)
    with contextlib.suppress(OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _leave_network(libc: ctypes.CDLL) -> None:
    """Enters a network namespace with nothing in it; without the privilege, by way of a user namespace."""
    if libc.unshare(_CLONE_NEWNET) == 0:
        return
    # Whether that works is known only when it is done, and half of it would leave a user who may open no file.
    probe = os.fork()
    if probe == 0:
        os._exit(0 if _enter_user_namespace(libc) else 1)
    _, status = os.waitpid(probe, 0)
    if status == 0:
        _enter_user_namespace(libc)


def _enter_user_namespace(libc: ctypes.CDLL) -> bool:
    """Maps the own user and group to themselves; returns whether all of it was allowed."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        return False
    return True
