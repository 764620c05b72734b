"""Open files: as many as the system lets this process have, and the last of them for what can't do without."""

from __future__ import annotations

import errno
import resource
from contextlib import suppress

RESERVE = 64
"""Left by what comes in hundreds (sockets to guess with, connections): for netlink, commands, names, the service."""

EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""Errors that pass as soon as somebody closes something."""


def allow_many_files() -> None:
    """Raises the limit to the hard one, where the system lets itself be asked."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def is_of_reserve(descriptor: int) -> bool:
    """The kernel hands out the lowest number that is free: one near the limit says that few are left."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit != resource.RLIM_INFINITY and descriptor >= limit - RESERVE
