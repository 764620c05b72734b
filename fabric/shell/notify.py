"""sd_notify(3): tells the service manager how the daemon is, where there is one; elsewhere does nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import trio

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def notify(*states: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether somebody was told. Never raises: a daemon does not end for want of a listener."""
    path = environment.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto("\n".join(states).encode(), path.replace("@", "\0", 1) if path[0] == "@" else path)
        except OSError:
            return False
    return True


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Returns how often to send `WATCHDOG`: half of what is demanded; None where nobody watches this process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    watched = environment.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or int(microseconds) == 0 or watched != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000


async def keep_watchdog(environment: Mapping[str, str] = os.environ) -> None:
    """Sends signs of life from within the event loop: they stop when the loop does. Ends where nobody watches."""
    interval_s = watchdog_interval_s(environment)
    while interval_s is not None:
        notify(WATCHDOG, environment=environment)
        await trio.sleep(interval_s)
